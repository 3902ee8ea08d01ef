"""The rule for depthwise convolutions and poolings.

Before, every output is a sum (or maximum) over a window, and the padded image is a tensor:

    for y, x, c: padded[y, x, c] = image[y - 1, x - 1, c] inside the image, else 0
    for y, x, c, ky, kx: sums[y, x, c] += padded[y + ky, x + kx, c] * weight[ky, kx, c]
    for y, x, c: output[y, x, c] = epilogue(sums[y, x, c])

After, a tile of some pixels of a row times a block of channels is reduced in registers, with the
channels in vectors:

    parallel for chunk of rows
        for tile of pixels, for row y of chunk, for block of channels
            sums[pixels * channels] = 0
            for kernel row ky that lies in the image
                for group of pixels, kernel column kx, pixel of group    # unrolled
                    sums[pixel, channels] += image[y + ky - 1, pixel + kx - 1, channels]
                                             * weight[ky, kx, channels]
            output[y, pixels, channels] = epilogue(sums)

Neighbouring pixels share most of their inputs, which the compiler loads once. A tile goes down the
rows of its chunk, so that the inputs that their windows share are found in the L1 cache. All
channels of a row come first, as they lie in memory, from which the CPU then fetches ahead; where
that is too much for the L1 cache, one block of channels goes down the rows after the other. Padding
is skipped, as in `hios_tvm.passes.cpu_rules.convolution`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm import s_tir, tirx
from tvm.script import tirx as T
from tvm.tirx import BufferLoad

from hios_tvm.passes.cpu_rules.borders import (
    Tile,
    has_short_borders,
    kernel_rows,
    pixels_inside,
    tiles_of_row,
)
from hios_tvm.passes.cpu_rules.epilogue import (
    Epilogue,
    find_block,
    fused_epilogue,
    image_buffer,
)
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    allocate,
    as_index,
    broadcast,
    emitted,
    parallel,
    rebuilt,
    serial,
    vector_index,
    vectors,
)
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledWindow
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.schema.kernel_shapes import WINDOW, WindowShape

_LEAST_CHUNKS = 16
"""Chunks of rows that threads can share, where there are so many rows."""

_L1_BYTES = 48 * 1024
"""Of a tile's windows in all channels; rows then find the inputs that they share in the cache."""

_UNROLLED_STEPS = 256
"""Kernel columns are unrolled as long as a tile's code stays below this many vector operations."""


class SlidingWindow(VectorRule):
    """Write out kernels that carry `WINDOW`."""

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        sch = s_tir.Schedule(func)
        block = find_block(sch, WINDOW)
        if block is None:
            return None
        window = WindowShape.from_annotation(sch.get(block).annotations[WINDOW])
        if not has_short_borders(window):
            return None
        image = image_buffer(sch, block)
        bytes_wide = window.operation == "max" and str(image.dtype) == "uint8"
        lanes = 4 * self.lanes if bytes_wide else self.lanes  # as many as a vector holds
        shape = TiledWindow.of(window, lanes, self.registers)
        weight = sch.get(block).reads[1].source if shape.operation == "product" else None
        epilogue = fused_epilogue(sch, block)
        if epilogue is None:
            return None
        return rebuilt(func, emitted(_Nest(shape, image, weight, epilogue).write))


@dataclass(frozen=True)
class _Channels:
    """`count` channels from `first`."""

    first: Index
    count: int


