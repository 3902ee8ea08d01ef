"""What the rules for convolutions read off a kernel, and how they give it packed weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.tirx import Stmt

from hios_tvm.passes.cpu_rules.borders import has_short_borders
from hios_tvm.passes.cpu_rules.epilogue import Epilogue, find_block, fused_epilogue, image_buffer
from hios_tvm.passes.cpu_rules.loop_nest import as_index, rebuilt
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.passes.schedule_kernels import Packing, Scheduled
from hios_tvm.passes.tir_trees import nodes_of
from hios_tvm.schema.kernel_shapes import CONVOLUTION, ConvolutionShape


@dataclass(frozen=True)
class ConvolutionKernel:
    """A kernel with one convolution, or product with a constant matrix, and its epilogue.

    `image` is what it reads before padding, `weight` the parameter with its weights.
    """

    func: tirx.PrimFunc
    shape: ConvolutionShape
    image: tirx.Var
    weight: tirx.Var
    epilogue: Epilogue

    @staticmethod
    @lru_cache(maxsize=2)  # several rules ask for the same kernel in turn
    def of(func: tirx.PrimFunc, annotation: str = CONVOLUTION) -> ConvolutionKernel | None:
        """Read `func`; None if it is no such kernel, or reads its weights elsewhere too."""
        sch = s_tir.Schedule(func)
        block = find_block(sch, annotation)
        if block is None:
            return None
        shape = ConvolutionShape.from_annotation(sch.get(block).annotations[annotation])
        image = image_buffer(sch, block)
        weight = sch.get(block).reads[-1].source
        epilogue = fused_epilogue(sch, block)
        if epilogue is None or image.same_as(weight) or _reads(epilogue, weight):
            return None
        return ConvolutionKernel(func, shape, image, weight, epilogue)

    @property
    def weight_dtype(self) -> str:
        """The element type of the weights: single precision, or half."""
        return str(self.weight.dtype)

    def packed_weight(self, shape: Sequence[int], dtype: str | None = None) -> tirx.Var:
        """Return a buffer of `shape` for the packed weights, by default of the same type."""
        extents = list(map(as_index, shape))
        return tirx.decl_buffer(extents, dtype or self.weight_dtype, self.weight.name, layout=None)

    def scheduled(self, body: Stmt, weight: tirx.Var, packing: Packing) -> Scheduled:
        """Return the kernel with `body`, which reads `weight` in place of its own weights."""
        func = rebuilt(self.func, body)
        index = next(i for i, param in enumerate(func.params) if param.same_as(self.weight))
        params = [*func.params[:index], weight, *func.params[index + 1 :]]
        func = tirx.PrimFunc(params, func.body, func.ret_type, func.attrs)
        return Scheduled(func, {index: packing})


def _reads(epilogue: Epilogue, buffer: tirx.Var) -> bool:
    return any(load.source.same_as(buffer) for load in nodes_of(epilogue.value, TensorLoad))


class ConvolutionRule(VectorRule):
    """A rule for kernels with one convolution, whose weights it packs."""

    def apply(self, func: tirx.PrimFunc) -> Scheduled | None:
        kernel = ConvolutionKernel.of(func)
        if kernel is None or not has_short_borders(kernel.shape):
            return None
        return self.write(kernel)

    @abstractmethod
    def write(self, kernel: ConvolutionKernel) -> Scheduled | None:
        """Return the kernel with its loops, or None if another rule has to write it."""
