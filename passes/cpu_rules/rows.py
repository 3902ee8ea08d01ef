"""The rule for kernels that reduce rows: softmax, normalizations, means over the last axes.

All blocks of such a kernel have the same outer axes, the rows, and each computes either the
elements of a row or one value for it, such as its maximum or sum. Before, for softmax, every block
goes through the whole tensor:

    for b, n: maximum[b] = max(maximum[b], x[b, n])
    for b, n: power[b, n] = exp(x[b, n] - maximum[b])
    for b, n: total[b] += power[b, n]
    for b, n: y[b, n] = power[b, n] / total[b]

After, all blocks compute one row before the next, so that the row stays in the cache and
intermediate tensors have a single row:

    parallel for chunk of rows
        allocate maximum_row[1], power_row[N], total_row[1]
        for b in chunk
            partial[0:64] = -inf                     # four vectors of 16 lanes
            for step, u: partial[16u:16u+16] = max(partial[16u:16u+16], x[b, 64step+16u:+16])
            maximum_row[0] = the largest of partial  # by halves: 32 lanes, 16, 8, ..., 1
            for n in vectors: power_row[n] = exp(x[b, n] - maximum_row[0])
            ...
            for n in vectors: y[b, n] = power_row[n] / total_row[0]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.script import tirx as T
from tvm.tirx import BufferLoad

from hios_tvm.passes.cpu_rules.loop_nest import (
    Combiner,
    Index,
    allocate,
    as_index,
    coefficients_of,
    emitted,
    fold,
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
from hios_tvm.passes.tir_trees import with_values

_ACCUMULATORS = 4
"""Vectors of partial results of a reduction: enough to hide the latency of an addition."""

_CHUNK = 4096
"""Elements that an iteration of the parallel loop should cover at least."""

_PIECE = 1 << 14
"""Elements of a row that are reduced to one value, so that sums of long rows stay exact."""

_LARGEST_ROW = 1 << 16
"""Elements of a row of which something is computed; other rows may have any number."""


class Rows(ReductionRule):
    """Write out kernels that reduce the last axes of tensors."""

    def write(self, func: tirx.PrimFunc, blocks: Sequence[Block]) -> tirx.PrimFunc | None:
        rows = _rows(blocks)
        if rows is None:
            return None
        nest = _Nest(func, rows, blocks, self.lanes)
        is_mine = nest.keeps_to_its_row() and nest.is_contiguous()
        return rebuilt(func, emitted(nest.write)) if is_mine else None


def _rows(blocks: Sequence[Block]) -> tuple[int, ...] | None:
    """Return the extents of the first axes, which all blocks share; None if they differ.

    All further axes that a reduction keeps must have one element.
    """
    first = next(block for block in blocks if block.start is not None)
    rows = first.extents[: first.spatial]
    while rows and rows[-1] == 1:
        rows = rows[:-1]
    for block in blocks:
        if block.extents[: len(rows)] != rows or len(rows) > block.spatial:
            return None
        kept = block.extents[len(rows) : block.spatial]
        if block.start is not None and math.prod(kept) != 1:
            return None
        if block.start is None and math.prod(block.extents[len(rows) :]) > _LARGEST_ROW:
            return None
    return rows


@dataclass(frozen=True)
class _Nest:
    """The kernel to write: `blocks` whose first axes are the `rows`, of these extents."""

    func: tirx.PrimFunc
    rows: tuple[int, ...]
    blocks: Sequence[Block]
    lanes: int

    def keeps_to_its_row(self) -> bool:
        """Whether each access to an intermediate tensor is to the row that is being computed.

        A convolution, for one, reads the pixels of its padded image across rows.
        """
        return all(
            len(indices) >= len(self.rows)
            and all(
                index.same_as(axis) or (extent == 1 and isinstance(index, tirx.IntImm))
                for index, axis, extent in zip(indices, block.axes, self.rows, strict=False)
            )
            for block in self.blocks
            for buffer, indices in [(block.buffer, block.indices), *loads(block)]
            if self._is_intermediate(buffer)
        )

    def _is_intermediate(self, buffer: tirx.Var) -> bool:
        return not any(buffer.same_as(param) for param in self.func.params)

    def is_contiguous(self) -> bool:
        """Whether each access is contiguous along the last axis of a row, or to one element."""
        return all(self._is_contiguous(block) for block in self.blocks)

    def _is_contiguous(self, block: Block) -> bool:
        inner = [i for i in range(len(self.rows), len(block.axes)) if block.extents[i] > 1]
        if not inner:
            return True
        if block.start is not None and combined(block) is None:
            return False
        accesses = loads(block)
        if block.start is None:
            accesses.append((block.buffer, block.indices))
        places = [coefficients_of(buffer, indices, block.axes) for buffer, indices in accesses]
        return all(place is not None and place[inner[-1]] in (0, 1) for place in places)

    def write(self) -> None:
        """Emit the whole kernel."""
        count = math.prod(self.rows)
        work = sum(math.prod(block.extents) for block in self.blocks)
        chunk = min(count, max(1, -(-_CHUNK * len(self.blocks) * count // work)))
        for index in parallel("chunk", -(-count // chunk), work=work):
            first = index * chunk
            in_chunk = chunk if count % chunk == 0 else tirx.min(chunk, count - first)
            row_buffers = self._allocate_row_buffers()
            for row in serial("row", in_chunk):
                for block in self.blocks:
                    self._write_block(block, _Row(self._unflattened(first + row), row_buffers))

    def _allocate_row_buffers(self) -> dict[tirx.Var, tirx.Var]:
        """Allocate one row, flat, of each intermediate tensor ``(*rows, ...)``."""
        return {
            block.buffer: allocate(
                f"{block.buffer.name}_row",
                max(1, math.prod(map(int, block.buffer.shape[len(self.rows) :]))),
            )
            for block in self.blocks
            if self._is_intermediate(block.buffer)
        }

    def _unflattened(self, row: Index) -> list[Index]:
        """Return the indices along `rows` of the row with this number."""
        indices: list[Index] = []
        for extent in reversed(self.rows):
            indices.insert(0, row % extent if len(indices) + 1 < len(self.rows) else row)
            row = row // extent
        return indices

    def _write_block(self, block: Block, row: _Row) -> None:
        """Compute what a block computes of one row."""
        if block.start is not None:
            self._write_reduction(block, row)
            return
        extents = block.extents[len(self.rows) :]
        if not extents:
            row.store(block, [], block.value)
            return
        for outer in grid(extents[:-1]):
            for i in vectors("vector", 0, extents[-1], self.lanes):
                row.store(block, [*outer, i], block.value)

    def _write_reduction(self, block: Block, row: _Row) -> None:
        """Reduce the inner axes of a row to one value; a long axis in pieces."""
        assert block.start is not None
        kept: list[Index] = [0] * (block.spatial - len(self.rows))
        *others, last = [block.extents[i] for i in block.inner]
        pieces, rest = divmod(last, _PIECE)
        if pieces < 2:
            result = self._reduced(block, row, others, 0, last)
        else:
            result = allocate("pieces", pieces + bool(rest))
            is_only = math.prod(self.rows) == 1
            loop = parallel("piece", pieces, work=last) if is_only else serial("piece", pieces)
            for piece in loop:
                partial = self._reduced(block, row, others, piece * _PIECE, _PIECE)
                T.buffer_store(result, partial[as_index(0)], [as_index(piece)])
            if rest:
                partial = self._reduced(block, row, others, pieces * _PIECE, rest)
                T.buffer_store(result, partial[as_index(0)], [as_index(pieces)])
            combine, _ = self._reduction(block)
            for piece in serial("piece", pieces + bool(rest) - 1, start=1):
                both = combine(result[as_index(0)], result[as_index(piece)])
                T.buffer_store(result, both, [as_index(0)])
        row.store(block, [*kept, *([0] * len(block.inner))], result[as_index(0)])

    def _reduction(self, block: Block) -> tuple[Combiner, tirx.Expr]:
        reduction = combined(block)
        assert reduction is not None  # is_contiguous has looked
        return reduction

    def _reduced(
        self, block: Block, row: _Row, others: Sequence[int], start: Index, last: int
    ) -> tirx.Var:
        """Emit the reduction of `last` elements of the last axis from `start`, and of all others.

        Up to `_ACCUMULATORS` vectors of ``partial[vectors * lanes]`` take turns, so that an
        iteration need not wait for the result of the one before. The first element is the result.
        """
        combine, term = self._reduction(block)
        kept: list[Index] = [0] * (block.spatial - len(self.rows))
        lanes = self.lanes if last >= self.lanes else 1
        width = min(_ACCUMULATORS, last // lanes) * lanes
        partial = allocate("partial", width)

        def add(place: Index, inner: Sequence[Index]) -> None:
            value = row.placed(block, term, [*kept, *inner])
            T.buffer_store(partial, combine(partial[as_index(place)], value), [as_index(place)])

        for i in vectors("v", 0, width, lanes):
            T.buffer_store(partial, block.start, [i])
        steps, remainder = divmod(last, width)
        for outer in grid(others):
            for step in serial("step", steps) if steps else ():
                for offset in range(0, width, lanes):
                    for lane in vectors("v", 0, lanes, lanes):
                        add(lane + offset, [*outer, start + step * width + offset + lane])
            for i in vectors("v", 0, remainder, lanes):
                add(i % lanes, [*outer, start + steps * width + i])
        fold(partial, width, combine)
        return partial


@dataclass(frozen=True)
class _Row:
    """The row that is computed: its `indices` along the rows' axes.

    `buffers` has the flat ``[elements of a row]`` for each intermediate tensor ``(*rows, ...)``.
    """

    indices: Sequence[Index]
    buffers: Mapping[tirx.Var, tirx.Var]

    def store(self, block: Block, inner: Sequence[Index], value: tirx.Expr) -> None:
        """Store `value`, in terms of the block's axes, as the element at `inner` of the row."""
        placed = [self.placed(block, index, inner) for index in block.indices]
        value = self.placed(block, value, inner)
        if block.buffer in self.buffers:
            place = self._flat_index(block.buffer, placed)
            T.buffer_store(self.buffers[block.buffer], value, [place])
        else:
            T.buffer_store(block.buffer, value, placed)

    def placed(self, block: Block, expr: tirx.Expr, inner: Sequence[Index]) -> tirx.Expr:
        """Return `expr` at `inner` of the row; it reads the row's buffers of intermediates."""
        places = zip(block.axes, [*self.indices, *inner], strict=True)
        at = {axis: as_index(index) for axis, index in places}

        def load(access: TensorLoad) -> tirx.Expr:
            if access.source not in self.buffers:
                return access
            place = self._flat_index(access.source, access.indices)
            return BufferLoad(self.buffers[access.source], [place])

        moved = tvm_ffi.structural_map(expr, [(TensorLoad, load)])
        return with_values(moved, at)

    def _flat_index(self, buffer: tirx.Var, indices: Sequence[tirx.Expr]) -> tirx.Expr:
        """Return the place in the row's buffer of an element of the whole intermediate tensor."""
        place: Index = 0
        extents = [int(extent) for extent in buffer.shape]
        for extent, index in list(zip(extents, indices, strict=True))[len(self.indices) :]:
            place = place * extent + index
        return as_index(place)
