"""Quantized tensors, and products of integers, which are exact.

CPUs have fast kernels for products in single precision alone. These are exact as long as no sum
exceeds 2**24: a product is computed in as many parts as that takes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from onnx import TensorProto
from tvm import relax, topi

from hios_tvm.frontends.onnx.operators.call import (
    Converter,
    OperatorCall,
    Value,
    normalized_axis,
)
from hios_tvm.frontends.onnx.operators.casts import converted, element_type
from hios_tvm.frontends.onnx.operators.convolution import CONVOLUTIONS, spatial_rank
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


_MOST_EXACT = 2**24
"""Whole numbers up to this one are exact in single precision."""

_MOST_PARTS = 8  # of a product; more take longer than one with integers


@dataclass(frozen=True)
class _Factor:
    """A tensor with its zero point, and the axis that a product sums over."""

    tensor: relax.Expr
    zero: relax.Expr | None
    axis: int

    @cached_property
    def known(self) -> np.ndarray | None:
        """The values without their zero point, where both are constant."""
        array, point = array_of(self.tensor), array_of(self.zero)
        if array is None or (self.zero is not None and point is None):
            return None
        values = array.astype(np.int64)
        return values if point is None else values - point.astype(np.int64)

    @property
    def magnitude(self) -> int:
        """The largest magnitude that an element without its zero point may have."""
        if self.known is not None:
            return int(np.abs(self.known).max(initial=1))
        limits, point = np.iinfo(dtype_of(self.tensor)), array_of(self.zero)
        low, high = (limits.min, limits.max) if self.zero is not None else (0, 0)
        if point is not None:
            low, high = int(point.min(initial=high)), int(point.max(initial=low))
        return max(limits.max - low, high - limits.min)

    def shifted(self, call: OperatorCall, dtype: str, begin: int = 0, end: int = 0) -> relax.Expr:
        """Return the tensor without its zero point; of the axis, all or a part."""
        if self.known is not None:
            values = self.known
            if end:
                values = np.take(values, range(begin, end), self.axis)
            return constant_of(np.ascontiguousarray(values.astype(dtype)))
        whole = _shifted(call, self.tensor, self.zero, dtype)
        if not end:
            return whole
        axis = self.axis % len(shape_of(whole))
        return call.emit(relax.op.strided_slice(whole, [axis], [begin], [end]))


def _exact_parts(left: _Factor, right: _Factor, sums: int) -> list[tuple[int, int]] | None:
    """Divide the axis of a product so that the sums of each part are exact in single precision.

    `sums` are the products of one element of the axis in one sum: 1, or a window's positions.
    None where that takes too many parts.
    """
    length = shape_of(right.tensor)[right.axis]
    known = right.known
    if known is None:
        cost = np.full((length, 1), right.magnitude * sums, np.float64)
    else:
        by_axis = np.moveaxis(np.abs(known), right.axis, 0)
        rows = by_axis.reshape(length, -1)
        # Of a convolution, the positions of a window are in one sum, its outputs are not.
        cost = rows.reshape(length, -1, sums).sum(2).astype(np.float64)
    parts, begin, total = [], 0, np.zeros(cost.shape[1])
    for i, row in enumerate(cost * left.magnitude):
        if (total + row).max(initial=0) > _MOST_EXACT:
            parts.append((begin, i))
            begin, total = i, np.zeros_like(total)
            if row.max(initial=0) > _MOST_EXACT or len(parts) >= _MOST_PARTS:
                return None
        total = total + row
    return [*parts, (begin, length)]


def _product(
    call: OperatorCall,
    left: _Factor,
    right: _Factor,
    multiply: Callable[[relax.Expr, relax.Expr], relax.Expr],
    parts: Sequence[tuple[int, int]] | None,
) -> relax.Expr:
    """Return the sums of products as int32.

    That type also keeps what follows, such as a scale, from being multiplied into the weights,
    which would round otherwise than ONNX does.
    """
    if parts is None:
        return call.emit(multiply(left.shifted(call, "int32"), right.shifted(call, "int32")))
    if len(parts) == 1:
        parts = [(0, 0)]
    total = None
    for begin, end in parts:
        pair = (factor.shifted(call, "float32", begin, end) for factor in (left, right))
        whole = call.cast(call.emit(multiply(*pair)), "int32")
        total = whole if total is None else call.emit(relax.op.add(total, whole))
    assert total is not None
    return total


def _shifted(
    call: OperatorCall, x: relax.Expr, zero: relax.Expr | None, dtype: str = "int32"
) -> relax.Expr:
    """The tensor without its zero point; of weights right away."""
    array, point = array_of(x), array_of(zero)
    if zero is None or (point is not None and not point.any()):
        return call.cast(x, dtype)
    if array is not None and point is not None:
        return constant_of((array.astype(np.int32) - point.astype(np.int32)).astype(dtype))
    return call.emit(relax.op.subtract(call.cast(x, dtype), call.cast(zero, dtype)))


def _of_rows(call: OperatorCall, vector: relax.Expr | None, rank: int) -> relax.Expr | None:
    """A scale or zero point of each row of a matrix on the left; of any other rank as it is."""
    if vector is None or len(shape_of(vector)) != 1 or rank < 2:
        return vector
    return call.along(vector, rank - 2, rank)


def matmul_integer(call: OperatorCall) -> Value:
    left_zero = _of_rows(call, call.optional_tensor(2), len(shape_of(call.tensor(0))))
    return _matmul(call, call.tensor(0), left_zero, call.tensor(1), call.optional_tensor(3))


def qlinear_matmul(call: OperatorCall) -> Value:
    """Inputs: left, its scale, its zero point; right, the same; the result's scale and point."""
    left, right, point = call.tensor(0), call.tensor(3), call.tensor(7)
    rank = len(shape_of(left))
    scales = _of_rows(call, call.tensor(1), rank), call.tensor(4), call.tensor(6)
    left_zero = _of_rows(call, call.tensor(2), rank)
    product = _matmul(call, left, left_zero, right, call.tensor(5))
    return _requantized(call, product, scales, point)