@dataclass(frozen=True)
class _Nest:
    """The kernel to write.

    Attributes
    ----------
    shape : TiledWindow
        Extents of the window and of the register tile.
    image : tirx.Var
        The unpadded input, ``(batch, height, width, channels)``.
    weight : tirx.Var, optional
        ``(kernel height, kernel width, channels)`` of a depthwise convolution.
    epilogue : Epilogue
        Writes the output, ``(batch, height, width, channels)``.
    """

    shape: TiledWindow
    image: tirx.Var
    weight: tirx.Var | None
    epilogue: Epilogue

    @property
    def dtype(self) -> str:
        """The type of the sums, to which inputs are converted; the largest keep their type."""
        return str(self.image.dtype) if self.shape.operation == "max" else "float32"

    def write(self) -> None:
        """Emit the whole kernel."""
        shape = self.shape
        height = shape.out_size[0]
        windows_overlap = 1 + (shape.kernel[0] - 1) * shape.dilation[0] > shape.strides[0]
        per_chunk = -(-height // _LEAST_CHUNKS) if windows_overlap else 1
        chunks = -(-height // per_chunk)
        for index in parallel("chunk", shape.batch * chunks, work=shape.work):
            batch, first = index // chunks, index % chunks * per_chunk
            count = per_chunk if height % per_chunk == 0 else tirx.min(per_chunk, height - first)
            for tile in self._tiles():
                for row, channels in self._rows_and_channels(count):
                    self._write_tile(batch, first + row, tile, channels)

    def _tiles(self) -> Iterator[Tile]:
        """Emit the tiles of a row; equal ones are a loop."""
        for tile, count in tiles_of_row(self.shape, self.shape.pixels):
            for i in serial("tile", count):
                yield replace(tile, start=tile.start + i * tile.pixels)

    def _rows_and_channels(self, rows: Index) -> Iterator[tuple[Index, _Channels]]:
        """Emit the loops that go through all channels of a tile in some `rows`."""
        shape = self.shape
        columns = (shape.pixels - 1) * shape.strides[1] + 1
        columns += (shape.kernel[1] - 1) * shape.dilation[1]
        if 4 * shape.kernel[0] * columns * shape.channels <= _L1_BYTES:
            for row in serial("row", rows):
                for channels in self._blocks_of_channels():
                    yield row, channels
        else:
            for channels in self._blocks_of_channels():
                for row in serial("row", rows):
                    yield row, channels

    def _blocks_of_channels(self) -> Iterator[_Channels]:
        """Emit a loop over blocks of channels, and a narrower block for the remainder."""
        block = self.shape.block
        blocks, remainder = divmod(self.shape.channels, block)
        if blocks:
            for i in serial("block", blocks):
                yield _Channels(i * block, block)
        if remainder:
            yield _Channels(blocks * block, remainder)

    def _write_tile(self, batch: Index, row: Index, tile: Tile, channels: _Channels) -> None:
        """Reduce the windows of all pixels of `tile` in ``sums[pixels * block]``."""
        shape = self.shape
        dtype = self.dtype
        sums = allocate("sums", tile.pixels * shape.block, dtype=dtype)
        least = -math.inf if dtype == "float32" else 0
        start = tirx.const(least if shape.operation == "max" else 0.0, dtype)
        for pixel in range(tile.pixels):
            for offset, lanes in self._vectors(channels):
                at = vector_index(pixel * shape.block + offset, lanes)
                T.buffer_store(sums, broadcast(start, lanes), [at])
        first, count = kernel_rows(shape, row)
        for kernel_row in serial("kernel_row", count, start=first):
            self._write_kernel_row(sums, (batch, row, kernel_row), tile, channels)
        for pixel in range(tile.pixels):
            for offset, lanes in self._vectors(channels):
                for channel in vectors("vector", offset, lanes, lanes):
                    at = [batch, row, tile.start + pixel, channels.first + channel]
                    self.epilogue.store(at, sums[as_index(pixel * shape.block + channel)])

    def _write_kernel_row(
        self, sums: tirx.Var, rows: tuple[Index, Index, Index], tile: Tile, channels: _Channels
    ) -> None:
        """Add the inputs under one row of the kernel; `rows` are batch, row and kernel row."""
        shape = self.shape
        columns = shape.kernel[1]
        if not tile.at_border and columns * tile.pixels * shape.vectors > _UNROLLED_STEPS:
            for column in serial("kernel_column", columns):
                for pixel in range(tile.pixels):
                    self._add_input(sums, rows, column, tile.start, pixel, channels)
            return
        # An input stays in its register for all of some neighbouring pixels that need it
        for group in range(0, tile.pixels, shape.sharing):
            for column in range(columns):
                inside = (0, tile.pixels)
                if tile.at_border:
                    inside = pixels_inside(shape, tile, column)
                first, end = max(inside[0], group), min(inside[1], group + shape.sharing)
                for pixel in range(first, end):
                    self._add_input(sums, rows, column, tile.start, pixel, channels)

    def _add_input(
        self,
        sums: tirx.Var,
        rows: tuple[Index, Index, Index],
        kernel_column: Index,
        start: Index,
        pixel: int,
        channels: _Channels,
    ) -> None:
        """Add one input, for all `channels`, to the sums of the tile's `pixel`."""
        shape = self.shape
        batch, row, kernel_row = rows
        y = row * shape.strides[0] - shape.padding[0] + kernel_row * shape.dilation[0]
        x = (start + pixel) * shape.strides[1] - shape.padding[1]
        x += kernel_column * shape.dilation[1]
        for offset, lanes in self._vectors(channels):
            channel = vector_index(channels.first + offset, lanes)
            place = vector_index(pixel * shape.block + offset, lanes)
            value = BufferLoad(self.image, [batch, y, x, channel])
            if self.dtype == "float32" and str(self.image.dtype) != "float32":
                value = tirx.Cast("float32" if lanes == 1 else f"float32x{lanes}", value)
            if self.weight is not None:
                value *= BufferLoad(self.weight, [kernel_row, kernel_column, channel])
            total = BufferLoad(sums, [place])
            total = tirx.max(total, value) if shape.operation == "max" else total + value
            T.buffer_store(sums, total, [place])

    def _vectors(self, channels: _Channels) -> Iterator[tuple[int, int]]:
        """Yield offset and lanes of the vectors that cover `channels`; the last may be shorter."""
        for offset in range(0, channels.count, self.shape.lanes):
            yield offset, min(self.shape.lanes, channels.count - offset)
