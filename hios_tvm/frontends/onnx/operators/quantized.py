"""Quantized tensors, and products of integers, which are exact."""

from collections.abc import Mapping
from math import prod

import numpy as np
from onnx import TensorProto
from tvm import relax, te, topi

from hios_tvm.frontends.onnx.operators.call import (
    Converter,
    OperatorCall,
    Value,
    normalized_axis,
)
from hios_tvm.frontends.onnx.operators.casts import converted, element_type
from hios_tvm.frontends.onnx.operators.convolution import spatial_rank
from hios_tvm.frontends.onnx.operators.windows import read_windows
from hios_tvm.frontends.tensors import array_of, constant, constant_of, dtype_of, shape_of

# --- Scales ---


def quantize_linear(call: OperatorCall) -> Value:
    """Round ``x / scale`` to even, add the zero point, and saturate."""
    x, scale, zero = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    call.attributes.ignore("saturate")  # it concerns floats of 8 bits
    dtype = _output_type(call, "uint8" if zero is None else dtype_of(zero))
    if dtype not in ("int8", "uint8", "int16", "uint16"):
        raise call.unsupported(f"elements of type {dtype} cannot be compiled")
    precision = call.attributes.integer("precision", TensorProto.UNDEFINED)
    compute = dtype_of(scale)
    if precision != TensorProto.UNDEFINED:
        compute = element_type(call, precision)
    scale, zero = _spread(call, scale, zero, shape_of(x))
    x, scale = (call.cast(tensor, compute) for tensor in (x, scale))
    ratio = call.cast(call.emit(relax.op.divide(x, scale)), "float32")
    return _saturated(call, ratio, zero, dtype)


def dequantize_linear(call: OperatorCall) -> Value:
    x, scale, zero = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    dtype = _output_type(call, dtype_of(scale))
    scale, zero = _spread(call, scale, zero, shape_of(x))
    steps = _shifted(call, x, zero)
    # The difference is exact in single precision, and the product is rounded once
    compute = "float32" if dtype.endswith("float16") else dtype
    product = relax.op.multiply(call.cast(steps, compute), call.cast(scale, compute))
    return call.cast(call.emit(product), dtype)


def _output_type(call: OperatorCall, default: str) -> str:
    number = call.attributes.integer("output_dtype", TensorProto.UNDEFINED)
    return default if number == TensorProto.UNDEFINED else element_type(call, number)


