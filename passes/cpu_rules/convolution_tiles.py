"""Register tiles of a convolution, which go through a part of the reduction at a time.

The loops around the tiles are those of the rules (`convolution`, `long_product`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Broadcast, BufferLoad, Ramp

from hios_tvm.passes.cpu_rules.blocked_sums import BlockedSums
from hios_tvm.passes.cpu_rules.borders import Tile
from hios_tvm.passes.cpu_rules.epilogue import Epilogue
from hios_tvm.passes.cpu_rules.loop_nest import Index, prefetch, vectors, widened
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledConvolution
from hios_tvm.passes.cpu_rules.weight_stream import LINE, WeightStream

_LEAST_RESIDUAL_BYTES = 1 << 20
"""Smaller ones may still be in the L2 cache."""


@dataclass(frozen=True)
class BlockedWeights:
    """Packs ``(height, width, inputs of a group, outputs)`` as `TiledConvolution` says.

    So it does with a matrix of ``(inputs, outputs)``.

    >>> BlockedWeights(groups=1, block=32)(np.ones((5, 5, 3, 40), "float32")).shape
    (2, 5, 5, 3, 32)
    """

    groups: int
    block: int

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        *window, inputs, outputs = weights.shape
        height, width = window or (1, 1)
        per_group = outputs // self.groups
        blocks = -(-per_group // self.block)
        shape = (height, width, inputs, self.groups, blocks * self.block)
        padded = np.zeros(shape, weights.dtype)
        padded[..., :per_group] = weights.reshape(*shape[:-1], per_group)
        packed = padded.reshape(height, width, inputs, self.groups * blocks, self.block)
        return np.ascontiguousarray(packed.transpose(3, 0, 1, 2, 4))


@dataclass(frozen=True)
class OutputTile:
    """A register tile: some pixels of a row of an image, for a block of output channels.

    `channels` is the size of the block, and `number` counts the tiles that its weights serve one
    after another.
    """

    batch: Index
    row: Index
    pixels: Tile
    block: Index
    channels: int
    number: Index


@dataclass(frozen=True)
class ConvolutionTiles:
    """What computes the register tiles of a kernel.

    Attributes
    ----------
    shape : TiledConvolution
        Extents of the convolution and of the register tile.
    image : tirx.Var
        The unpadded input, ``(batch, height, width, channels)``, or ``(..., channels)`` for a
        pointwise convolution.
    weight : tirx.Var
        ``(blocks of all groups, kernel height, kernel width, input channels of a group, channels of
        a block)``.
    epilogue : Epilogue
        Writes the output, which has the dimensions of `image`.
    """

    shape: TiledConvolution
    image: tirx.Var
    weight: tirx.Var
    epilogue: Epilogue

    @property
    def stream(self) -> WeightStream:
        """The weights, a block of channels after the other."""
        shape = self.shape
        pixels = shape.batch * math.prod(shape.out_size)
        blocks = shape.groups * shape.group_blocks
        return WeightStream(self.weight, blocks, max(1, pixels // shape.pixels))

    def channels_of(self, block: Index) -> Iterator[int]:
        """Yield how many channels `block` has; the last block of a group may be narrower.

        What the caller emits for each number runs for the blocks that have so many.
        """
        shape = self.shape
        rest = shape.group_outputs % shape.block
        if not rest:
            yield shape.block
        elif shape.group_blocks == 1:
            yield rest
        else:
            with T.If(block % shape.group_blocks == shape.group_blocks - 1):
                with T.Then():
                    yield rest
                with T.Else():
                    yield shape.block

    def sums_of(self, tile: OutputTile, *, is_single: bool) -> BlockedSums:
        """Emit zero sums of a tile, a vector of channels after the other for each pixel."""
        count = tile.pixels.pixels * self.vectors_of(tile)
        return BlockedSums.allocate([self.shape.lanes] * count, is_single=is_single)

    def add_products(
        self,
        sums: BlockedSums,
        tile: OutputTile,
        kernel: tuple[Index, Index],
        channel: Index,
        pixels: range,
    ) -> None:
        """Add the products of one input channel to the sums of some `pixels` of the tile."""
        shape = self.shape
        vectors_of_block = self.vectors_of(tile)
        for pixel in pixels:
            value = BufferLoad(self.image, self.input_index(tile, kernel, channel, pixel))
            for vector in range(vectors_of_block):
                lanes = Ramp(vector * shape.lanes, 1, shape.lanes)
                weight = BufferLoad(self.weight, [tile.block, *kernel, channel, lanes])
                term = Broadcast(value, shape.lanes) * widened(weight, shape.lanes)
                sums.add(pixel * vectors_of_block + vector, term)

    def write_output(self, sums: BlockedSums, tile: OutputTile) -> None:
        """Apply the epilogue to a tile."""
        shape = self.shape
        base = self._first_channel(tile)
        for pixel in range(tile.pixels.pixels):
            at = self._output_index(tile.batch, tile.row, tile.pixels.start + pixel)
            for vector, start in enumerate(range(0, tile.channels, shape.lanes)):
                count = min(shape.lanes, tile.channels - start)
                for lane in vectors("v", 0, count, shape.lanes):
                    result = sums.element(pixel * self.vectors_of(tile) + vector, lane)
                    self.epilogue.store([*at, base + start + lane], result)

    def prefetch_residuals(self, tile: OutputTile, step: Index, steps: int) -> None:
        """Bring a share of what the epilogue of a tile reads into the cache, in each of `steps`.

        A core waits for few cache lines at a time: all shares at once would delay the weights.
        """
        if 4 * math.prod(self.epilogue.shape) < _LEAST_RESIDUAL_BYTES:
            return
        lines, pixels = -(-tile.channels // LINE), tile.pixels.pixels
        # Numbers up to powers of two, as a division would take longer than what it saves
        all_lines, all_pixels = (1 << (count - 1).bit_length() for count in (lines, pixels))
        share = -(-all_lines * all_pixels // steps)
        for residual in self.epilogue.residuals:
            for i in range(share):
                number = step * share + i
                line = tirx.min(number % all_lines, lines - 1)
                pixel = tirx.min(number // all_lines % all_pixels, pixels - 1)
                at = self._output_index(tile.batch, tile.row, tile.pixels.start + pixel)
                prefetch(residual, [*at, self._first_channel(tile) + line * LINE], level=1)

    def vectors_of(self, tile: OutputTile) -> int:
        """Return the vectors of a tile's channels."""
        return -(-tile.channels // self.shape.lanes)

    def _first_channel(self, tile: OutputTile) -> Index:
        """Return the first output channel of a tile's block."""
        shape = self.shape
        if shape.groups == 1:
            return tile.block * shape.block
        group, place = tile.block // shape.group_blocks, tile.block % shape.group_blocks
        return group * shape.group_outputs + place * shape.block

    def input_index(
        self, tile: OutputTile, kernel: tuple[Index, Index], channel: Index, pixel: int
    ) -> list[Index]:
        """Return where the image has a `channel` (of the tile's group) that a pixel reads."""
        shape = self.shape
        group = tile.block // shape.group_blocks if shape.groups > 1 else 0
        row = tile.row * shape.strides[0] - shape.padding[0] + kernel[0] * shape.dilation[0]
        column = (tile.pixels.start + pixel) * shape.strides[1] - shape.padding[1]
        column += kernel[1] * shape.dilation[1]
        place = [tile.batch, row, column]
        if shape.is_pointwise:
            place = unflattened(column, self.image.shape)
        return [*place, group * shape.group_inputs + channel]

    def _output_index(self, batch: Index, row: Index, column: Index) -> list[Index]:
        if self.shape.is_pointwise:
            return unflattened(column, self.epilogue.shape)
        return [batch, row, column]


def unflattened(pixel: Index, shape: Sequence[Index]) -> list[Index]:
    """Return the indices of a pixel before the last dimension of `shape`."""
    extents = [int(extent) for extent in shape][:-1]
    indices: list[Index] = []
    for i in reversed(range(len(extents))):
        if all(extent == 1 for extent in extents[:i]):
            return [0] * i + [pixel] + indices
        indices.insert(0, pixel % extents[i])
        pixel = pixel // extents[i]
    return indices
