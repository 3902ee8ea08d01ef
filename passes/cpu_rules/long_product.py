"""The rule for products with a constant matrix whose inner dimension is long.

The inputs of such a product do not fit into the L2 cache next to the weights of a block, and each
block of columns would read all of them again. Before:

    for m, n, k: sums[m, n] += image[m, k] * weight[k, n]
    for m, n: output[m, n] = epilogue(sums[m, n])

After, parts of the inputs that do fit serve all columns, one part after the other:

    for part of the inner dimension
        parallel for (rows that fit the cache, block of columns)
            for tile of rows
                sums[rows, columns] = 0
                for k of part: sums[rows, columns] += image[rows, k] * weight[block, k, columns]
                first part:  totals[rows, columns] = sums
                inner parts: totals[rows, columns] += sums
                last part:   output[rows, columns] = epilogue(totals[rows, columns] + sums)

The parts are also the blocks of terms that keep long sums exact (`blocked_sums`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import BufferLoad, Ramp

from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS
from hios_tvm.passes.cpu_rules.borders import Tile
from hios_tvm.passes.cpu_rules.convolution_kernel import ConvolutionKernel, ConvolutionRule
from hios_tvm.passes.cpu_rules.convolution_tiles import (
    BlockedWeights,
    ConvolutionTiles,
    OutputTile,
)
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    allocate,
    emitted,
    even_chunk,
    parallel,
    serial,
    when,
)
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledConvolution
from hios_tvm.passes.schedule_kernels import Scheduled
from hios_tvm.schema.kernel_shapes import ConvolutionShape

_LEAST_PARTS = 4
"""With fewer, totals cost as much as reading the inputs again."""

_LEAST_INPUT_BYTES = 1 << 19
"""Smaller ones stay in an L2 cache, next to the weights of a block."""

_CACHE_BYTES = 1 << 20
"""A part of the inputs should stay in an L2 cache."""


class LongProduct(ConvolutionRule):
    """Write out products over so many channels that the input does not fit into the cache."""

    def write(self, kernel: ConvolutionKernel) -> Scheduled | None:
        if not _is_long(kernel.shape):
            return None
        parts = _parts(kernel.shape)
        shape = TiledConvolution.of(kernel.shape, self.lanes, self.registers, parts=parts)
        weight = kernel.packed_weight(shape.packed_shape)
        nest = _Nest(shape, kernel.image, weight, kernel.epilogue)
        return kernel.scheduled(emitted(nest.write), weight, BlockedWeights(1, shape.block))


def _is_long(shape: ConvolutionShape) -> bool:
    """Whether the inputs are too large for the cache because they have many channels."""
    if not shape.is_pointwise or shape.groups > 1:
        return False
    input_bytes = 4 * shape.batch * math.prod(shape.in_size) * shape.in_channels
    parts = _parts(shape)
    return parts >= _LEAST_PARTS and _LEAST_INPUT_BYTES <= input_bytes <= parts * _CACHE_BYTES


def _parts(shape: ConvolutionShape) -> int:
    """Return how many parts the channels have."""
    return -(-shape.in_channels // MOST_TERMS)


@dataclass(frozen=True)
class _Part:
    """`length` channels from `start`: a part of the inner dimension, or all of its inner parts."""

    start: Index
    length: int
    place: Literal["first", "inner", "last"]


@dataclass(frozen=True)
class _Nest(ConvolutionTiles):
    """The kernel to write."""

    @property
    def rows(self) -> int:
        """Pixels of all images, which are one row."""
        return self.shape.batch * math.prod(self.shape.out_size)

    def write(self) -> None:
        """Emit the whole kernel."""
        shape = self.shape
        parts = _parts(shape)
        length = -(-shape.in_channels // parts)
        totals = allocate("totals", shape.group_blocks * self.rows * shape.block)
        self._write_part(totals, _Part(0, length, "first"))
        for part in serial("part", parts - 2, start=1):
            self._write_part(totals, _Part(part * length, length, "inner"))
        start = (parts - 1) * length
        self._write_part(totals, _Part(start, shape.in_channels - start, "last"))

    def _write_part(self, totals: tirx.Var, part: _Part) -> None:
        shape = self.shape
        tiles, rest = divmod(self.rows, shape.pixels)
        blocks = shape.group_blocks
        most = max(1, _CACHE_BYTES // (4 * shape.pixels * part.length))
        per_chunk = even_chunk(tiles, most, blocks)
        chunks = max(1, -(-tiles // per_chunk))
        for task in parallel("task", chunks * blocks, work=shape.work):
            chunk, block = task // blocks, task % blocks
            first = chunk * per_chunk
            count = per_chunk if tiles % per_chunk == 0 else tirx.min(per_chunk, tiles - first)
            for channels in self.channels_of(block):
                for i in serial("tile", count):
                    pixels = Tile((first + i) * shape.pixels, shape.pixels, False)
                    self._write_tile(totals, OutputTile(0, 0, pixels, block, channels, i), part)
                if rest:
                    with when(chunks == 1 or chunk == chunks - 1):
                        pixels = Tile(tiles * shape.pixels, rest, False)
                        tile = OutputTile(0, 0, pixels, block, channels, count)
                        self._write_tile(totals, tile, part)

    def _write_tile(self, totals: tirx.Var, tile: OutputTile, part: _Part) -> None:
        """Add the products of a part to `totals`, ``[blocks * rows * channels of a block]``."""
        shape = self.shape
        sums = self.sums_of(tile, is_single=True)
        following = tirx.min(tile.block + 1, self.stream.parts - 1)
        for i in serial("channel", part.length):
            channel = part.start + i
            self.add_products(sums, tile, (0, 0), channel, range(tile.pixels.pixels))
            self.stream.prefetch([following, 0, 0, channel], tile.number)
            if part.place == "last":
                self.prefetch_residuals(tile, i, part.length)
        start = (tile.block * self.rows + tile.pixels.start) * shape.block
        for i in range(len(sums.sums)):
            lanes = Ramp(start + i * shape.lanes, 1, shape.lanes)
            if part.place == "first":
                T.buffer_store(totals, sums.total(i), [lanes])
            elif part.place == "inner":
                T.buffer_store(totals, BufferLoad(totals, [lanes]) + sums.total(i), [lanes])
            else:
                sums.add(i, BufferLoad(totals, [lanes]))
        if part.place == "last":
            self.write_output(sums, tile)
