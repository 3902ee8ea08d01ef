"""Convolutions whose CPU multiplies several neighbouring input channels at a time.

Loops and register tiles are those of `convolution`. Where that adds the product of one input
channel to a vector of sums, this adds the products of a step of channels, so that to the loops the
image has fewer channels:

    sums[pixels, channels] = 0
    for kernel row ky that lies in the image, kernel column kx, step s
        sums[pixels, channels] += dot(image[y + ky - 1, pixels + kx - 1, s * inputs + (0, 1, ...)],
                                      weight[block, ky, kx, s, channels, (0, 1, ...)])
    output[y, pixels, channels] = epilogue(sums)

Sums are not blocked: those of integers do not round, and those of other steps round far less than
their factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import BufferLoad, Ramp

from hios_tvm.passes.cpu_rules.blocked_sums import BlockedSums
from hios_tvm.passes.cpu_rules.convolution import ConvolutionNest
from hios_tvm.passes.cpu_rules.convolution_tiles import BlockedWeights, OutputTile
from hios_tvm.passes.cpu_rules.loop_nest import Index, allocate, broadcast
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledConvolution
from hios_tvm.schema.kernel_shapes import ConvolutionShape


class Steps(Protocol):
    """What a CPU multiplies at a time: some channels of a pixel, for a vector of sums.

    The weights of a step are one element in memory for each lane, of `weight_dtype`.
    """

    @property
    def lanes(self) -> int:
        """Sums of a vector."""

    @property
    def inputs(self) -> int:
        """Input channels of a step."""

    @property
    def weight_dtype(self) -> str:
        """The element type of the weights of a step."""

    @property
    def sum_dtype(self) -> str:
        """The element type of sums."""

    def packed(self, weights: np.ndarray) -> np.ndarray:
        """Return weights ``(..., inputs, outputs)`` as ``(..., steps, outputs)``."""

    def values(self, image: tirx.Var, pixel: list[Index], channel: Index) -> tirx.Expr:
        """Return a step's channels of a pixel of the image, from `channel`."""

    def added(self, sums: tirx.Expr, values: tirx.Expr, weights: tirx.Expr) -> tirx.Expr:
        """Return a vector of `sums` with the products of a step added."""


@dataclass(frozen=True)
class PackedSteps:
    """Packs weights in `steps`, and these in blocks of output channels."""

    steps: Steps
    groups: int
    block: int

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return BlockedWeights(self.groups, self.block)(self.steps.packed(weights))


def tiled_steps(shape: ConvolutionShape, steps: Steps, registers: int) -> TiledConvolution:
    """Choose the register tile of a convolution, of which a step is a channel."""
    fields = {**vars(shape), "in_channels": -(-shape.in_channels // steps.inputs)}
    return TiledConvolution.of(ConvolutionShape(**fields), steps.lanes, registers)


@dataclass(frozen=True)
class _StepSums(BlockedSums):
    """Accumulators of steps, which are not blocked."""

    @staticmethod
    def of(lengths: Sequence[int], dtype: str) -> _StepSums:
        """Emit zero vectors of these `lengths`."""
        sums = tuple(allocate(f"sums{i}", n, dtype=dtype) for i, n in enumerate(lengths))
        for buffer, n in zip(sums, lengths, strict=True):
            T.buffer_store(buffer, broadcast(tirx.const(0, dtype), n), [Ramp(0, 1, n)])
        return _StepSums(sums, None, tuple(sum(lengths[:i]) for i in range(len(lengths))))

    def add_step(self, vector: int, steps: Steps, values: tirx.Expr, weights: tirx.Expr) -> None:
        """Add the products of a step to a vector of sums."""
        total = steps.added(self.total(vector), values, weights)
        T.buffer_store(self.sums[vector], total, [Ramp(0, 1, steps.lanes)])


@dataclass(frozen=True)
class StepNest(ConvolutionNest):
    """The kernel to write; a channel of `shape` is a step."""

    steps: Steps

    @property
    def level(self) -> Literal["tile"]:
        """All terms are one block."""
        return "tile"

    def sums_of(self, tile: OutputTile, *, is_single: bool) -> BlockedSums:
        count = tile.pixels.pixels * self.vectors_of(tile)
        return _StepSums.of([self.shape.lanes] * count, self.steps.sum_dtype)

    def add_products(
        self,
        sums: BlockedSums,
        tile: OutputTile,
        kernel: tuple[Index, Index],
        channel: Index,
        pixels: range,
    ) -> None:
        """Add the products of one step to the sums of some `pixels` of the tile."""
        assert isinstance(sums, _StepSums)
        vectors = self.vectors_of(tile)
        for pixel in pixels:
            *place, step = self.input_index(tile, kernel, channel, pixel)
            values = self.steps.values(self.image, place, step * self.steps.inputs)
            for vector in range(vectors):
                lanes = Ramp(vector * self.shape.lanes, 1, self.shape.lanes)
                weights = BufferLoad(self.weight, [tile.block, *kernel, channel, lanes])
                sums.add_step(pixel * vectors + vector, self.steps, values, weights)
