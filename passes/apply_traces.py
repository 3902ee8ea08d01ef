"""The pass that replaces kernels of the schedule rules by ones that a search has found."""

from __future__ import annotations

import json
from collections.abc import Mapping

import tvm
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.s_tir.schedule import Trace

from hios_tvm.errors import CostError

__all__ = ["ApplyTraces", "apply_trace", "schedulable_module"]


@tvm.transform.module_pass(opt_level=0, name="ApplyTraces")
class ApplyTraces:
    """Give kernels the loops of a trace.

    Parameters
    ----------
    kernels : IRModule
        The module before any rule has scheduled its kernels, with the same names.
    traces : mapping
        From names of kernels to MetaSchedule's traces as JSON; other kernels stay as they are.
    """

    def __init__(self, kernels: IRModule, traces: Mapping[str, str]) -> None:
        self.kernels = kernels
        self.traces = dict(traces)

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        mod = mod.clone()
        for name, trace in self.traces.items():
            attributes = dict(mod[name].attrs)
            mod[name] = apply_trace(self.kernels[name], trace).with_attr(attributes)
        return mod


def apply_trace(kernel: tirx.PrimFunc, trace: str) -> tirx.PrimFunc:
    """Return `kernel`, which no rule has scheduled, with the loops of `trace`.

    Raises
    ------
    CostError
        If it is no trace of this kernel: what keeps it is damaged.
    """
    sch = s_tir.Schedule(schedulable_module(kernel))
    try:
        Trace.apply_json_to_schedule(json.loads(trace), sch)
    except Exception as error:  # TVM raises what Python's types offer, by the place that fails
        raise CostError(f"a tuning record does not fit its kernel: {error}") from error
    simplified = tirx.transform.StmtSimplify()(IRModule({"main": sch.mod["main"]}))
    return kernel.with_body(simplified["main"].body)


def schedulable_module(kernel: tirx.PrimFunc) -> IRModule:
    """Return a module with `kernel` alone, under the name that traces know it by."""
    return IRModule({"main": kernel.with_attr({"global_symbol": "main", "tirx.noalias": True})})
