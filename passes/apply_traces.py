"""Kernels that a search has found, in place of those of the schedule rules."""

import json
from collections.abc import Mapping

from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.s_tir.schedule import Trace

from hios_tvm.errors import CostError


def apply_traces(mod: IRModule, kernels: IRModule, traces: Mapping[str, str]) -> IRModule:
    """Return `mod`, whose kernels the rules have scheduled, with the loops of `traces` instead.

    A function and no pass of TVM, which would hide the kind of an error.

    Parameters
    ----------
    kernels : IRModule
        The module before any rule has scheduled its kernels, with the same names.
    traces : mapping
        From names of kernels to MetaSchedule's traces as JSON; other kernels stay as they are.

    Raises
    ------
    CostError
        As `apply_trace`.
    """
    mod = mod.clone()
    for name, trace in traces.items():
        attributes = dict(mod[name].attrs)
        mod[name] = apply_trace(kernels[name], trace).with_attr(attributes)
    return mod


def apply_trace(kernel: tirx.PrimFunc, trace: str) -> tirx.PrimFunc:
    """Return `kernel`, which no rule has scheduled, with the loops of `trace`.

    Raises
    ------
    CostError
        If it is no trace of this kernel: what keeps it is damaged.
    """
    module = schedulable_module(kernel)  # alive, or the schedule changes `kernel` in place
    sch = s_tir.Schedule(module)
    try:
        Trace.apply_json_to_schedule(json.loads(trace), sch)
    except Exception as error:  # TVM raises what Python's types offer, by the place that fails
        raise CostError(f"a tuning record does not fit its kernel: {error}") from error
    simplified = tirx.transform.StmtSimplify()(IRModule({"main": sch.mod["main"]}))
    return kernel.with_body(simplified["main"].body)


def schedulable_module(kernel: tirx.PrimFunc) -> IRModule:
    """Return a module with `kernel` alone, under the name that traces know it by."""
    return IRModule({"main": kernel.with_attr({"global_symbol": "main", "tirx.noalias": True})})
