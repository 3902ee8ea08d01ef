"""The rule for attention: two products with a softmax between them, whose scores stay in the cache.

Before, for each matrix of a batch, all blocks go through the whole matrix of scores (their formulas
are those of `hios_tvm.passes.cpu_rules.attention_blocks`):

    for m, n, k: product[m, n] += query[m, k] * key[k, n]
    for m, n: score[m, n] = product[m, n] * 0.125 + mask[n]
    for m, n: maximum[m] = max(maximum[m], score[m, n])
    ...
    for m, k, n: output[m, k] += weight[m, n] * value[n, k]

After, a task is some rows of a matrix, and a block so many rows that their scores fit the cache:

    parallel for (matrix, chunk of rows)
        keys[panel of columns, inner, column], values[keys, columns]      # packed
        for block of rows
            queries[rows, inner]                                          # packed
            for panel, for tile of rows: scores[rows, panel] = score(queries * keys)
            for row: scores[row] = exp(scores[row] - max(scores[row])); factors[row] = 1 / sum
            for columns, for tile of rows: output = scores * values * factors

Products are computed in register tiles, as in `hios_tvm.passes.cpu_rules.product`. Rows of scores
are filled up to whole vectors with minus infinity, whose exponential is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.script import tirx as T
from tvm.tirx import BufferLoad, Ramp

from hios_tvm.passes.cpu_rules.attention_blocks import (
    AttentionParts,
    Formula,
    attention_parts,
    larger,
    with_element,
)
from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS, BlockedSums
from hios_tvm.passes.cpu_rules.loop_nest import (
    FEW_TASKS,
    Combiner,
    Index,
    allocate,
    as_index,
    broadcast,
    coefficients_of,
    emitted,
    fold,
    parallel,
    rebuilt,
    serial,
    vector_index,
    vectors,
    when,
)
from hios_tvm.passes.cpu_rules.register_tile import RegisterTile, choose_tiles
from hios_tvm.passes.cpu_rules.transposed_tile import transposed
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.passes.tir_trees import nodes_of
from hios_tvm.passes.vector_math import power_of_softmax

_BLOCK_BYTES = 128 * 1024
"""Of the scores of a block of rows, which stay in the second-level cache."""

_CHUNK_ROWS = 256
"""Rows of a task at least, for which keys and values are packed."""

_ACCUMULATORS = 4
"""Vectors of partial maxima and sums of a row."""


class Attention(VectorRule):
    """Write out kernels of attention."""

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        parts = attention_parts(func)
        if parts is None:
            return None
        products = [(parts.keys, parts.inner), (parts.columns, parts.keys)]
        tiles = choose_tiles(parts.rows, products, lanes=self.lanes, registers=self.registers)
        return rebuilt(func, emitted(_Nest(parts, *tiles).write))


@dataclass(frozen=True)
class _Nest:
    """The kernel to write.

    Attributes
    ----------
    parts : AttentionParts
        What it computes.
    tile : RegisterTile
        That of the first product: rows (`pixels`) times a panel of keys (`block`).
    value_tile : RegisterTile
        That of the second product: as many rows times some columns.
    """

    parts: AttentionParts
    tile: RegisterTile
    value_tile: RegisterTile

    @property
    def stride(self) -> int:
        """Elements of a row of scores: the keys, filled up to whole vectors."""
        return -(-self.parts.keys // self.tile.lanes) * self.tile.lanes

    def write(self) -> None:
        """Emit the whole kernel."""
        parts, rows = self.parts, self.tile.pixels
        tiles, rest = divmod(parts.rows, rows)
        # Each chunk packs all keys and values again: no more than keep all cores busy
        needed = -(-FEW_TASKS // parts.matrices)
        per_chunk = -(-tiles // max(1, min(needed, parts.rows // _CHUNK_ROWS)))
        chunks = -(-tiles // per_chunk)
        per_block = max(1, min(per_chunk, _BLOCK_BYTES // (4 * rows * self.stride)))
        for task in parallel("task", parts.matrices * chunks, work=parts.work):
            matrix, chunk = task // chunks, task % chunks
            block = _Block(self, matrix, *self._packed(matrix), *self._row_buffers(per_block))
            for i in serial("block", -(-per_chunk // per_block)):
                first = chunk * per_chunk + i * per_block
                count: Index = per_block
                if tiles % per_chunk or per_chunk % per_block:
                    end = tirx.min(as_index((chunk + 1) * per_chunk), as_index(tiles))
                    count = tirx.min(as_index(per_block), end - first)
                block.write(first * rows, rows, count)
            if rest:
                with when(chunks == 1 or chunk == chunks - 1):
                    block.write(tiles * rows, rest, 1)

    def _row_buffers(self, tiles: int) -> tuple[tirx.Var, tirx.Var, tirx.Var]:
        """Allocate queries, scores, and factors of the rows of a block of so many tiles."""
        rows = tiles * self.tile.pixels
        return (
            allocate("queries", rows * self.parts.inner),
            allocate("scores", rows * self.stride),
            allocate("factors", rows),
        )

    def panels(self) -> Iterator[tuple[Index, int, int]]:
        """Yield the first key of each panel, the keys that it has, and its width in memory."""
        full = self.parts.keys // self.tile.lanes // self.tile.vectors
        block = self.tile.block
        if full:
            for panel in serial("panel", full):
                yield panel * block, block, block
        if full * block < self.parts.keys:
            yield full * block, self.parts.keys - full * block, self.stride - full * block

    def _packed(self, matrix: Index) -> tuple[tirx.Var, tirx.Var]:
        """Emit copies of the keys, ``(inner, width)`` for each panel, and of the values."""
        parts, lanes = self.parts, self.tile.lanes
        keys = allocate("keys", parts.inner * self.stride)
        values = allocate("values", parts.keys * parts.columns)
        for first, count, width in self.panels():
            self._pack_panel(keys, matrix, first, count, width)
        for n in serial("n", parts.keys):
            for i in vectors("v", 0, parts.columns, lanes):
                value = parts.value.element(matrix, n, i)
                T.buffer_store(values, value, [n * parts.columns + i])
        return keys, values

    def _pack_panel(
        self, keys: tirx.Var, matrix: Index, first: Index, count: int, width: int
    ) -> None:
        """Emit the copy of `count` keys from `first`, and zeros up to the panel's `width`."""
        parts, lanes = self.parts, self.tile.lanes
        start = first * parts.inner

        def copy(k: Index, i: Index) -> None:
            key = parts.key.element(matrix, k, first + i)
            T.buffer_store(keys, key, [as_index(start + k * width + i)])

        if _is_contiguous(parts.key, -1):
            for k in serial("k", parts.inner):
                for i in vectors("v", 0, count, lanes):
                    copy(k, i)
        else:
            squares = parts.inner // lanes
            for i in serial("i", count // lanes) if count >= lanes else ():
                for k in serial("k", squares) if squares else ():
                    self._pack_square(keys, matrix, k * lanes, first, i * lanes, width)
                for k in range(squares * lanes, parts.inner):
                    for j in serial("j", lanes, start=i * lanes):
                        copy(k, j)
            for k in serial("k", parts.inner):
                for i in range(count // lanes * lanes, count):
                    copy(k, i)
        for k in serial("k", parts.inner) if count < width else ():
            for i in vectors("v", count, width - count, lanes):
                T.buffer_store(keys, tirx.const(0.0, "float32"), [as_index(start + k * width + i)])

    def _pack_square(
        self, keys: tirx.Var, matrix: Index, k: Index, first: Index, i: Index, width: int
    ) -> None:
        """Emit the copy of a square of elements of keys, which lie side by side for each key."""
        lanes = self.tile.lanes
        rows = [allocate(f"key{j}", lanes) for j in range(lanes)]
        for j, row in enumerate(rows):
            for lane in vectors("v", 0, lanes, lanes):
                key = self.parts.key.element(matrix, k + lane, first + i + j)
                T.buffer_store(row, key, [lane])
        for j, row in enumerate(transposed(rows)):
            place = first * self.parts.inner + (k + j) * width + i
            vector = BufferLoad(row, [Ramp(0, 1, lanes)])
            T.buffer_store(keys, vector, [vector_index(place, lanes)])


@dataclass(frozen=True)
class _Block:
    """A block of rows of a matrix.

    Attributes
    ----------
    nest : _Nest
        The kernel.
    matrix : int or tirx.Expr
        The number of the matrix.
    keys, values : tirx.Var
        Flat ``(inner, width)`` of each panel of keys, and ``(keys, columns)``.
    queries, scores, factors : tirx.Var
        Flat ``(rows, inner)`` and ``(rows, stride)``, and what a row of the result is multiplied
        by: each for the rows of the block.
    """

    nest: _Nest
    matrix: Index
    keys: tirx.Var
    values: tirx.Var
    queries: tirx.Var
    scores: tirx.Var
    factors: tirx.Var

    def write(self, first: Index, rows: int, tiles: Index) -> None:
        """Compute so many `tiles` of `rows` rows, of which one is `first`."""
        parts, lanes = self.nest.parts, self.nest.tile.lanes
        for row in serial("row", tiles * rows):
            for k in vectors("v", 0, parts.inner, lanes):
                query = parts.query.element(self.matrix, first + row, k)
                T.buffer_store(self.queries, query, [as_index(row * parts.inner + k)])
        for key, count, width in self.nest.panels():
            for tile in serial("tile", tiles):
                self._write_scores(first, tile * rows, rows, key, count, width)
        for row in serial("row", tiles * rows):
            self._write_weights(first, row)
        block = self.nest.value_tile.block
        full, rest = divmod(parts.columns, block)
        for i in serial("column", full) if full else ():
            for tile in serial("tile", tiles):
                self._write_output(first, tile * rows, rows, i * block, block)
        for tile in serial("tile", tiles) if rest else ():
            self._write_output(first, tile * rows, rows, full * block, rest)

    def _write_scores(
        self, first: Index, row: Index, rows: int, key: Index, count: int, width: int
    ) -> None:
        """Compute a tile of scores from `row` of the block, and from `key`."""
        parts, lanes, stride = self.nest.parts, self.nest.tile.lanes, self.nest.stride
        places = [(r, start) for r in range(rows) for start in range(0, width, lanes)]
        sums = BlockedSums.allocate([lanes] * len(places), is_single=parts.inner <= MOST_TERMS)
        for k in sums.loop("k", parts.inner):
            for i, (r, start) in enumerate(places):
                query = BufferLoad(self.queries, [as_index((row + r) * parts.inner + k)])
                place = key * parts.inner + k * width + start
                vector = BufferLoad(self.keys, [vector_index(place, lanes)])
                sums.add(i, broadcast(query, lanes) * vector)
        for i, (r, start) in enumerate(places):
            place = (row + r) * stride + key + start
            valid = min(lanes, count - start)
            for lane in vectors("v", 0, valid, lanes):
                score = parts.score.element(self.matrix, first + row + r, key + start + lane)
                score = with_element(score, parts.product, sums.element(i, lane))
                T.buffer_store(self.scores, score, [place + lane])
            for lane in vectors("v", valid, lanes - valid, lanes):
                T.buffer_store(self.scores, tirx.const(-math.inf, "float32"), [place + lane])

    def _write_weights(self, first: Index, row: Index) -> None:
        """Replace a row of scores by what the values are multiplied with."""
        parts, lanes, stride = self.nest.parts, self.nest.tile.lanes, self.nest.stride
        scores, start = self.scores, row * stride

        def load(i: Index) -> tirx.Expr:
            return BufferLoad(scores, [as_index(start + i)])

        def power(i: Index) -> tirx.Expr:
            T.buffer_store(scores, power_of_softmax(load(i) - highest[as_index(0)]), [start + i])
            return load(i)

        highest = self._reduced("highest", load, larger, parts.lowest)
        total = self._reduced("total", power, tirx.Add, tirx.const(0.0, "float32"))
        one = tirx.const(1.0, "float32")
        factor = one / total[as_index(0)]
        if parts.has_plain_weights:
            T.buffer_store(self.factors, factor, [as_index(row)])
            return
        T.buffer_store(self.factors, one, [as_index(row)])
        T.buffer_store(total, factor, [as_index(0)])
        for i in vectors("v", 0, parts.keys, lanes):
            weight = parts.weight.element(self.matrix, first + row, i)
            weight = with_element(weight, parts.softmax, load(i) * total[as_index(0)])
            T.buffer_store(scores, weight, [start + i])

    def _reduced(
        self, name: str, term: Callable[[Index], tirx.Expr], combine: Combiner, start: tirx.Expr
    ) -> tirx.Var:
        """Emit the reduction of a row; the result is the first element of the buffer."""
        lanes, stride = self.nest.tile.lanes, self.nest.stride
        width = min(_ACCUMULATORS * lanes, stride)
        partial = allocate(name, width)
        for i in vectors("v", 0, width, lanes):
            T.buffer_store(partial, start, [i])

        def add(first: Index, length: int) -> None:
            for offset in range(0, length, lanes):
                for lane in vectors("v", 0, lanes, lanes):
                    place = as_index(offset + lane)
                    value = combine(partial[place], term(first + offset + lane))
                    T.buffer_store(partial, value, [place])

        steps, rest = divmod(stride, width)
        for step in serial("step", steps):
            add(step * width, width)
        add(steps * width, rest)
        fold(partial, width, combine)
        return partial

    def _write_output(
        self, first: Index, row: Index, rows: int, column: Index, columns: int
    ) -> None:
        """Compute a tile of the output from `row` of the block, and from `column`."""
        parts, lanes, stride = self.nest.parts, self.nest.tile.lanes, self.nest.stride
        vectors_of_row = [(c, min(lanes, columns - c)) for c in range(0, columns, lanes)]
        places = [(r, start, length) for r in range(rows) for start, length in vectors_of_row]
        lengths = [length for _, _, length in places]
        sums = BlockedSums.allocate(lengths, is_single=parts.keys <= MOST_TERMS)
        for n in sums.loop("n", parts.keys):
            for i, (r, start, length) in enumerate(places):
                weight = BufferLoad(self.scores, [as_index((row + r) * stride + n)])
                place = n * parts.columns + column + start
                vector = BufferLoad(self.values, [vector_index(place, length)])
                sums.add(i, broadcast(weight, length) * vector)
        for i, (r, start, length) in enumerate(places):
            factor = BufferLoad(self.factors, [as_index(row + r)])
            for lane in vectors("v", 0, length, length):
                at = parts.place.at(self.matrix, first + row + r, column + start + lane)
                T.buffer_store(parts.output, sums.element(i, lane) * factor, at)


def _is_contiguous(formula: Formula, axis: int) -> bool:
    """Whether neighbours along `axis` are neighbours in each buffer that is read."""
    loads = nodes_of(formula.values[0], TensorLoad)
    strides = [coefficients_of(load.source, load.indices, formula.axes) for load in loads]
    return all(stride is not None and stride[:-1][axis] in (0, 1) for stride in strides)
