"""The rule for convolutions and products of ``uint8`` with constant ``int8`` weights.

Its loops and register tiles are those of `convolution`. Where that adds the product of one input
channel to a vector of sums, this adds the products of a step of neighbouring channels
(`integer_steps`), so that to the loops the image has fewer channels:

    sums[pixels, channels] = 0                                                          # int32
    for kernel row ky that lies in the image, kernel column kx, step s
        sums[pixels, channels] += dot(image[y + ky - 1, pixels + kx - 1, s * inputs + (0, 1, ...)],
                                      weight[block, ky, kx, s, channels, (0, 1, ...)])
    output[y, pixels, channels] = epilogue(sums)

Sums are exact, so that none are blocked. What an epilogue does is mostly to scale and to round them
to 8 bits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import BufferLoad, Ramp

from hios_tvm.passes.cpu_rules.blocked_sums import BlockedSums
from hios_tvm.passes.cpu_rules.borders import has_short_borders
from hios_tvm.passes.cpu_rules.convolution import ConvolutionNest
from hios_tvm.passes.cpu_rules.convolution_kernel import ConvolutionKernel
from hios_tvm.passes.cpu_rules.convolution_tiles import BlockedWeights, OutputTile
from hios_tvm.passes.cpu_rules.integer_steps import IntegerInstruction, IntegerSteps
from hios_tvm.passes.cpu_rules.loop_nest import Index, allocate, broadcast
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledConvolution
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.passes.schedule_kernels import Scheduled
from hios_tvm.schema.kernel_shapes import INTEGER_CONVOLUTION, ConvolutionShape


@dataclass(frozen=True)
class IntegerConvolution(VectorRule):
    """Write out kernels that carry `INTEGER_CONVOLUTION`."""

    instruction: IntegerInstruction

    def apply(self, func: tirx.PrimFunc) -> Scheduled | None:
        kernel = ConvolutionKernel.of(func, INTEGER_CONVOLUTION)
        if kernel is None or not has_short_borders(kernel.shape):
            return None
        steps = IntegerSteps(self.instruction, self.lanes)
        if kernel.shape.group_inputs % steps.inputs:
            return None
        fields = {**vars(kernel.shape), "in_channels": kernel.shape.in_channels // steps.inputs}
        shape = TiledConvolution.of(ConvolutionShape(**fields), self.lanes, self.registers)
        weight = kernel.packed_weight(shape.packed_shape, steps.weight_dtype)
        body = _Nest(shape, kernel.image, weight, kernel.epilogue, steps).body()
        return kernel.scheduled(body, weight, PackedSteps(steps, shape.groups, shape.block))


@dataclass(frozen=True)
class PackedSteps:
    """Packs ``int8`` weights in `steps`, and these in blocks of output channels."""

    steps: IntegerSteps
    groups: int
    block: int

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return BlockedWeights(self.groups, self.block)(self.steps.packed(weights))


@dataclass(frozen=True)
class _IntegerSums(BlockedSums):
    """Accumulators of ``int32``."""

    @staticmethod
    def allocate(lengths: Sequence[int], *, is_single: bool = True) -> _IntegerSums:
        """Emit zero vectors of these `lengths`."""
        sums = tuple(allocate(f"sums{i}", n, dtype="int32") for i, n in enumerate(lengths))
        for buffer, n in zip(sums, lengths, strict=True):
            T.buffer_store(buffer, broadcast(tirx.const(0, "int32"), n), [Ramp(0, 1, n)])
        return _IntegerSums(sums, None, tuple(sum(lengths[:i]) for i in range(len(lengths))))

    def add_step(
        self, vector: int, steps: IntegerSteps, values: tirx.Expr, weights: tirx.Expr
    ) -> None:
        """Add the products of a step to a vector of sums."""
        total = steps.added(self.total(vector), values, weights)
        T.buffer_store(self.sums[vector], total, [Ramp(0, 1, steps.lanes)])


@dataclass(frozen=True)
class _Nest(ConvolutionNest):
    """The kernel to write; a channel of `shape` is a step."""

    steps: IntegerSteps

    @property
    def level(self) -> Literal["tile"]:
        """All terms are one block: sums of integers do not round."""
        return "tile"

    def sums_of(self, tile: OutputTile, *, is_single: bool) -> BlockedSums:
        count = tile.pixels.pixels * self.vectors_of(tile)
        return _IntegerSums.allocate([self.shape.lanes] * count)

    def prefetch_residuals(self, tile: OutputTile, step: Index, steps: int) -> None:
        """Leave residuals where they are: those of 8 bits fit into the L2 cache."""

    def add_products(
        self,
        sums: BlockedSums,
        tile: OutputTile,
        kernel: tuple[Index, Index],
        channel: Index,
        pixels: range,
    ) -> None:
        """Add the products of one step to the sums of some `pixels` of the tile."""
        assert isinstance(sums, _IntegerSums)
        vectors = self.vectors_of(tile)
        for pixel in pixels:
            *place, step = self.input_index(tile, kernel, channel, pixel)
            values = self.steps.values(self.image, place, step * self.steps.inputs)
            for vector in range(vectors):
                lanes = Ramp(vector * self.shape.lanes, 1, self.shape.lanes)
                weights = BufferLoad(self.weight, [tile.block, *kernel, channel, lanes])
                sums.add_step(pixel * vectors + vector, self.steps, values, weights)
