"""The rule for products of two matrices that are both computed.

Before:

    for m, n, k: sums[m, n] += left[m, k] * right[k, n]
    for m, n: output[m, n] = epilogue(sums[m, n])

After, in register tiles of some rows times a block of columns:

    parallel for (matrix, block of columns, rows that fit the cache)
        for tile of rows
            sums[rows, columns] = 0
            for k: sums[rows, columns] += left[rows, k] * right[k, columns]    # columns in vectors
            output[rows, columns] = epilogue(sums)

The right matrix is read as it is: its rows are contiguous along the columns of the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T
from tvm.tirx import BufferLoad, Stmt

from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS, BlockedSums
from hios_tvm.passes.cpu_rules.epilogue import Epilogue, find_block, fused_epilogue
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    broadcast,
    emitted,
    even_chunk,
    parallel,
    rebuilt,
    serial,
    vector_index,
    vectors,
    when,
)
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledProduct
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.schema.kernel_shapes import PRODUCT, ProductShape

_CACHE_BYTES = 256 * 1024
"""Rows of the left matrix that the next block of columns reads again."""


class Product(VectorRule):
    """Write out kernels that carry `PRODUCT`."""

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
    """The kernel to write.

    Attributes
    ----------
    shape : TiledProduct
        Extents of the matrices and of the register tile.
    left, right : tirx.Var
        ``(*batch, rows, inner)`` and ``(*batch, inner, columns)``.
    epilogue : Epilogue
        Writes the output, ``(*batch, rows, columns)``.
    """

    shape: TiledProduct
    left: tirx.Var
    right: tirx.Var
    epilogue: Epilogue

    def body(self) -> Stmt:
        """Return the whole kernel."""
        return emitted(self._write)

    def _write(self) -> None:
        shape = self.shape
        blocks = -(-shape.columns // shape.block)
        tiles, rest = divmod(shape.rows, shape.pixels)
        matrices = math.prod(shape.batch)
        most = _CACHE_BYTES // (4 * shape.pixels * shape.inner)
        per_chunk = even_chunk(tiles, most, blocks * matrices)
        chunks = max(1, -(-tiles // per_chunk))
        for task in parallel("task", matrices * blocks * chunks, work=shape.work):
            chunk, block = task % chunks, task // chunks % blocks
            batch = self._batch_indices(task // (chunks * blocks))
            first = chunk * per_chunk
            if tiles:
                count = per_chunk if tiles % per_chunk == 0 else tirx.min(per_chunk, tiles - first)
                for i in serial("tile", count):
                    self._write_rows(batch, (first + i) * shape.pixels, shape.pixels, block)
            if rest:
                with when(chunks == 1 or chunk == chunks - 1):
                    self._write_rows(batch, tiles * shape.pixels, rest, block)

    def _batch_indices(self, matrix: Index) -> list[Index]:
        """Return the indices along the batch's axes of the matrix with this number."""
        indices: list[Index] = []
        for i, extent in reversed(list(enumerate(self.shape.batch))):
            indices.insert(0, matrix % extent if i else matrix)
            matrix = matrix // extent
        return indices

    def _write_rows(self, batch: Sequence[Index], row: Index, rows: int, block: Index) -> None:
        """Compute `rows` rows of a block of columns; the last block may be narrower."""
        shape = self.shape
        full, rest = divmod(shape.columns, shape.block)
        if not rest:
            self._write_tile(batch, row, rows, block * shape.block, shape.block)
        elif not full:
            self._write_tile(batch, row, rows, 0, rest)
        else:
            with T.If(block == full):
                with T.Then():
                    self._write_tile(batch, row, rows, full * shape.block, rest)
                with T.Else():
                    self._write_tile(batch, row, rows, block * shape.block, shape.block)

    def _write_tile(
        self, batch: Sequence[Index], row: Index, rows: int, column: Index, columns: int
    ) -> None:
        """Compute ``output[*batch, row : row + rows, column : column + columns]`` in registers."""
        shape = self.shape
        vectors_of_row = [
            (start, min(shape.lanes, columns - start)) for start in range(0, columns, shape.lanes)
        ]
        places = [(r, start, lanes) for r in range(rows) for start, lanes in vectors_of_row]
        sums = BlockedSums.allocate(
            [lanes for _, _, lanes in places], is_single=shape.inner <= MOST_TERMS
        )
        for k in sums.loop("k", shape.inner):
            for i, (r, start, lanes) in enumerate(places):
                factor = BufferLoad(self.left, [*batch, row + r, k])
                term = BufferLoad(self.right, [*batch, k, vector_index(column + start, lanes)])
                sums.add(i, broadcast(factor, lanes) * term)
        for i, (r, start, lanes) in enumerate(places):
            for lane in vectors("v", 0, lanes, lanes):
                at = [*batch, row + r, column + start + lane]
                self.epilogue.store(at, sums.element(i, lane))
