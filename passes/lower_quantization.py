"""A pass that writes what is left of quantizations as arithmetic of real numbers."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import (
    Rewriter,
    bindings,
    constant_value,
    operator_name,
    rewrite_main,
)
from hios_tvm.passes.quantization import DEQUANTIZE, QUANTIZE, dtype_of


@tvm.transform.module_pass(opt_level=0, name="LowerQuantization")
class LowerQuantization:
    """Replace ``relax.quantize`` and ``relax.dequantize``; of constants right away.

    Numbers are divided by the scale, rounded to even, and saturated.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        names = {operator_name(binding.value) for binding in bindings(mod["main"])}
        return rewrite_main(mod, _lowered) if names & {QUANTIZE, DEQUANTIZE} else mod


def _lowered(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    name = operator_name(value)
    if name == DEQUANTIZE:
        return _lowered_dequantization(rewriter, value)
    return _lowered_quantization(rewriter, value) if name == QUANTIZE else value


def _lowered_dequantization(rewriter: Rewriter, call: Call) -> relax.Expr:
    scale, zero = (_along(rewriter, call, operand) for operand in call.args[1:])
    array, numbers, point = map(constant_value, (call.args[0], scale, zero))
    if array is not None and numbers is not None and point is not None:
        steps = array.astype(np.int32) - point.astype(np.int32)
        return relax.const(steps.astype(np.float32) * numbers)
    steps = rewriter.emit(relax.op.astype(call.args[0], "float32"))
    if point is None or point.any():
        steps = rewriter.emit(relax.op.subtract(steps, _floats(rewriter, zero)))
    return relax.op.multiply(steps, scale)


def _lowered_quantization(rewriter: Rewriter, call: Call) -> relax.Expr:
    scale, zero = (_along(rewriter, call, operand) for operand in call.args[1:])
    limits = np.iinfo(dtype_of(call))
    steps = rewriter.emit(relax.op.divide(call.args[0], scale))
    steps = rewriter.emit(relax.op.round(steps))
    point = constant_value(zero)
    if point is None or point.any():
        steps = rewriter.emit(relax.op.add(steps, _floats(rewriter, zero)))
    low, high = (relax.const(float(bound), "float32") for bound in (limits.min, limits.max))
    steps = rewriter.emit(relax.op.maximum(steps, low))
    steps = rewriter.emit(relax.op.minimum(steps, high))
    return relax.op.astype(steps, dtype_of(call))


def _floats(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    array = constant_value(value)
    if array is not None:
        return relax.const(np.asarray(array, np.float32))
    return rewriter.emit(relax.op.astype(value, "float32"))


def _along(rewriter: Rewriter, call: Call, vector: relax.Expr) -> relax.Expr:
    """Return a scale or zero point as it broadcasts to the tensor."""
    if not vector.ty.ndim:
        return vector
    axis, rank = int(call.attrs.axis), call.args[0].ty.ndim
    shape = [int(vector.ty.shape[0]) if i == axis % rank else 1 for i in range(rank)]
    array = constant_value(vector)
    if array is not None:
        return relax.const(array.reshape(shape), array.dtype.name)
    return rewriter.emit(relax.op.reshape(vector, shape))
