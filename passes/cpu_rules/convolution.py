"""The rule for convolutions and for products with constant matrices.

Before, in channels-last layout, for a window of 3x3 pixels:

    for y, x, c: padded[y, x, c] = image[y - 1, x - 1, c] inside the image, else 0
    for y, x, o, ky, kx, c: sums[y, x, o] += padded[y + ky, x + kx, c] * weight[o, ky, kx, c]
    for y, x, o: output[y, x, o] = epilogue(sums[y, x, o])

After, a register tile of some pixels of a row times a block of output channels goes through the
whole reduction; one input element serves a vector of output channels:

    parallel for (rows that fit the cache, group, block of channels)
        for tile of pixels, for row y
            sums[pixels, channels] = 0
            for kernel row ky that lies in the image, kernel column kx, input channel c
                sums[pixels, channels] += image[y + ky - 1, pixels + kx - 1, c]
                                          * weight[block, ky, kx, c, channels]
            output[y, pixels, channels] = epilogue(sums)

Meanwhile the tiles bring the next block's weights into the cache (`weight_stream`), and large
residuals, which the epilogue adds.

Padding costs nothing: kernel rows outside of the image are skipped, and the first and last tiles of
a row, whose pixels are known, get their own code that skips the columns outside. Where a pixel
reads only itself (kernel 1x1, matrix products), the whole image is one row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from tvm import tirx

from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS, BlockedSums
from hios_tvm.passes.cpu_rules.borders import Tile, kernel_rows, pixels_inside, tiles_of_row
from hios_tvm.passes.cpu_rules.convolution_kernel import ConvolutionKernel, ConvolutionRule
from hios_tvm.passes.cpu_rules.convolution_tiles import (
    BlockedWeights,
    ConvolutionTiles,
    OutputTile,
)
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    emitted,
    even_chunk,
    parallel,
    serial,
    when,
)
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledConvolution
from hios_tvm.passes.schedule_kernels import Scheduled

_CACHE_BYTES = 256 * 1024
"""Input that is read again for the next block of channels should stay in half an L2 cache."""

_UNROLLED_FMAS = 512
"""Where channels are unrolled, so are kernel columns, while a tile's code stays below this."""


class Convolution(ConvolutionRule):
    """Write out convolutions."""

    def write(self, kernel: ConvolutionKernel) -> Scheduled | None:
        shape = TiledConvolution.of(kernel.shape, self.lanes, self.registers)
        weight = kernel.packed_weight(shape.packed_shape)
        nest = ConvolutionNest(shape, kernel.image, weight, kernel.epilogue)
        packing = BlockedWeights(shape.groups, shape.block)
        return kernel.scheduled(emitted(nest.write), weight, packing)


