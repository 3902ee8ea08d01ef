"""The rule for depthwise convolutions and poolings.

Channels are the vectors. A tile of some pixels of a row times some vectors of channels is reduced
in registers; neighbouring pixels share most of their inputs, which the compiler loads once. A tile
goes down its rows, so that what their windows share is found in the L1 cache:

    parallel for chunk of rows (one where windows share none)
        for tile of pixels, for block of channels, for row
            accumulators = 0
            for kernel row that lies in the image
                for group of pixels, kernel column (both unrolled)
                    accumulators[group][channels] += input[group][channels] * weight[channels]
            output = epilogue(accumulators)

Padding is skipped, as in `hios_tvm.passes.cpu_rules.convolution`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tvm import s_tir, tirx
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, Stmt

from hios_tvm.passes.cpu_rules.borders import Tile, kernel_rows, pixels_inside, tiles_of_row
from hios_tvm.passes.cpu_rules.epilogue import (
    Epilogue,
    find_block,
    fused_epilogue,
    image_buffer,
)
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    broadcast,
    loop,
    parallel_loop,
    rebuilt,
    sequence,
    vector_index,
    vector_loops,
)
from hios_tvm.passes.kernel_shapes import WINDOW, WindowShape

__all__ = ["SlidingWindow"]

_LEAST_CHUNKS = 16
"""Chunks of rows that threads can share, where there are so many rows."""

_UNROLLED_STEPS = 256
"""Kernel columns are unrolled as long as a tile's code stays below this many vector operations."""


class SlidingWindow:
    """Write out kernels that a legalization annotated with `WINDOW`."""

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        sch = s_tir.Schedule(func)
        block = find_block(sch, WINDOW)
        if block is None:
            return None
        shape = WindowShape.from_annotation(sch.get(block).annotations[WINDOW])
        weight = sch.get(block).reads[1].source if shape.operation == "product" else None
        image = image_buffer(sch, block)
        epilogue = fused_epilogue(sch, block)
        if epilogue is None:
            return None
        return rebuilt(func, _Nest(shape, image, weight, epilogue).body())


