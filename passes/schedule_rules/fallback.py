"""The rule for kernels that no other rule knows: parallel outer loops, vectorised inner loops."""

from __future__ import annotations

from tvm import s_tir, tirx
from tvm.s_tir.dlight.analysis import SBlockInfo, normalize_prim_func

__all__ = ["Fallback"]


class Fallback:
    """Parallelise leading spatial loops of each block and vectorise injective ones.

    A kernel that cannot be analysed, such as one with loops that depend on data, keeps its loops.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        sch = s_tir.Schedule(func)
        for info in normalize_prim_func(sch) or ():
            _schedule_block(sch, info, self.lanes)
        return func.with_body(sch.mod["main"].body)


def _schedule_block(sch: s_tir.Schedule, info: SBlockInfo, lanes: int) -> None:
    kinds = info.dom_kind()
    loops = sch.get_loops(info.block_rv)
    spatial = len(kinds) - len(kinds.lstrip("S"))
    if not loops or len(loops) != len(kinds) or spatial == 0:
        return
    if not info.is_injective():
        sch.parallel(sch.fuse(*loops[:spatial]))
        return
    outer, inner = sch.split(sch.fuse(*loops), [None, lanes])
    sch.parallel(outer)
    sch.vectorize(inner)