@dataclass(frozen=True)
class ConvolutionNest(ConvolutionTiles):
    """The kernel to write."""

    @property
    def level(self) -> Literal["tile", "row", "column", "channel"]:
        """Which part of the reduction is one block of terms: the largest that is short enough.

        All of it, a row or a column of the kernel, or some channels.
        """
        channels = self.shape.group_inputs
        rows, columns = self.shape.kernel
        if rows * columns * channels <= MOST_TERMS:
            return "tile"
        if rows > 1 and columns * channels <= MOST_TERMS:
            return "row"
        return "column" if channels <= MOST_TERMS else "channel"

    def write(self) -> None:
        """Emit the whole kernel."""
        if self.shape.is_pointwise:
            self._write_pixels()
        else:
            self._write_rows()

    def _write_pixels(self) -> None:
        """Compute all pixels of all images as one row."""
        shape = self.shape
        pixels = shape.batch * shape.out_size[0] * shape.out_size[1]
        tiles, rest = divmod(pixels, shape.pixels)
        blocks = shape.groups * shape.group_blocks
        per_chunk = even_chunk(tiles, self._most_in_chunk(tiles, pixels), blocks)
        chunks = max(1, -(-tiles // per_chunk))
        for index in parallel("chunk_block", chunks * blocks, work=shape.work):
            chunk, block = index // blocks, index % blocks
            first = chunk * per_chunk
            for channels in self.channels_of(block):
                if tiles:
                    count: Index = per_chunk
                    if tiles % per_chunk:
                        count = tirx.min(per_chunk, tiles - first)
                    for i in serial("tile", count):
                        tile = Tile((first + i) * shape.pixels, shape.pixels, False)
                        self._write_tile(OutputTile(0, 0, tile, block, channels, i))
                if rest:
                    with when(chunks == 1 or chunk == chunks - 1):
                        tile = Tile(tiles * shape.pixels, rest, False)
                        self._write_tile(OutputTile(0, 0, tile, block, channels, per_chunk))

    def _write_rows(self) -> None:
        shape = self.shape
        height = shape.out_size[0]
        blocks = shape.groups * shape.group_blocks
        per_chunk = even_chunk(
            height, self._most_in_chunk(height, math.prod(shape.in_size)), blocks
        )
        chunks = -(-height // per_chunk)
        for index in parallel("chunk_block", shape.batch * chunks * blocks, work=shape.work):
            chunk, block = index // blocks, index % blocks
            batch, first = chunk // chunks, chunk % chunks * per_chunk
            count = per_chunk if height % per_chunk == 0 else tirx.min(per_chunk, height - first)
            for channels in self.channels_of(block):
                # Unequal tiles have loops over rows of their own: in one loop, the compiler keeps
                # sums of one tile in registers while it computes another
                for tile, tiles in tiles_of_row(shape, shape.pixels):
                    for row in serial("row", count):
                        for i in serial("tile", tiles):
                            moved = replace(tile, start=tile.start + i * tile.pixels)
                            place = (batch, first + row, moved)
                            self._write_tile(OutputTile(*place, block, channels, row + i))

    def _most_in_chunk(self, parts: int, pixels: int) -> int:
        """Return how many of equal `parts` of an image with so many input pixels to read at a time.

        A chunk that stays in the cache is read once, and all weights once for each chunk. Where
        weights do not stay in the cache either, it may be less to read the whole image for each
        block of channels, and the weights once.
        """
        shape = self.shape
        image_bytes = pixels * shape.in_channels * 4
        weight_bytes = math.prod(shape.packed_shape) * 4
        most = max(1, _CACHE_BYTES * parts // image_bytes)
        by_chunks = -(-parts // most) * weight_bytes
        by_blocks = shape.group_blocks * image_bytes + weight_bytes
        return parts if weight_bytes > _CACHE_BYTES and by_blocks < by_chunks else most

    def _write_tile(self, tile: OutputTile) -> None:
        """Compute `tile` in accumulators ``[pixels * channels of a block]``."""
        level = self.level
        sums = self.sums_of(tile, is_single=level == "tile")
        first, count = kernel_rows(self.shape, tile.row)
        for kernel_row in serial("kernel_row", count, start=first):
            with sums.block(is_block=level == "row"):
                self._write_kernel_row(sums, tile, kernel_row)
        self.write_output(sums, tile)

    def _write_kernel_row(self, sums: BlockedSums, tile: OutputTile, kernel_row: Index) -> None:
        """Add the inputs under one row of the kernel."""
        shape = self.shape
        columns = shape.kernel[1]
        if tile.pixels.at_border:
            for column in range(columns):
                inside = range(*pixels_inside(shape, tile.pixels, column))
                if inside:
                    self._write_kernel_column(sums, tile, (kernel_row, column), inside)
            return
        fmas = tile.pixels.pixels * shape.vectors * shape.group_inputs
        unroll = shape.has_few_inputs and columns * fmas <= _UNROLLED_FMAS
        for column in range(columns) if unroll else serial("kernel_column", columns):
            pixels = range(tile.pixels.pixels)
            self._write_kernel_column(sums, tile, (kernel_row, column), pixels)

    def _write_kernel_column(
        self, sums: BlockedSums, tile: OutputTile, kernel: tuple[Index, Index], pixels: range
    ) -> None:
        """Add the inputs under one element of the kernel, to some `pixels` of the tile."""
        shape, level = self.shape, self.level
        channels: Iterable[Index]
        if level == "channel":
            channels = sums.loop("channel", shape.group_inputs)
        elif shape.has_few_inputs:
            channels = range(shape.group_inputs)
        else:
            channels = serial("channel", shape.group_inputs)
        following = tirx.min(tile.block + 1, self.stream.parts - 1)
        with sums.block(is_block=level == "column"):
            for channel in channels:
                self.add_products(sums, tile, kernel, channel, pixels)
                self.stream.prefetch([following, *kernel, channel], tile.number)
                self.prefetch_residuals(tile, channel, shape.group_inputs)
