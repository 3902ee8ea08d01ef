"""The rule for convolutions and products of ``uint8`` with constant ``int8`` weights.

They are computed in steps of neighbouring channels (`integer_steps`, `step_convolution`). Sums are
exact. What an epilogue does is mostly to scale and to round them to 8 bits again.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from hios_tvm.passes.cpu_rules.borders import has_short_borders
from hios_tvm.passes.cpu_rules.convolution_kernel import ConvolutionKernel
from hios_tvm.passes.cpu_rules.convolution_tiles import OutputTile
from hios_tvm.passes.cpu_rules.integer_steps import IntegerInstruction, IntegerSteps
from hios_tvm.passes.cpu_rules.loop_nest import Index, emitted
from hios_tvm.passes.cpu_rules.step_convolution import PackedSteps, StepNest, tiled_steps
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.passes.schedule_kernels import Scheduled
from hios_tvm.schema.kernel_shapes import INTEGER_CONVOLUTION


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
        shape = tiled_steps(kernel.shape, steps, self.registers)
        weight = kernel.packed_weight(shape.packed_shape, steps.weight_dtype)
        nest = _Nest(shape, kernel.image, weight, kernel.epilogue, steps)
        packing = PackedSteps(steps, shape.groups, shape.block)
        return kernel.scheduled(emitted(nest.write), weight, packing)


@dataclass(frozen=True)
class _Nest(StepNest):
    """The kernel to write."""

    def prefetch_residuals(self, tile: OutputTile, step: Index, steps: int) -> None:
        """Leave residuals where they are: those of 8 bits fit into the L2 cache."""
