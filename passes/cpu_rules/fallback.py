"""The rule for kernels that no other rule knows: parallel outer loops, contiguous inner loops."""

from __future__ import annotations

from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.s_tir.dlight.analysis import SBlockInfo, normalize_prim_func

from hios_tvm.passes.cpu_rules.loop_nest import coefficients_of
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.passes.schedule_kernels import NO_RULE
from hios_tvm.passes.tir_trees import nodes_of


class Fallback(VectorRule):
    """Parallelise the spatial loops of each block, and let the compiler vectorise the innermost.

    A reduction whose last spatial axis is contiguous in memory has that axis innermost, so that
    neighbouring results are one vector. Kernels that cannot be analysed, such as ones with loops
    that depend on data, keep their loops.
    """

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        sch = s_tir.Schedule(func)
        for info in normalize_prim_func(sch) or ():
            _schedule_block(sch, info, self.lanes)
        return func.with_body(sch.mod["main"].body).with_attr(NO_RULE, True)


def _schedule_block(sch: s_tir.Schedule, info: SBlockInfo, lanes: int) -> None:
    kinds = info.dom_kind()
    loops = sch.get_loops(info.block_rv)
    spatial = len(kinds) - len(kinds.lstrip("S"))
    if not loops or len(loops) != len(kinds) or spatial == 0:
        return
    if info.is_injective():
        outer, inner = sch.split(sch.fuse(*loops), [None, lanes])
        sch.parallel(outer)
        sch.vectorize(inner)
        return
    reduced = loops[spatial:]
    is_plain = set(kinds[spatial:]) == {"R"}
    if spatial > 1 and is_plain and _is_contiguous(sch.get(info.block_rv), spatial - 1):
        sch.reorder(*reduced, loops[spatial - 1])
        sch.parallel(sch.fuse(*loops[: spatial - 1]))
        sch.decompose_reduction(info.block_rv, reduced[0])
    else:
        sch.parallel(sch.fuse(*loops[:spatial]))


def _is_contiguous(block: s_tir.SBlock, axis: int) -> bool:
    """Whether each access of `block` is contiguous along `axis`, or to one element."""
    if not isinstance(block.body, tirx.BufferStore) or block.init is None:
        return False
    axes = [it.var for it in block.iter_vars]
    loads = nodes_of(block.body.value, TensorLoad)
    accesses = [
        (block.body.buffer, block.body.indices),
        *((load.source, load.indices) for load in loads),
    ]
    strides = [coefficients_of(buffer, indices, axes) for buffer, indices in accesses]
    return all(stride is not None and stride[axis] in (0, 1) for stride in strides)
