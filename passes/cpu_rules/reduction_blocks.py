"""The blocks of a kernel that reduces, as the rules of reductions read them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.tirx import BufferStore

from hios_tvm.passes.cpu_rules.loop_nest import Combiner
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.passes.tir_trees import nodes_of

_COMBINERS = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)


@dataclass(frozen=True)
class Block:
    """``buffer[indices] = value`` for all values of `axes`.

    It is a reduction, whose `value` reads ``buffer[indices]``, where `start` is given. The first
    `spatial` axes are those of the buffer, the others are reduced.
    """

    buffer: tirx.Var
    indices: tuple[tirx.Expr, ...]
    value: tirx.Expr
    start: tirx.Expr | None
    axes: tuple[tirx.Var, ...]
    extents: tuple[int, ...]
    spatial: int

    @property
    def inner(self) -> range:
        """The axes that are reduced."""
        return range(self.spatial, len(self.axes))


def without_conditions(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return `func` with conditions, such as whether a value is NaN, where they are needed.

    Where it quantizes, so are the steps of it, and all else that a single block reads.
    """
    sch = s_tir.Schedule(func)
    params = list(func.params)
    handles = sch.get_child_blocks(sch.get_sblock("root"))
    quantizes = any(
        str(region.source.ty.dtype) == "uint8"
        for handle in handles
        for region in sch.get(handle).writes
    )
    for handle in handles:
        block = sch.get(handle)
        written = [region.source for region in block.writes]
        is_result = any(buffer.same_as(param) for buffer in written for param in params)
        is_condition = written and all(str(buffer.ty.dtype) == "bool" for buffer in written)
        is_step = quantizes and len(sch.get_consumers(handle)) == 1
        if (is_condition or is_step) and block.init is None and not is_result:
            sch.compute_inline(handle)
    return func.with_body(sch.mod["main"].body)


def reduction_blocks(func: tirx.PrimFunc) -> list[Block] | None:
    """Return the blocks in order; None if one has another form, or none reduces."""
    sch = s_tir.Schedule(func)
    blocks = []
    for handle in sch.get_child_blocks(sch.get_sblock("root")):
        block = sch.get(handle)
        kinds = [it.iter_type for it in block.iter_vars]
        spatial = sum(kind == tirx.IterVar.DataPar for kind in kinds)
        reduced = kinds[spatial:]
        if any(kind != tirx.IterVar.CommReduce for kind in reduced):
            return None
        if not isinstance(block.body, BufferStore) or (block.init is not None) != bool(reduced):
            return None
        if reduced and not isinstance(block.init, BufferStore):
            return None
        buffer = block.body.buffer
        is_result = any(buffer.same_as(param) for param in func.params)
        is_quantized = is_result and not reduced and str(buffer.ty.dtype) == "uint8"
        if str(buffer.ty.dtype) != "float32" and not is_quantized:
            return None
        blocks.append(
            Block(
                block.body.buffer,
                tuple(block.body.indices),
                block.body.value,
                block.init.value if reduced else None,
                tuple(it.var for it in block.iter_vars),
                tuple(int(it.dom.extent) for it in block.iter_vars),
                spatial,
            )
        )
    return blocks if any(block.start is not None for block in blocks) else None


def loads(block: Block) -> list[tuple[tirx.Var, tuple[tirx.Expr, ...]]]:
    """Return the buffers that a block reads, and where."""
    return [(load.source, tuple(load.indices)) for load in nodes_of(block.value, TensorLoad)]


def combined(block: Block) -> tuple[Combiner, tirx.Expr] | None:
    """Return how a reduction combines, and its term; None for any but the usual ones."""
    value = block.value
    if not isinstance(value, _COMBINERS) or not isinstance(value.a, TensorLoad):
        return None
    if not value.a.source.same_as(block.buffer):
        return None
    return type(value), value.b


class ReductionRule(VectorRule):
    """A rule for kernels in which at least one block reduces something."""

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        func = without_conditions(func)
        blocks = reduction_blocks(func)
        return None if blocks is None else self.write(func, blocks)

    @abstractmethod
    def write(self, func: tirx.PrimFunc, blocks: Sequence[Block]) -> tirx.PrimFunc | None:
        """Return `func`, which consists of `blocks`, with its loops, or None if it is not mine."""
