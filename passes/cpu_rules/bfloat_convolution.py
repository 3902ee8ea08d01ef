"""The rule for convolutions and products with constant weights, in bfloat16.

Before, the image and the weights are of single precision. After, weights are bfloat16 in memory,
and all cores round the image to it first:

    parallel for pixel
        rounded[pixel, channels] = bfloat16(image[pixel, channels])
    sums of steps of two neighbouring channels (`bfloat_steps`, `step_convolution`)

Sums, the epilogue and the output are of single precision.
"""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Ramp

from hios_tvm.passes.cpu_rules.bfloat_steps import IMPORT, BfloatSteps, instructions, rounded
from hios_tvm.passes.cpu_rules.convolution_kernel import ConvolutionKernel, ConvolutionRule
from hios_tvm.passes.cpu_rules.convolution_tiles import unflattened
from hios_tvm.passes.cpu_rules.loop_nest import (
    allocate,
    emitted,
    parallel,
    serial,
    vector_index,
)
from hios_tvm.passes.cpu_rules.step_convolution import PackedSteps, StepNest, tiled_steps
from hios_tvm.passes.schedule_kernels import Scheduled


class BfloatConvolution(ConvolutionRule):
    """Write out convolutions, but for those of groups of an odd number of input channels."""

    def write(self, kernel: ConvolutionKernel) -> Scheduled | None:
        steps = BfloatSteps()
        if kernel.shape.groups > 1 and kernel.shape.group_inputs % steps.inputs:
            return None
        shape = tiled_steps(kernel.shape, steps, self.registers)
        weight = kernel.packed_weight(shape.packed_shape, steps.weight_dtype)

        packing = PackedSteps(steps, shape.groups, shape.block)

        def write() -> None:
            with T.attr(0, IMPORT, instructions(kernel.shape.in_channels)):
                image = _rounded_image(kernel.image)
                StepNest(shape, image, weight, kernel.epilogue, steps).write()

        return kernel.scheduled(emitted(write), weight, packing)


def _rounded_image(image: tirx.Var) -> tirx.Var:
    """Emit the loops that round an image; return a buffer with the bits of its elements.

    Behind an odd number of channels is one of zeros, so that a step has two.
    """
    extents = [int(extent) for extent in image.shape]
    *outer, channels = extents
    is_odd = channels % BfloatSteps.inputs
    bits = allocate("rounded", *outer, channels + is_odd, dtype="uint16")
    lanes = BfloatSteps.lanes
    vectors, rest = divmod(channels, lanes)
    for number in parallel("pixel", math.prod(outer), work=math.prod(extents)):
        pixel = unflattened(number, extents)
        for i in serial("vector", vectors):
            place = [*pixel, Ramp(i * lanes, 1, lanes)]
            T.buffer_store(bits, rounded(image, place, lanes), place)
        if rest:
            place = [*pixel, vector_index(vectors * lanes, rest)]
            T.buffer_store(bits, rounded(image, place, rest), place)
        if is_odd:
            T.buffer_store(bits, tirx.const(0, "uint16"), [*pixel, channels])
    return bits