def _spread(
    call: OperatorCall, scale: relax.Expr, zero: relax.Expr | None, shape: tuple[int, ...]
) -> tuple[relax.Expr, relax.Expr | None]:
    """Scale and zero point as they broadcast to a tensor: of all, of an axis, or of blocks."""
    block = call.attributes.integer("block_size", 0)
    axis = call.attributes.integer("axis", 1)
    sizes = shape_of(scale)

    def spread(tensor: relax.Expr) -> relax.Expr:
        if not shape or (prod(sizes) == 1 and not block):
            return call.reshape(tensor, [])
        along = normalized_axis(axis, len(shape))
        if not block:
            if sizes != (shape[along],):
                raise ValueError(f"its scale must have {shape[along]} elements, or one")
            return call.along(tensor, along, len(shape))
        return call.elements(
            shape,
            lambda at, t: t(*at[:along], at[along] // block, *at[along + 1 :]),
            tensor,
        )

    return spread(scale), None if zero is None else spread(zero)


def _saturated(
    call: OperatorCall, ratio: relax.Expr, zero: relax.Expr | None, dtype: str
) -> relax.Expr:
    """Round to even, add the zero point, and clip to the range of an integer type."""
    steps = call.emit(relax.op.round(ratio))
    if zero is not None:
        steps = call.emit(relax.op.add(steps, call.cast(zero, "float32")))
    limits = np.iinfo(dtype)
    low = relax.op.maximum(steps, constant(limits.min, "float32"))
    return converted(call, call.emit(relax.op.minimum(low, constant(limits.max, "float32"))), dtype)


def dynamic_quantize_linear(call: OperatorCall) -> list[Value]:
    """Elements as 8 bits, with the scale and zero point that their range gives."""
    x = call.tensor(0)
    axes, zero = list(range(len(shape_of(x)))), constant(0, "float32")
    high = relax.op.maximum(relax.op.max(x, axes, False) if axes else x, zero)
    low = call.emit(relax.op.minimum(relax.op.min(x, axes, False) if axes else x, zero))
    extent = call.emit(relax.op.subtract(high, low))
    is_flat = relax.op.equal(extent, zero)
    scale = call.emit(
        relax.op.where(
            is_flat, constant(1, "float32"), relax.op.divide(extent, constant(255, "float32"))
        )
    )
    point = _saturated(
        call, call.emit(relax.op.divide(relax.op.negative(low), scale)), None, "uint8"
    )
    return [_saturated(call, call.emit(relax.op.divide(x, scale)), point, "uint8"), scale, point]


# --- Products ---


def _shifted(call: OperatorCall, x: relax.Expr, zero: relax.Expr | None) -> relax.Expr:
    """The tensor without its zero point, as int32; of weights right away."""
    array, point = array_of(x), array_of(zero)
    if zero is None or (point is not None and not point.any()):
        return call.cast(x, "int32")
    if array is not None and point is not None:
        return constant_of(array.astype(np.int32) - point.astype(np.int32))
    return call.emit(relax.op.subtract(call.cast(x, "int32"), call.cast(zero, "int32")))


def _of_rows(call: OperatorCall, vector: relax.Expr | None, rank: int) -> relax.Expr | None:
    """A scale or zero point of each row of a matrix on the left; of any other rank as it is."""
    if vector is None or len(shape_of(vector)) != 1 or rank < 2:
        return vector
    return call.along(vector, rank - 2, rank)


def matmul_integer(call: OperatorCall) -> Value:
    left, right = call.tensor(0), call.tensor(1)
    left_zero = _of_rows(call, call.optional_tensor(2), len(shape_of(left)))
    left = _shifted(call, left, left_zero)
    right = _shifted(call, right, call.optional_tensor(3))
    return relax.op.matmul(left, right)


def qlinear_matmul(call: OperatorCall) -> Value:
    """Inputs: left, its scale, its zero point; right, the same; the result's scale and point."""
    left, right, point = call.tensor(0), call.tensor(3), call.tensor(7)
    rank = len(shape_of(left))
    scales = _of_rows(call, call.tensor(1), rank), call.tensor(4), call.tensor(6)
    left = _shifted(call, left, _of_rows(call, call.tensor(2), rank))
    right = _shifted(call, right, call.tensor(5))
    product = call.emit(relax.op.matmul(left, right))
    return _requantized(call, product, scales, point)


def _requantized(
    call: OperatorCall,
    sums: relax.Expr,
    scales: tuple[relax.Expr, relax.Expr, relax.Expr],
    point: relax.Expr,
) -> relax.Expr:
    """From the scale of both operands to that of the result."""
    left, right, out = (call.cast(_scalar(call, scale), "float32") for scale in scales)
    factor = call.emit(relax.op.divide(call.emit(relax.op.multiply(left, right)), out))
    ratio = call.emit(relax.op.multiply(call.cast(sums, "float32"), factor))
    return _saturated(call, ratio, _scalar(call, point), dtype_of(point))


def _scalar(call: OperatorCall, tensor: relax.Expr) -> relax.Expr:
    """A tensor of one element without dimensions, which would add some to the result."""
    return call.reshape(tensor, []) if np.prod(shape_of(tensor)) == 1 else tensor


def conv_integer(call: OperatorCall) -> Value:
    data, weight = call.tensor(0), call.tensor(1)
    zero = call.optional_tensor(3)
    if zero is not None:
        zero = call.along(zero, 0, len(shape_of(weight)))
    return _convolution(
        call, _shifted(call, data, call.optional_tensor(2)), _shifted(call, weight, zero)
    )


def qlinear_conv(call: OperatorCall) -> Value:
    """Inputs: data, scale, point; weight, scale, point; the result's scale and point; bias."""
    data, weight, bias = call.tensor(0), call.tensor(3), call.optional_tensor(8)
    rank = len(shape_of(weight))
    sums = _convolution(
        call,
        _shifted(call, data, _scalar(call, call.tensor(2))),
        _shifted(call, weight, call.along(call.tensor(5), 0, rank)),
    )
    if bias is not None:
        sums = call.emit(relax.op.add(sums, call.along(bias, 1, rank)))
    scales = call.tensor(1), call.along(call.tensor(4), 1, rank), call.tensor(6)
    return _requantized(call, sums, scales, call.tensor(7))


def _convolution(call: OperatorCall, data: relax.Expr, weight: relax.Expr) -> relax.Expr:
    """Sums of 32 bits; padding is zero, as zero points are subtracted already."""
    axes = "DHW"[-spatial_rank(call, data, weight) :]
    windows = read_windows(call, shape_of(data)[2:], shape_of(weight)[2:])
    groups = call.attributes.integer("group", 1)

    def compute(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return topi.nn.conv(
            x,
            w,
            list(windows.strides),
            [*windows.before, *windows.after],
            list(windows.dilations),
            groups,
            f"NC{axes}",
            f"OI{axes}",
            "int32",
        )

    return call.compute(compute, data, weight)


OPERATORS: Mapping[str, Converter] = {
    "ConvInteger": conv_integer,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "QuantizeLinear": quantize_linear,
}
