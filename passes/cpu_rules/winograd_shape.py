"""Which convolutions are less work by Winograd's method, in which tiles, on which weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hios_tvm.passes.cpu_rules.register_tile import RegisterTile, choose_tile
from hios_tvm.passes.cpu_rules.winograd_matrices import TILE
from hios_tvm.schema.kernel_shapes import ConvolutionShape

_PRODUCT_CYCLES = 0.55  # of a vector of products in a register tile
_TRANSFORM_CYCLES = 9.0  # of a vector that a transform reads and writes
_BYTES_PER_CYCLE = 4.0  # of weights, which come from memory that several cores share
_LEAST_GAIN = 0.85  # of the direct way's cycles


@dataclass(frozen=True, kw_only=True)
class WinogradShape(ConvolutionShape, RegisterTile):
    """A 3x3 convolution of step 1 in tiles of 2x2 outputs; `pixels` counts tiles of the image.

    Its weights are transformed to ``(blocks, points, input channels, channels of a block)``; the
    last block is padded with zeros.
    """

    @staticmethod
    def of(direct: ConvolutionShape, lanes: int, registers: int) -> WinogradShape | None:
        """Return how `direct` is computed; None if Winograd's method cannot, or gains too little.

        `lanes` and `registers` are those of the CPU's vectors of floats.
        """
        plain = (direct.kernel, direct.strides, direct.dilation) == ((3, 3), (1, 1), (1, 1))
        if not plain or direct.groups > 1 or direct.in_channels % lanes:
            return None
        tiles = direct.batch * math.prod(-(-size // TILE) for size in direct.out_size)
        channels = (direct.out_channels, direct.in_channels)
        tile = choose_tile(tiles, *channels, lanes=lanes, registers=registers, padded=True)
        shape = WinogradShape(**vars(direct), **vars(tile))
        vectors = sum(channels) / lanes
        cycles = _cycles(
            shape.products / lanes,
            tiles * shape.points * vectors,
            4 * shape.points * math.prod(channels),
        )
        direct_cycles = _cycles(direct.work / lanes, 0.0, 4 * 9 * math.prod(channels))
        return shape if cycles < _LEAST_GAIN * direct_cycles else None

    @property
    def points(self) -> int:
        """Products of a tile, for each pair of channels."""
        return (TILE + 2) ** 2

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles of an image: (rows, columns)."""
        return -(-self.out_size[0] // TILE), -(-self.out_size[1] // TILE)

    @property
    def blocks(self) -> int:
        """Blocks of output channels."""
        return -(-self.out_channels // self.block)

    @property
    def products(self) -> int:
        """Multiply-adds of the whole kernel, without transforms."""
        tiles = self.batch * math.prod(self.tiles)
        return tiles * self.points * self.in_channels * self.out_channels

    @property
    def packed_shape(self) -> tuple[int, int, int, int]:
        """Shape of the transformed weights."""
        return (self.blocks, self.points, self.in_channels, self.block)


def _cycles(products: float, transformed: float, weight_bytes: int) -> float:
    """Estimate a kernel's cycles from its vectors of products and of transformed elements.

    Weights come from memory meanwhile (`WeightStream`).
    """
    arithmetic = products * _PRODUCT_CYCLES + transformed * _TRANSFORM_CYCLES
    return max(arithmetic, weight_bytes / _BYTES_PER_CYCLE)