def _matmul(
    call: OperatorCall,
    left: relax.Expr,
    left_zero: relax.Expr | None,
    right: relax.Expr,
    right_zero: relax.Expr | None,
) -> relax.Expr:
    rows = _Factor(left, left_zero, -1)
    columns = _Factor(right, right_zero, -2 if len(shape_of(right)) > 1 else -1)
    return _product(call, rows, columns, relax.op.matmul, _exact_parts(rows, columns, 1))


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
    return _convolution(call, data, call.optional_tensor(2), weight, zero)


def qlinear_conv(call: OperatorCall) -> Value:
    """Inputs: data, scale, point; weight, scale, point; the result's scale and point; bias."""
    data, weight, bias = call.tensor(0), call.tensor(3), call.optional_tensor(8)
    rank = len(shape_of(weight))
    data_zero, weight_zero = _scalar(call, call.tensor(2)), call.along(call.tensor(5), 0, rank)
    sums = _convolution(call, data, data_zero, weight, weight_zero)
    if bias is not None:
        sums = call.emit(relax.op.add(sums, call.along(bias, 1, rank)))
    scales = call.tensor(1), call.along(call.tensor(4), 1, rank), call.tensor(6)
    return _requantized(call, sums, scales, call.tensor(7))


def _convolution(
    call: OperatorCall,
    data: relax.Expr,
    data_zero: relax.Expr | None,
    weight: relax.Expr,
    weight_zero: relax.Expr | None,
) -> relax.Expr:
    """Sums over windows; padding is zero, as zero points are subtracted already."""
    rank = spatial_rank(call, data, weight)
    kernel = shape_of(weight)[2:]
    windows = read_windows(call, shape_of(data)[2:], kernel)
    groups = call.attributes.integer("group", 1)
    image, filters = _Factor(data, data_zero, 1), _Factor(weight, weight_zero, 1)
    parts = None if any(windows.overhang) else _exact_parts(image, filters, prod(kernel))
    if parts is not None and len(parts) > 1 and groups > 1:
        parts = None  # the channels of a group are not those of a part

    def multiply(x: relax.Expr, w: relax.Expr) -> relax.Expr:
        padding = [*windows.before, *windows.after]
        if dtype_of(x) == "int32":
            axes = "DHW"[-rank:]
            sizes = list(windows.strides), padding, list(windows.dilations), groups
            layouts = f"NC{axes}", f"OI{axes}", "int32"
            return call.compute(lambda a, b: topi.nn.conv(a, b, *sizes, *layouts), x, w)
        return CONVOLUTIONS[rank](
            x,
            w,
            strides=list(windows.strides),
            padding=padding,
            dilation=list(windows.dilations),
            groups=groups,
        )

    return _product(call, image, filters, multiply, parts)


OPERATORS: Mapping[str, Converter] = {
    "ConvInteger": conv_integer,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "QuantizeLinear": quantize_linear,
}
