"""The rule for attention on a GPU: a block of threads keeps its rows of scores in shared memory.

What the kernel computes is read as `hios_tvm.passes.cpu_rules.attention_blocks` says. A block has
some queries of a matrix, and all threads of it do

    block (matrix, tile of queries), thread
        for panel of keys
            accumulators = 0
            for slice of their elements
                shared queries, shared keys = slice
                accumulators[queries][keys] += shared queries * shared keys
            scores[queries][panel] = score(accumulators)
        scores = exp(scores - max(scores)); factors = 1 / sum(scores)     (threads of a row)
        for panel of columns
            accumulators = 0
            for slice of keys
                shared values = slice
                accumulators[queries][columns] += scores * shared values
            output = accumulators * factors

Both products have one tile. Scores behind the last key are minus infinity, whose exponential is 0.
Barriers between threads are put in by TVM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import AllocBuffer

from hios_tvm.passes.cpu_rules.attention_blocks import (
    AttentionParts,
    Formula,
    attention_parts,
    larger,
    with_element,
)
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    as_index,
    coefficients_of,
    emitted,
    rebuilt,
    serial,
    when,
)
from hios_tvm.passes.gpu_rules.attention_tiles import (
    PAD,
    AttentionSizes,
    choose_attention_tile,
    score_stride,
)
from hios_tvm.passes.gpu_rules.tiles import GemmTile
from hios_tvm.passes.tir_trees import nodes_of

_AT_A_TIME = 4  # elements of a row that a thread replaces; it has a multiple of them

_ZERO, _ONE = tirx.const(0.0, "float32"), tirx.const(1.0, "float32")


class Attention:
    """Write out kernels of attention for a GPU of `units` multiprocessors."""

    def __init__(self, units: int) -> None:
        self.units = units

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        parts = attention_parts(func)
        if parts is None:
            return None
        tile = choose_attention_tile(
            AttentionSizes(parts.matrices, parts.rows, parts.keys, parts.inner, parts.columns),
            self.units,
        )
        return rebuilt(func, emitted(lambda: _write(parts, tile)))


def _write(parts: AttentionParts, tile: GemmTile) -> None:
    tiles = math.ceil(parts.rows / tile.rows)
    for block in _bound("blockIdx.x", parts.matrices * tiles):
        for thread in _bound("threadIdx.x", tile.threads):
            matrix, first = block // tiles, block % tiles * tile.rows
            _Block.of(parts, tile, matrix, first, thread).write()


@dataclass(frozen=True)
class _Block:
    """What a thread of a block does.

    Attributes
    ----------
    parts, tile : AttentionParts, GemmTile
        What is computed, and how many results each thread computes at a time.
    matrix, first, thread : tirx.Expr
        The matrix, the first query of the block, and the number of the thread.
    scores, left, right : tirx.Var
        Shared and flat: rows of scores, and a slice of both factors.
    highest, totals, factors : tirx.Var
        Shared: what each thread knows of its row, and what a row of the result is multiplied by.
    sums : tirx.Var
        Results of the thread.
    """

    parts: AttentionParts
    tile: GemmTile
    matrix: tirx.Expr
    first: tirx.Expr
    thread: tirx.Expr
    scores: tirx.Var
    left: tirx.Var
    right: tirx.Var
    highest: tirx.Var
    totals: tirx.Var
    factors: tirx.Var
    sums: tirx.Var

    @classmethod
    def of(
        cls,
        parts: AttentionParts,
        tile: GemmTile,
        matrix: tirx.Expr,
        first: tirx.Expr,
        thread: tirx.Expr,
    ) -> _Block:
        """Emit the allocation of all buffers."""
        depth = tile.slicing.depth
        return cls(
            *(parts, tile, matrix, first, thread),
            scores=_allocate("scores", tile.rows * score_stride(tile, parts.keys)),
            left=_allocate("left", tile.rows * (depth + PAD)),
            right=_allocate("right", depth * (tile.columns + PAD)),
            highest=_allocate("highest", tile.threads),
            totals=_allocate("totals", tile.threads),
            factors=_allocate("factors", tile.rows),
            sums=_allocate("sums", tile.thread_rows * tile.thread_columns, scope="local"),
        )

    @property
    def stride(self) -> int:
        """Elements of a row of scores."""
        return score_stride(self.tile, self.parts.keys)

    def write(self) -> None:
        """Emit the three steps."""
        for panel in serial("panel", math.ceil(self.parts.keys / self.tile.columns)):
            self._write_scores(panel * self.tile.columns)
        self._write_weights()
        for panel in serial("panel", math.ceil(self.parts.columns / self.tile.columns)):
            self._write_output(panel * self.tile.columns)

    def _write_scores(self, key: Index) -> None:
        """Compute the scores of the keys of a panel, of which `key` is the first."""
        parts, depth = self.parts, self.tile.slicing.depth

        queries, keys = (
            (parts.query, (parts.rows, parts.inner)),
            (parts.key, (parts.inner, parts.keys)),
        )
        along_rows = _lies_along_rows(parts)
        self._clear()
        for step in serial("slice", math.ceil(parts.inner / depth)):
            self._copy(self.left, (self.tile.rows, depth), *queries, (self.first, step * depth))
            shape, corner = (depth, self.tile.columns), (step * depth, key)
            self._copy(self.right, shape, *keys, corner, along_rows=along_rows)
            self._multiply(self.left, depth + PAD, 0)
        for row, column, result in self._results():
            at = (self.matrix, self.first + row, key + column)
            score = with_element(parts.score.element(*at), parts.product, result)
            is_there = tirx.all(self.first + row < parts.rows, key + column < parts.keys)
            score = tirx.if_then_else(is_there, score, tirx.const(-math.inf, "float32"))
            T.buffer_store(self.scores, score, [row * self.stride + key + column])

    def _write_weights(self) -> None:
        """Replace scores by what values are multiplied with; some threads share each row."""
        parts, lanes = self.parts, self.tile.threads // self.tile.rows
        row, lane = self.thread // lanes, self.thread % lanes
        known, assign = _variable("known")
        highest, keep = _variable("top")
        steps = (self.stride - lanes) // lanes

        assign(parts.lowest)
        for step in serial("key", steps):
            assign(larger(known, self.scores[row * self.stride + step * lanes + lane]))
        T.buffer_store(self.highest, known, [self.thread])
        for other in serial("other", lanes):
            assign(larger(known, self.highest[row * lanes + other]))
        keep(known)

        assign(_ZERO)
        self._replace(row, lane, lambda key, score: tirx.exp(score - highest), assign, known)
        T.buffer_store(self.totals, known, [self.thread])
        assign(_ZERO)
        for other in serial("other", lanes):
            assign(known + self.totals[row * lanes + other])
        if parts.has_plain_weights:
            with when(lane == 0):
                T.buffer_store(self.factors, _ONE / known, [row])
            return

        def weight(key: tirx.Expr, power: tirx.Expr) -> tirx.Expr:
            value = parts.weight.element(self.matrix, self.first + row, key)
            value = with_element(value, parts.softmax, power / known)
            is_there = tirx.all(self.first + row < parts.rows, key < parts.keys)
            return tirx.if_then_else(is_there, value, _ZERO)

        self._replace(row, lane, weight)

    def _replace(
        self,
        row: tirx.Expr,
        lane: tirx.Expr,
        function: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
        assign: Callable[[tirx.Expr], None] | None = None,
        total: tirx.Expr = _ZERO,
    ) -> None:
        """Replace the thread's elements of a row by a function of them, and add them to `total`.

        Several at a time: TVM puts a barrier behind what is read, and one behind what is written.
        """
        lanes = self.tile.threads // self.tile.rows
        values = _allocate("values", _AT_A_TIME, scope="local")
        for step in serial("key", (self.stride - lanes) // lanes // _AT_A_TIME):
            keys = [(step * _AT_A_TIME + i) * lanes + lane for i in range(_AT_A_TIME)]
            for i, key in enumerate(keys):
                value = function(key, self.scores[row * self.stride + key])
                T.buffer_store(values, value, [as_index(i)])
            for i, key in enumerate(keys):
                T.buffer_store(self.scores, values[as_index(i)], [row * self.stride + key])
                if assign is not None:
                    assign(total + values[as_index(i)])

    def _write_output(self, column: Index) -> None:
        """Compute columns of the result from `column` on."""
        parts, depth = self.parts, self.tile.slicing.depth
        extents = (parts.keys, parts.columns)
        self._clear()
        for step in serial("slice", math.ceil(parts.keys / depth)):
            shape, corner = (depth, self.tile.columns), (step * depth, column)
            self._copy(self.right, shape, parts.value, extents, corner)
            self._multiply(self.scores, self.stride, step * depth)
        for row, inside, result in self._results():
            factor = self.factors[row] if parts.has_plain_weights else _ONE
            at = parts.place.at(self.matrix, self.first + row, column + inside)
            with when(tirx.all(self.first + row < parts.rows, column + inside < parts.columns)):
                T.buffer_store(parts.output, result * factor, at)

    def _copy(
        self,
        to: tirx.Var,
        shape: tuple[int, int],
        source: Formula,
        extents: tuple[int, int],
        corner: tuple[Index, Index],
        *,
        along_rows: bool = True,
    ) -> None:
        """Let all threads copy a slice of `shape` from `corner` of a matrix on, side by side.

        Behind the `extents` of the matrix are zeros. Neighbours copy what lies along its rows, or
        along its columns.
        """
        rows, columns = shape
        for step in serial("copy", rows * columns // self.tile.threads):
            place = step * self.tile.threads + self.thread
            row, column = place // columns, place % columns
            if not along_rows:
                row, column = place % rows, place // rows
            at = (corner[0] + row, corner[1] + column)
            is_there = tirx.all(at[0] < extents[0], at[1] < extents[1])
            value = tirx.if_then_else(is_there, source.element(self.matrix, *at), _ZERO)
            T.buffer_store(to, value, [row * (columns + PAD) + column])

    def _clear(self) -> None:
        for i in range(self.tile.thread_rows * self.tile.thread_columns):
            T.buffer_store(self.sums, _ZERO, [as_index(i)])

    def _multiply(self, left: tirx.Var, stride: int, start: Index) -> None:
        """Add the products of a slice; that of `left` begins at column `start`."""
        for k in serial("k", self.tile.slicing.depth):
            for i, (row, column, result) in enumerate(self._results()):
                factor = left[row * stride + start + k]
                other = self.right[k * (self.tile.columns + PAD) + column]
                T.buffer_store(self.sums, result + factor * other, [as_index(i)])

    def _results(self) -> Iterator[tuple[tirx.Expr, tirx.Expr, tirx.Expr]]:
        """Yield row and column in the tile of each result of the thread, and the result."""
        rows, columns = self.tile.thread_rows, self.tile.thread_columns
        across = self.tile.columns // columns
        for i in range(rows * columns):
            row = self.thread // across * rows + i // columns
            column = self.thread % across * columns + i % columns
            yield row, column, self.sums[as_index(i)]


def _bound(axis: str, extent: int) -> Iterator[tirx.Expr]:
    """Emit a loop over blocks or threads."""
    with T.thread_binding(as_index(0), as_index(extent), thread=axis) as var:
        yield IRBuilder.name(axis.split(".", maxsplit=1)[0], var)


def _allocate(name: str, elements: int, scope: str = "shared") -> tirx.Var:
    buffer = tirx.decl_buffer([elements], "float32", name, scope=scope, layout=None)
    T.add_to_parent(AllocBuffer(buffer))
    return buffer


def _variable(name: str) -> tuple[tirx.Expr, Callable[[tirx.Expr], None]]:
    """Return a variable of each thread, and what assigns to it."""
    buffer = _allocate(name, 1, scope="local")
    place = [as_index(0)]
    return buffer[place[0]], lambda value: T.buffer_store(buffer, value, place)


def _lies_along_rows(parts: AttentionParts) -> bool:
    """Whether keys of neighbouring numbers are neighbours in memory; else elements of a key are."""
    loads = nodes_of(parts.key.values[0], TensorLoad)
    strides = [coefficients_of(load.source, load.indices, parts.key.axes) for load in loads]
    return all(stride is not None and stride[:-1][-1] in (0, 1) for stride in strides)