@dataclass(frozen=True)
class _Nest:
    shape: WindowShape
    image: tirx.Var
    weight: tirx.Var | None
    epilogue: Epilogue

    def body(self) -> Stmt:
        """Return the whole kernel."""
        shape = self.shape
        height = shape.out_size[0]
        overlap = 1 + (shape.kernel[0] - 1) * shape.dilation[0] > shape.strides[0]
        per_chunk = -(-height // _LEAST_CHUNKS) if overlap else 1
        chunks = -(-height // per_chunk)

        def chunk(index: Index) -> Stmt:
            batch, first = index // chunks, index % chunks * per_chunk
            count = per_chunk if height % per_chunk == 0 else tirx.min(per_chunk, height - first)

            def all_rows(body: Callable[[Index], Stmt]) -> Stmt:
                return loop("row", 0, count, lambda row: body(first + row))

            return self._all_tiles(
                lambda tile: self._all_channels(
                    lambda channels: all_rows(lambda row: self._tile(batch, row, tile, channels))
                )
            )

        return parallel_loop("chunk", shape.batch * chunks, chunk, work=shape.work)

    def _all_tiles(self, body: Callable[[Tile], Stmt]) -> Stmt:
        """Return `body` for each tile of a row; for equal ones as a loop."""

        def equal(tile: Tile, count: int) -> Stmt:
            def moved(i: Index) -> Stmt:
                return body(replace(tile, start=tile.start + i * tile.pixels))

            return loop("tile", 0, count, moved)

        return sequence([equal(tile, count) for tile, count in tiles_of_row(self.shape)])

    def _all_channels(self, body: Callable[[tuple[Index, int]], Stmt]) -> Stmt:
        """Return `body` for each block of channels (first, count), and for what is left of them."""
        block = self.shape.block
        blocks, rest = divmod(self.shape.channels, block)
        parts = [loop("block", 0, blocks, lambda i: body((i * block, block)))] if blocks else []
        if rest:
            parts.append(body((blocks * block, rest)))
        return sequence(parts)

    def _tile(self, batch: Index, row: Index, tile: Tile, channels: tuple[Index, int]) -> Stmt:
        """Reduce the window of each pixel of `tile` for `channels` (first, count)."""
        shape = self.shape
        sums = tirx.decl_buffer(
            (tile.pixels * shape.block,), "float32", "sums", scope="local", layout=None
        )
        start = tirx.const(0.0, "float32")
        if shape.operation == "max":
            start = tirx.const(-math.inf, "float32")
        statements: list[Stmt] = [AllocBuffer(sums)]
        for pixel in range(tile.pixels):
            for offset, lanes in _vectors(channels[1], shape.lanes):
                at = [vector_index(pixel * shape.block + offset, lanes)]
                statements.append(BufferStore(sums, broadcast(start, lanes), at))
        first, count = kernel_rows(shape, row)

        def kernel_row(index: Index) -> Stmt:
            return self._kernel_row(sums, batch, row, tile, channels, index)

        statements.append(loop("kernel_row", first, count, kernel_row))
        statements.append(self._store(sums, batch, row, tile, channels))
        return sequence(statements)

    def _kernel_row(
        self,
        sums: tirx.Var,
        batch: Index,
        row: Index,
        tile: Tile,
        channels: tuple[Index, int],
        kernel_row: Index,
    ) -> Stmt:
        shape = self.shape
        columns = shape.kernel[1]
        input_row = row * shape.strides[0] - shape.padding[0] + kernel_row * shape.dilation[0]

        def add(pixel: int, column: Index) -> list[Stmt]:
            steps: list[Stmt] = []
            for offset, lanes in _vectors(channels[1], shape.lanes):
                at_channel = vector_index(channels[0] + offset, lanes)
                place = [vector_index(pixel * shape.block + offset, lanes)]
                x = (tile.start + pixel) * shape.strides[1] - shape.padding[1]
                x += column * shape.dilation[1]
                value = BufferLoad(self.image, [batch, input_row, x, at_channel])
                if self.weight is not None:
                    value *= BufferLoad(self.weight, [kernel_row, column, at_channel])
                total = BufferLoad(sums, place)
                total = tirx.max(total, value) if shape.operation == "max" else total + value
                steps.append(BufferStore(sums, total, place))
            return steps

        if not tile.at_border and columns * tile.pixels * shape.vectors > _UNROLLED_STEPS:
            pixels = range(tile.pixels)
            return loop(
                "kernel_column",
                0,
                columns,
                lambda column: sequence([s for pixel in pixels for s in add(pixel, column)]),
            )
        # An input stays in its register for all of some neighbouring pixels that need it
        steps = []
        for group in range(0, tile.pixels, shape.sharing):
            for k in range(columns):
                first, end = pixels_inside(shape, tile, k) if tile.at_border else (0, tile.pixels)
                for pixel in range(max(first, group), min(end, group + shape.sharing)):
                    steps += add(pixel, k)
        return sequence(steps)

    def _store(
        self, sums: tirx.Var, batch: Index, row: Index, tile: Tile, channels: tuple[Index, int]
    ) -> Stmt:
        shape = self.shape
        statements = []
        for pixel in range(tile.pixels):

            def store(offset: Index, pixel: int = pixel) -> Stmt:
                result = BufferLoad(sums, [pixel * shape.block + offset])
                at = [batch, row, tile.start + pixel, channels[0] + offset]
                return self.epilogue.store(at, result)

            statements += [
                vector_loops("vector", offset, lanes, lanes, store)
                for offset, lanes in _vectors(channels[1], shape.lanes)
            ]
        return sequence(statements)


def _vectors(channels: int, lanes: int) -> Iterator[tuple[int, int]]:
    """Yield offset and lanes of the vectors that cover `channels`, the last maybe shorter."""
    for offset in range(0, channels, lanes):
        yield offset, min(lanes, channels - offset)
