"""TVM's own rules for GPUs (dlight), for what has no rule of its own here."""

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import dlight


class TvmRules:
    """The first of dlight's rules that takes a kernel: products, reductions, element-wise ones."""

    def __init__(self, target: tvm.target.Target) -> None:
        self.target = target
        self.rules = (
            dlight.gpu.Matmul(),
            dlight.gpu.GEMV(),
            dlight.gpu.Reduction(),
            dlight.gpu.GeneralReduction(),
            dlight.gpu.Transpose(),
            dlight.gpu.Fallback(),
        )

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        for rule in self.rules:
            try:
                scheduled = rule.apply(func, self.target, False)
            except (AssertionError, RuntimeError, ValueError):
                continue  # of TVM 0.27; Transpose, for one, does where an extent is 1
            if isinstance(scheduled, s_tir.Schedule):
                return func.with_body(scheduled.mod["main"].body)
        return None
