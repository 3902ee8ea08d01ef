"""The pass that gives every kernel its loops for a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import tvm
from tvm import s_tir, tirx
from tvm.ir import IRModule

__all__ = ["ScheduleKernels", "ScheduleRule", "has_root_block"]

_OPAQUE = 8  # TVM's kOpaque: later passes must not fuse a kernel that is scheduled


class ScheduleRule(Protocol):
    """What knows how to write a kind of kernels."""

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        """Return `func` with other loops and the same results, or None if it is not mine."""


def has_root_block(func: tirx.PrimFunc) -> bool:
    """Whether `func` is made of blocks that can be scheduled; sorts and scans of TVM are not."""
    body = func.body
    return isinstance(body, s_tir.SBlockRealize) and str(body.block.name_hint) == "root"


@tvm.transform.module_pass(opt_level=0, name="ScheduleKernels")
class ScheduleKernels:
    """Apply to each kernel the first rule that takes it; what none takes stays as it is."""

    def __init__(self, rules: Sequence[ScheduleRule]) -> None:
        self.rules = tuple(rules)

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        kernels = {}
        for var, func in mod.functions_items():
            if not isinstance(func, tirx.PrimFunc):
                continue
            rules = self.rules if has_root_block(func) else ()
            scheduled = (rule.apply(func) for rule in rules)
            kernel = next((result for result in scheduled if result is not None), func)
            kernels[var] = kernel.with_attr({"tirx.is_scheduled": True, "op_pattern": _OPAQUE})
        mod = mod.clone()
        for var, kernel in kernels.items():
            mod[var] = kernel
        return mod
