"""Weights of half precision in memory, for kernels that round them to it anyway.

What tensor cores multiply in half precision is rounded on the way to shared memory. Weights are
constants: rounded at compile time they give the same results, with half the bytes to keep and to
read. A kernel

    y[m, n] += x[m, k] * w[k, n]                       # becomes
    y[m, n] += x[m, k] * float32(w[k, n])              # where w is of half precision
"""

from dataclasses import dataclass

import numpy as np
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad

from hios_tvm.passes.gpu_rules.blocks import main_block
from hios_tvm.passes.schedule_kernels import Scheduled
from hios_tvm.passes.tir_trees import nodes_of
from hios_tvm.schema.kernel_shapes import CONVOLUTION

_HALF = "float16"


@dataclass(frozen=True)
class RoundToHalf:
    """The packing of such weights: numbers that are too large become infinite."""

    def __call__(self, array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return array.astype(_HALF)


def with_half_weights(func: tirx.PrimFunc) -> Scheduled:
    """Return `func` with weights of half precision, where it is of one convolution or product.

    It is returned as it is if its weights are computed, or read elsewhere in it too.
    """
    sch = s_tir.Schedule(func)
    block = main_block(sch, CONVOLUTION)
    if block is None:
        return Scheduled(func)
    weight = sch.get(block).reads[-1].source
    places = [i for i, param in enumerate(func.params) if param.same_as(weight)]
    loads = [load for load in nodes_of(func.body, TensorLoad) if load.source.same_as(weight)]
    if not places or len(loads) != 1 or str(weight.dtype) != "float32":
        return Scheduled(func)
    half = tirx.decl_buffer(weight.shape, _HALF, weight.name, layout=None)

    def widened(access: TensorLoad) -> tirx.Expr:
        if not access.source.same_as(half):
            return access
        return tirx.Cast("float32", tirx.BufferLoad(half, list(access.indices)))

    def renamed(var: tirx.Var) -> tirx.Var:
        return half if var.same_as(weight) else var

    body = tvm_ffi.structural_map(func.body, [(tirx.Var, renamed), (TensorLoad, widened)])
    params = [half if param.same_as(weight) else param for param in func.params]
    narrowed = tirx.PrimFunc(params, body, func.ret_type, func.attrs)
    return Scheduled(narrowed, {places[0]: RoundToHalf()})
