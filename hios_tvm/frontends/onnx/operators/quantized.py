"""Quantized tensors, and products of integers, which are exact.

What is quantized with 8 bits becomes ``relax.quantize`` and ``relax.dequantize`` around operators
of real numbers: `hios_tvm.passes.quantized_operators` makes operators of integers of these.
Products of integers have operands of ``int32``, from which zero points are subtracted;
`hios_tvm.passes.integer_products` chooses how they are computed.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np
from onnx import NodeProto, TensorProto
from tvm import relax, topi

from hios_tvm.frontends.onnx.operators.call import (
    Converter,
    OperatorCall,
    Value,
    normalized_axis,
)
from hios_tvm.frontends.onnx.operators.casts import converted, element_type
from hios_tvm.frontends.onnx.operators.convolution import conv, spatial_rank
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
    has_blocks = call.attributes.integer("block_size", 0)
    call.attributes.integer("axis", 1)  # of no meaning to a number
    if dtype in _BYTES and compute == "float32" and not has_blocks and _is_number(scale):
        point = constant(0, dtype) if zero is None else zero
        return quantized(call, call.cast(x, compute), scale, point)
    scale, zero = _spread(call, scale, zero, shape_of(x))
    x, scale = (call.cast(tensor, compute) for tensor in (x, scale))
    ratio = call.cast(call.emit(relax.op.divide(x, scale)), "float32")
    return _saturated(call, ratio, zero, dtype)


def dequantize_linear(call: OperatorCall) -> Value:
    x, scale, zero = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    dtype = _output_type(call, dtype_of(scale))
    has_blocks = call.attributes.integer("block_size", 0)
    if dtype == "float32" and not has_blocks and is_plain(x, scale, zero):
        return _relax_dequantized(call, x, scale, zero, call.attributes.integer("axis", 1))
    scale, zero = _spread(call, scale, zero, shape_of(x))
    steps = _shifted(call, x, zero)
    # The difference is exact in single precision, and the product is rounded once
    compute = "float32" if dtype.endswith("float16") else dtype
    steps, scale = call.cast(steps, compute), call.cast(scale, compute)
    known = array_of(steps), array_of(scale)
    if known[0] is not None and known[1] is not None:
        return call.cast(constant_of(known[0] * known[1]), dtype)
    return call.cast(call.emit(relax.op.multiply(steps, scale)), dtype)


_BYTES = ("int8", "uint8")


def is_plain(x: relax.Expr, scale: relax.Expr, zero: relax.Expr | None) -> bool:
    """Whether passes know a tensor of 8 bits, its constant scale and zero point as quantized."""
    is_known = array_of(scale) is not None and (zero is None or array_of(zero) is not None)
    same_type = zero is None or dtype_of(zero) == dtype_of(x)
    is_simple = is_known and same_type and dtype_of(scale) == "float32"
    return is_simple and dtype_of(x) in _BYTES and bool(shape_of(x)) and len(shape_of(scale)) < 2


def stays_quantized(node: NodeProto, inputs: Mapping[str, Value]) -> bool:
    """Whether a node dequantizes constants, such as weights, that passes should see quantized."""
    if node.op_type != "DequantizeLinear" or any(a.name == "block_size" for a in node.attribute):
        return False
    values = [inputs[name] for name in node.input if name]
    tensors = [value for value in values if isinstance(value, relax.Expr)]
    x, scale, *zero = tensors
    return len(tensors) == len(values) and is_plain(x, scale, zero[0] if zero else None)


def _relax_dequantized(
    call: OperatorCall, x: relax.Expr, scale: relax.Expr, zero: relax.Expr | None, axis: int
) -> relax.Expr:
    if zero is None:
        zero = constant(np.zeros(shape_of(scale)), dtype_of(x))
    if _is_number(scale):
        scale, zero = (call.reshape(tensor, []) for tensor in (scale, zero))
        return call.emit(relax.op.dequantize(x, scale, zero))
    axis = normalized_axis(axis, len(shape_of(x)))
    if shape_of(scale) != (shape_of(x)[axis],):
        raise ValueError(f"its scale must have {shape_of(x)[axis]} elements, or one")
    return call.emit(relax.op.dequantize(x, scale, zero, axis=axis))


def _is_number(tensor: relax.Expr) -> bool:
    return int(np.prod(shape_of(tensor), dtype=np.int64)) == 1


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


# --- Products of integers ---


def matmul_integer(call: OperatorCall) -> Value:
    left, right = call.tensor(0), call.tensor(1)
    left_zero = _of_rows(call, call.optional_tensor(2), len(shape_of(left)))
    operands = _shifted(call, left, left_zero), _shifted(call, right, call.optional_tensor(3))
    return relax.op.matmul(*operands, out_dtype="int32")


def conv_integer(call: OperatorCall) -> Value:
    """Sums over windows; padding is zero, as zero points are subtracted already."""
    data, weight = call.tensor(0), call.tensor(1)
    data_zero, weight_zero = call.optional_tensor(2), call.optional_tensor(3)
    rank = spatial_rank(call, data, weight)
    if weight_zero is not None:
        weight_zero = call.along(weight_zero, 0, rank + 2)
    x = _shifted(call, data, None if data_zero is None else _scalar(call, data_zero))
    w = _shifted(call, weight, weight_zero)
    windows = read_windows(call, shape_of(data)[2:], shape_of(weight)[2:])
    groups = call.attributes.integer("group", 1)
    padding = [*windows.before, *windows.after]
    if rank == 2 and not any(windows.overhang):
        return relax.op.nn.conv2d(
            x,
            w,
            strides=list(windows.strides),
            padding=padding,
            dilation=list(windows.dilations),
            groups=groups,
            out_dtype="int32",
        )
    axes = "DHW"[-rank:]
    sizes = list(windows.strides), padding, list(windows.dilations), groups
    layouts = f"NC{axes}", f"OI{axes}", "int32"
    return call.compute(lambda a, b: topi.nn.conv(a, b, *sizes, *layouts), x, w)


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


def _scalar(call: OperatorCall, tensor: relax.Expr) -> relax.Expr:
    """A tensor of one element without dimensions, which would add some to the result."""
    return call.reshape(tensor, []) if np.prod(shape_of(tensor)) == 1 else tensor


# --- Operators of real numbers between quantized tensors ---


def dequantized(
    call: OperatorCall,
    x: relax.Expr,
    scale: relax.Expr,
    zero: relax.Expr | None,
    axis: int = 1,
) -> relax.Expr:
    """The real numbers that `x` stands for; scales may be those of an axis."""
    wide = call.cast(scale, "float32")
    if is_plain(x, wide, zero):
        return _relax_dequantized(call, x, wide, zero, axis)
    rank = len(shape_of(x))
    along = [None if v is None else call.along(v, axis, rank) for v in (wide, zero)]
    assert along[0] is not None
    steps = call.cast(_shifted(call, x, along[1]), "float32")
    return call.emit(relax.op.multiply(steps, along[0]))


def quantized(
    call: OperatorCall, y: relax.Expr, scale: relax.Expr, zero: relax.Expr | None, axis: int = 1
) -> relax.Expr:
    """Quantize real numbers, to uint8 without a zero point."""
    rank = len(shape_of(y))
    wide = call.along(call.cast(scale, "float32"), axis, rank)
    point = constant(0, "uint8") if zero is None else call.along(zero, axis, rank)
    if _is_number(wide) and dtype_of(point) in _BYTES:
        return call.emit(relax.op.quantize(y, wide, point, out_dtype=dtype_of(point)))
    ratio = call.emit(relax.op.divide(y, wide))
    return _saturated(call, ratio, point, dtype_of(point))


def qlinear_matmul(call: OperatorCall) -> Value:
    """Inputs: left, its scale, its zero point; right, the same; the result's scale and point."""
    left, right = call.tensor(0), call.tensor(3)
    rank = len(shape_of(left))
    operands = (
        dequantized(call, left, call.tensor(1), call.optional_tensor(2), max(rank - 2, 0)),
        dequantized(call, right, call.tensor(4), call.optional_tensor(5), -1),
    )
    product = call.emit(relax.op.matmul(*operands))
    return quantized(call, product, call.tensor(6), call.optional_tensor(7), max(rank - 2, 0))


