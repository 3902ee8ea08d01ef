"""The rule for products of two matrices that are both computed.

    parallel for (matrix, block of columns, rows that fit the cache)
        for tile of rows
            accumulators[rows][columns] = 0
            for k: accumulators += left[rows][k] * right[k][columns]
            output = epilogue(accumulators)

The right matrix is read as it is: its rows are contiguous along the columns of the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.tirx import BufferLoad, BufferStore, IfThenElse, Stmt

from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS, BlockedSums
from hios_tvm.passes.cpu_rules.epilogue import Epilogue, find_block, fused_epilogue
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    broadcast,
    even_chunk,
    loop,
    parallel_loop,
    rebuilt,
    sequence,
    vector_index,
    vector_loops,
)
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledProduct
from hios_tvm.schema.kernel_shapes import PRODUCT, ProductShape

__all__ = ["Product"]

_CACHE_BYTES = 256 * 1024
"""Rows of the left matrix that the next block of columns reads again."""


class Product:
    """Write out kernels that carry `PRODUCT`, for vectors of `lanes` floats.

    `registers` is how many vector registers the CPU has.
    """

    def __init__(self, lanes: int, registers: int) -> None:
        self.lanes = lanes
        self.registers = registers

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        sch = s_tir.Schedule(func)
        block = find_block(sch, PRODUCT)
        if block is None or sch.get_producers(block):
            return None
        product = ProductShape.from_annotation(sch.get(block).annotations[PRODUCT])
        shape = TiledProduct.of(product, self.lanes, self.registers)
        sources = [region.source for region in sch.get(block).reads]
        left, right = sources[0], sources[-1]  # one source if a matrix is multiplied by itself
        epilogue = fused_epilogue(sch, block)
        if epilogue is None:
            return None
        return rebuilt(func, _Nest(shape, left, right, epilogue).body())


@dataclass(frozen=True)
class _Nest:
    shape: TiledProduct
    left: tirx.Var
    right: tirx.Var
    epilogue: Epilogue

    def body(self) -> Stmt:
        """Return the whole kernel."""
        shape = self.shape
        blocks = -(-shape.columns // shape.block)
        tiles, rest = divmod(shape.rows, shape.pixels)
        matrices = math.prod(shape.batch)
        most = _CACHE_BYTES // (4 * shape.pixels * shape.inner)
        per_chunk = even_chunk(tiles, most, blocks * matrices)
        chunks = max(1, -(-tiles // per_chunk))

        def task(index: Index) -> Stmt:
            chunk, block = index % chunks, index // chunks % blocks
            batch = self._batch(index // (chunks * blocks))
            first = chunk * per_chunk
            count: Index = per_chunk
            if tiles % per_chunk:
                count = tirx.min(per_chunk, tiles - first)

            def tile(i: Index) -> Stmt:
                return self._columns(batch, (first + i) * shape.pixels, shape.pixels, block)

            statements = [loop("tile", 0, count, tile)] if tiles else []
            if rest:
                last = self._columns(batch, tiles * shape.pixels, rest, block)
                is_last = chunk == chunks - 1
                statements.append(last if chunks == 1 else IfThenElse(is_last, last, None))
            return sequence(statements)

        return parallel_loop("task", matrices * blocks * chunks, task, work=shape.work)

    def _batch(self, matrix: Index) -> list[Index]:
        """Return the indices of a matrix."""
        indices: list[Index] = []
        for i, extent in reversed(list(enumerate(self.shape.batch))):
            indices.insert(0, matrix % extent if i else matrix)
            matrix = matrix // extent
        return indices

    def _columns(self, batch: Sequence[Index], row: Index, rows: int, block: Index) -> Stmt:
        """Compute a register tile; the last block may be narrower."""
        shape = self.shape
        full, rest = divmod(shape.columns, shape.block)
        if not rest:
            return self._tile(batch, row, rows, block * shape.block, shape.block)
        narrow = self._tile(batch, row, rows, full * shape.block, rest)
        if not full:
            return narrow
        wide = self._tile(batch, row, rows, block * shape.block, shape.block)
        return IfThenElse(block == full, narrow, wide)

    def _tile(
        self, batch: Sequence[Index], row: Index, rows: int, column: Index, columns: int
    ) -> Stmt:
        shape = self.shape
        vectors = [
            (start, min(shape.lanes, columns - start)) for start in range(0, columns, shape.lanes)
        ]
        places = [(r, start, lanes) for r in range(rows) for start, lanes in vectors]
        accumulators = BlockedSums.of(
            [(r * columns + start, lanes) for r, start, lanes in places],
            is_single=shape.inner <= MOST_TERMS,
        )
        sums = accumulators.sums

        def step(k: Index) -> Stmt:
            statements = []
            for r, start, lanes in places:
                factor = BufferLoad(self.left, [*batch, row + r, k])
                term = BufferLoad(self.right, [*batch, k, vector_index(column + start, lanes)])
                at = [vector_index(r * columns + start, lanes)]
                product = broadcast(factor, lanes) * term
                statements.append(BufferStore(sums, BufferLoad(sums, at) + product, at))
            return sequence(statements)

        def finish(r: int) -> Stmt:
            def element(c: Index) -> Stmt:
                result = BufferLoad(accumulators.totals, [r * columns + c])
                return self.epilogue.store([*batch, row + r, column + c], result)

            return sequence(
                [vector_loops("v", start, lanes, lanes, element) for start, lanes in vectors]
            )

        terms = accumulators.loop("k", shape.inner, step)
        return sequence([accumulators.around(terms), *(finish(r) for r in range(rows))])
