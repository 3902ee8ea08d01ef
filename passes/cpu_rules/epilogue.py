"""The element-wise operators that were fused with a kernel's main block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.script import tirx as T
from tvm.tirx import BufferStore

from hios_tvm.passes.cpu_rules.loop_nest import Index, as_index
from hios_tvm.passes.tir_trees import nodes_of, with_values


@dataclass(frozen=True)
class Epilogue:
    """Computes an element of `output` from that of `source`, which the main block computes.

    Attributes
    ----------
    output : tirx.Var
        The buffer that the kernel writes.
    source : tirx.Var
        The buffer that the main block writes; `output` itself where nothing was fused.
    axes : tuple of tirx.Var
        The indices of the output element.
    value : tirx.Expr
        The output element in terms of `axes`, ``source[axes]`` and further inputs.
    """

    output: tirx.Var
    source: tirx.Var
    axes: tuple[tirx.Var, ...]
    value: tirx.Expr

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return tuple(int(extent) for extent in self.output.shape)

    @property
    def residuals(self) -> list[tirx.Var]:
        """Further inputs, of which each output reads the element at its own indices."""
        found: list[tirx.Var] = []
        for load in nodes_of(self.value, TensorLoad):
            is_known = any(load.source.same_as(buffer) for buffer in [self.source, *found])
            is_whole = _extents(load.source) == list(self.shape)
            if not is_known and is_whole and _same(load.indices, self.axes, self.shape):
                found.append(load.source)
        return found

    def store(self, indices: Sequence[Index], result: tirx.Expr) -> None:
        """Emit the store of the output at `indices`, where the source's element is `result`."""
        at = {axis: as_index(index) for axis, index in zip(self.axes, indices, strict=True)}

        def finish(load: TensorLoad) -> tirx.Expr:
            return result if load.source.same_as(self.source) else load

        value = tvm_ffi.structural_map(self.value, [(TensorLoad, finish)])
        T.buffer_store(self.output, with_values(value, at), list(indices))


def find_block(sch: s_tir.Schedule, annotation: str) -> s_tir.schedule.SBlockRV | None:
    """Return the only block with `annotation`, or None."""
    found = [
        block
        for block in sch.get_child_blocks(sch.get_sblock("root"))
        if annotation in sch.get(block).annotations
    ]
    return found[0] if len(found) == 1 else None


def image_buffer(sch: s_tir.Schedule, main: s_tir.schedule.SBlockRV) -> tirx.Var:
    """Return the buffer that `main` reads first, before padding."""
    padding = sch.get_producers(main)
    return sch.get(padding[0] if padding else main).reads[0].source


def fused_epilogue(sch: s_tir.Schedule, main: s_tir.schedule.SBlockRV) -> Epilogue | None:
    """Inline all blocks that `main` does not read into the last one, and return that.

    None if they are not element-wise in the result of `main`, or write a larger buffer: the loops
    of the rules go through the indices of that result.
    """
    operands = _transitive_producers(sch, main)
    main_block = sch.get(main)
    source = main_block.writes[0].source
    *inner, last = [
        block
        for block in sch.get_child_blocks(sch.get_sblock("root"))
        if sch.get(block).name_hint not in operands
    ]
    if sch.get(last).name_hint == main_block.name_hint:
        axes = tuple(it.var for it in main_block.iter_vars if it.iter_type == _SPATIAL)
        return Epilogue(source, source, axes, tirx.BufferLoad(source, list(axes)))
    for block in inner:
        if sch.get(block).name_hint == main_block.name_hint:
            continue
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            return None
    block = sch.get(last)
    axes = tuple(it.var for it in block.iter_vars)
    store = block.body
    if not isinstance(store, BufferStore) or not _same(store.indices, axes):
        return None
    if _extents(store.buffer) != _extents(source):
        return None
    if not _reads_only_at(store.value, source, axes):
        return None
    return Epilogue(store.buffer, source, axes, store.value)


def _transitive_producers(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> set[str]:
    names: set[str] = set()
    for producer in sch.get_producers(block):
        names |= {sch.get(producer).name_hint} | _transitive_producers(sch, producer)
    return names


_SPATIAL = tirx.IterVar.DataPar


def _reads_only_at(value: tirx.Expr, source: tirx.Var, axes: Sequence[tirx.Var]) -> bool:
    """Whether `value` reads `source` nowhere but at `axes`, and at least once."""
    loads = [load for load in nodes_of(value, TensorLoad) if load.source.same_as(source)]
    return bool(loads) and all(_same(load.indices, axes, source.shape) for load in loads)


def _extents(buffer: tirx.Var) -> list[int]:
    return [int(extent) for extent in buffer.shape]


def _same(
    indices: Sequence[tirx.Expr],
    axes: Sequence[tirx.Var],
    shape: Sequence[Index] | None = None,
) -> bool:
    """Whether `indices` are `axes`; along dimensions of extent one in `shape`, 0 is too."""
    if len(indices) != len(axes):
        return False
    extents = [0] * len(axes) if shape is None else [int(extent) for extent in shape]
    return all(
        index.same_as(axis) or (extent == 1 and isinstance(index, tirx.IntImm))
        for index, axis, extent in zip(indices, axes, extents, strict=True)
    )