def qlinear_conv(call: OperatorCall) -> Value:
    """Inputs: data, scale, point; weight, scale, point; the result's scale and point; bias."""
    x = dequantized(call, call.tensor(0), call.tensor(1), call.optional_tensor(2))
    w = dequantized(call, call.tensor(3), call.tensor(4), call.optional_tensor(5), 0)
    arguments: list[Value] = [x, w]
    if call.argument(8) is not None:
        arguments.append(real_bias(call, call.tensor(8), call.tensor(1), call.tensor(4)))
    result = conv(replace(call, arguments=tuple(arguments)))
    assert isinstance(result, relax.Expr)
    return quantized(call, call.emit(result), call.tensor(6), call.optional_tensor(7))


def real_bias(
    call: OperatorCall, bias: relax.Expr, data_scale: relax.Expr, weight_scale: relax.Expr
) -> relax.Expr:
    """A bias of int32, whose scale is the product of those of data and weights."""
    scales = [_flat(call, call.cast(scale, "float32")) for scale in (data_scale, weight_scale)]
    known, data, weight = (array_of(value) for value in (bias, *scales))
    if known is not None and data is not None and weight is not None:
        return constant_of(known.astype(np.float32) * (data * weight))
    scale = call.emit(relax.op.multiply(*scales))
    return call.emit(relax.op.multiply(call.cast(bias, "float32"), scale))


def _flat(call: OperatorCall, tensor: relax.Expr) -> relax.Expr:
    return call.reshape(tensor, [int(np.prod(shape_of(tensor)))])


OPERATORS: Mapping[str, Converter] = {
    "ConvInteger": conv_integer,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "QuantizeLinear": quantize_linear,
}
