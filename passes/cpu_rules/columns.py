"""The rule for kernels that reduce other axes than the last: softmax of channels, means of tokens.

As in the rule for rows, each block computes either all elements of a column or one value for it. A
column has an index along each axis that the reductions keep. Before, for softmax along the middle
axis, every block goes through the whole tensor:

    for b, c, k: maximum[b, c] = max(maximum[b, c], x[b, k, c])
    for b, k, c: power[b, k, c] = exp(x[b, k, c] - maximum[b, c])
    for b, c, k: total[b, c] += power[b, k, c]
    for b, k, c: y[b, k, c] = power[b, k, c] / total[b, c]

After, some vectors of neighbouring columns go through all blocks before the next, so that
intermediate tensors are those of some columns, and reductions stay in registers:

    parallel for b, for panel of 64 columns
        allocate maximum_panel[64], power_panel[K, 64], total_panel[64]
        sums[64] = -inf                                 # four vectors of 16 lanes
        for k: sums[64] = max(sums[64], x[b, k, panel])
        maximum_panel[64] = sums
        for k: power_panel[k, 64] = exp(x[b, k, panel] - maximum_panel[64])
        ...
        for k: y[b, k, panel] = power_panel[k, 64] / total_panel[64]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.script import tirx as T
from tvm.tirx import BufferLoad

from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS
from hios_tvm.passes.cpu_rules.loop_nest import (
    Combiner,
    Index,
    allocate,
    as_index,
    coefficients_of,
    emitted,
    grid,
    parallel,
    rebuilt,
    serial,
    vectors,
)
from hios_tvm.passes.cpu_rules.reduction_blocks import (
    Block,
    ReductionRule,
    combined,
    loads,
)
from hios_tvm.passes.tir_trees import nodes_of, with_values

_PANEL_VECTORS = 4
"""Vectors of columns that are computed together: enough to hide the latency of an addition."""

_LARGEST_COLUMN = 1 << 16
"""Elements of a column whose intermediate values are kept."""


class Columns(ReductionRule):
    """Write out kernels that reduce axes before the last one of tensors."""

    def write(self, func: tirx.PrimFunc, blocks: Sequence[Block]) -> tirx.PrimFunc | None:
        columns = _columns(func, blocks)
        if columns is None or not all(map(_is_mine, columns)):
            return None
        return rebuilt(func, emitted(_Nest(func, columns, self.lanes).write))


@dataclass(frozen=True)
class _ColumnBlock:
    """A block, and which of its axes tell columns apart.

    Attributes
    ----------
    block : Block
    kept : tuple of tirx.Var
        The axes that the reductions keep, which are in the same order for all blocks.
    """

    block: Block
    kept: tuple[tirx.Var, ...]

    @property
    def inner(self) -> list[tuple[tirx.Var, int]]:
        """The axes along a column, and their extents."""
        axes = zip(self.block.axes, self.block.extents, strict=True)
        return [(axis, extent) for axis, extent in axes if not _is_among(axis, self.kept)]

    @property
    def extents(self) -> list[int]:
        """The extents of the axes that are kept."""
        extents = dict(zip(self.block.axes, self.block.extents, strict=True))
        return [extents[axis] for axis in self.kept]


def _columns(func: tirx.PrimFunc, blocks: Sequence[Block]) -> list[_ColumnBlock] | None:
    """Return the blocks with the axes that all reductions keep; None if those differ.

    Which axis of one block is that of another is seen in the intermediate tensors: those that read
    a tensor have the same axes in its dimensions as the one that writes it.
    """
    first = next(block for block in blocks if block.start is not None)
    kept = [i for i in range(first.spatial) if first.extents[i] > 1]
    numbers = {first.axes[i]: number for number, i in enumerate(kept)}
    dimensions: dict[tuple[tirx.Var, int], int] = {}
    accesses = [access for block in blocks for access in _intermediates(func, block)]
    for _ in blocks:  # each round names the axes of one more block at least
        for buffer, indices in accesses:
            for i, index in enumerate(indices):
                if index in numbers:
                    dimensions.setdefault((buffer, i), numbers[index])
                elif isinstance(index, tirx.Var) and (buffer, i) in dimensions:
                    numbers[index] = dimensions[buffer, i]
    columns = []
    for block in blocks:
        axes = {numbers[axis]: axis for axis in block.axes if axis in numbers}
        if not kept or sorted(axes) != list(range(len(kept))):
            return None
        column = _ColumnBlock(block, tuple(axes[number] for number in range(len(kept))))
        if column.extents != [first.extents[i] for i in kept]:
            return None
        columns.append(column)
    is_own = all(_reads_its_column(func, column, dimensions) for column in columns)
    return columns if is_own else None


def _reads_its_column(
    func: tirx.PrimFunc, column: _ColumnBlock, dimensions: Mapping[tuple[tirx.Var, int], int]
) -> bool:
    """Whether a block reads and writes intermediate tensors in the column that it computes.

    `dimensions` has the number of the kept axis for each buffer and dimension that has one.
    """
    for buffer, indices in _intermediates(func, column.block):
        for i, index in enumerate(indices):
            if (buffer, i) in dimensions:
                if not index.same_as(column.kept[dimensions[buffer, i]]):
                    return False
            elif any(_is_among(var, column.kept) for var in nodes_of(index, tirx.Var)):
                return False
    return True


def _intermediates(
    func: tirx.PrimFunc, block: Block
) -> list[tuple[tirx.Var, tuple[tirx.Expr, ...]]]:
    """Return the intermediate tensors that a block reads and writes, and where."""
    accesses = [(block.buffer, block.indices), *loads(block)]
    return [access for access in accesses if not _is_among(access[0], func.params)]


def _is_mine(column: _ColumnBlock) -> bool:
    """Whether neighbouring columns are neighbours in memory, and a reduction is a usual one."""
    block = column.block
    if block.start is not None:
        kept = [i for i in range(block.spatial) if block.extents[i] > 1]
        if combined(block) is None or len(kept) != len(column.kept):
            return False
    elif math.prod(extent for _, extent in column.inner) > _LARGEST_COLUMN:
        return False
    last = next(i for i, axis in enumerate(block.axes) if axis.same_as(column.kept[-1]))
    accesses = [(block.buffer, block.indices), *loads(block)]
    places = [coefficients_of(buffer, indices, block.axes) for buffer, indices in accesses]
    return all(place is not None and place[last] in (0, 1) for place in places)


def _is_among(value: tirx.Expr, others: Iterable[tirx.Expr]) -> bool:
    return any(value.same_as(other) for other in others)


@dataclass(frozen=True)
class _Nest:
    """The kernel to write."""

    func: tirx.PrimFunc
    columns: list[_ColumnBlock]
    lanes: int

    def write(self) -> None:
        """Emit the whole kernel."""
        *outer, last = self.columns[0].extents
        work = sum(math.prod(column.block.extents) for column in self.columns)
        width = min(last, _PANEL_VECTORS * self.lanes)
        full, rest = divmod(last, width)
        panels = full + bool(rest)
        for task in parallel("task", math.prod(outer) * panels, work=work):
            panel, number = task % panels, task // panels
            at: list[Index] = []
            for i, extent in reversed(list(enumerate(outer))):
                at.insert(0, number % extent if i else number)
                number = number // extent
            if rest:
                with T.If(panel == full):
                    with T.Then():
                        self._write_panel(at, full * width, rest)
                    with T.Else():
                        self._write_panel(at, panel * width, width)
            else:
                self._write_panel(at, panel * width, width)

    def _write_panel(self, at: Sequence[Index], first: Index, width: int) -> None:
        """Compute `width` neighbouring columns; the other kept axes are `at` these indices."""
        buffers: dict[tirx.Var, tirx.Var] = {}
        for column in self.columns:
            if not _is_among(column.block.buffer, self.func.params):
                size = math.prod(extent for _, extent in self._stored(column))
                name = f"{column.block.buffer.name}_panel"
                buffers[column.block.buffer] = allocate(name, size * width)
        for column in self.columns:
            panel = _Panel(column, at, first, width, self.lanes, buffers)
            if column.block.start is None:
                panel.write_elements()
            else:
                panel.write_reduction()

    def _stored(self, column: _ColumnBlock) -> list[tuple[tirx.Var, int]]:
        spatial = column.block.axes[: column.block.spatial]
        return [(axis, extent) for axis, extent in column.inner if _is_among(axis, spatial)]


@dataclass(frozen=True)
class _Panel:
    """What a block computes of some neighbouring columns.

    Attributes
    ----------
    column : _ColumnBlock
    at : sequence of int or tirx.Expr
        The indices along all axes that are kept but the last.
    first, width : int or tirx.Expr, int
        The first of the columns, and how many they are.
    lanes : int
        Elements per vector.
    buffers : mapping
        The flat ``(elements of a column, width)`` for each intermediate tensor.
    """

    column: _ColumnBlock
    at: Sequence[Index]
    first: Index
    width: int
    lanes: int
    buffers: Mapping[tirx.Var, tirx.Var]

    def write_elements(self) -> None:
        """Emit the loops of a block that does not reduce."""
        for inner in grid([extent for _, extent in self.column.inner]):
            for i in vectors("column", 0, self.width, self.lanes):
                self._store(inner, i, self._placed(self.column.block.value, inner, i))

    def write_reduction(self) -> None:
        """Emit a reduction; a long axis in pieces, so that its sums stay exact."""
        extents = [extent for _, extent in self.column.inner]
        totals = self._started("totals")
        if math.prod(extents) <= MOST_TERMS:
            for inner in grid(extents):
                self._add(totals, inner)
        else:
            *others, last = extents
            for outer in grid(others):
                for piece in serial("piece", -(-last // MOST_TERMS)):
                    start = piece * MOST_TERMS
                    count = tirx.min(as_index(MOST_TERMS), as_index(last - start))
                    sums = self._started("sums")
                    for k in serial("k", count, start=start):
                        self._add(sums, [*outer, k])
                    for total, vector in zip(totals, sums, strict=True):
                        for lane in self._lanes_of(total):
                            self._combine(total, lane, vector[as_index(lane)])
        none = [0] * len(extents)
        for start, total in zip(range(0, self.width, self.lanes), totals, strict=True):
            for lane in self._lanes_of(total):
                self._store(none, start + lane, total[as_index(lane)])

    def _started(self, name: str) -> list[tirx.Var]:
        """Emit the start of a reduction: a buffer for each vector of columns."""
        starts = range(0, self.width, self.lanes)
        result = [allocate(f"{name}{i}", min(self.lanes, self.width - i)) for i in starts]
        for buffer in result:
            for lane in self._lanes_of(buffer):
                T.buffer_store(buffer, self.column.block.start, [as_index(lane)])
        return result

    def _add(self, sums: Sequence[tirx.Var], inner: Sequence[Index]) -> None:
        """Combine `sums` with the terms at `inner` of the columns."""
        _, term = self._reduction
        for start, vector in zip(range(0, self.width, self.lanes), sums, strict=True):
            for lane in self._lanes_of(vector):
                self._combine(vector, lane, self._placed(term, inner, start + lane))

    def _combine(self, vector: tirx.Var, lane: Index, value: tirx.Expr) -> None:
        combine, _ = self._reduction
        place = as_index(lane)
        T.buffer_store(vector, combine(vector[place], value), [place])

    @property
    def _reduction(self) -> tuple[Combiner, tirx.Expr]:
        reduction = combined(self.column.block)
        assert reduction is not None  # _is_mine has looked
        return reduction

    def _lanes_of(self, vector: tirx.Var) -> Iterator[Index]:
        length = int(vector.shape[0])
        return vectors("v", 0, length, length)

    def _store(self, inner: Sequence[Index], i: Index, value: tirx.Expr) -> None:
        """Store an element of column `i` of the panel."""
        block = self.column.block
        if block.buffer in self.buffers:
            place = self._place(block.buffer, block.indices, inner, i)
            T.buffer_store(self.buffers[block.buffer], value, [place])
        else:
            indices = [self._placed(index, inner, i) for index in block.indices]
            T.buffer_store(block.buffer, value, indices)

    def _placed(self, value: tirx.Expr, inner: Sequence[Index], i: Index) -> tirx.Expr:
        """Return `value`, in terms of the block's axes, for column `i` of the panel."""

        def load(access: TensorLoad) -> tirx.Expr:
            if access.source not in self.buffers:
                return access
            place = self._place(access.source, access.indices, inner, i)
            return BufferLoad(self.buffers[access.source], [place])

        moved = tvm_ffi.structural_map(value, [(TensorLoad, load)])
        return with_values(moved, self._indices(inner, i))

    def _place(
        self,
        buffer: tirx.Var,
        indices: Sequence[tirx.Expr],
        inner: Sequence[Index],
        i: Index,
    ) -> tirx.Expr:
        """Return the place of an element of an intermediate tensor in the panel's buffer."""
        place: Index = 0
        for extent, index in zip(buffer.shape, indices, strict=True):
            if not _is_among(index, self.column.kept):
                place = place * int(extent) + with_values(index, self._indices(inner, i))
        return as_index(place * self.width + i)

    def _indices(self, inner: Sequence[Index], i: Index) -> dict[tirx.Var, tirx.Expr]:
        """Return the values of the block's axes."""
        axes = [*(axis for axis, _ in self.column.inner), *self.column.kept]
        values = [*inner, *self.at, self.first + i]
        return dict(zip(axes, map(as_index, values), strict=True))
