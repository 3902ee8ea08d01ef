"""Quantized operators, with the arithmetic of Relay's own lowering (bit for bit)."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.operators.convolution import matrix_product
from hios_tvm.frontends.relay.operators.elementwise import round_half_away
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import array_of, constant, constant_of, dtype_of, shape_of

Convolve: TypeAlias = "Callable[[OperatorCall, int, relax.Expr, relax.Expr, str], relax.Expr]"


def quantize(call: OperatorCall) -> Value:
    return _quantized(
        call,
        call.tensor(0),
        call.tensor(1),
        call.tensor(2),
        call.attributes.dtype("out_dtype"),
        call.attributes.integer("axis", -1),
    )


def _quantized(
    call: OperatorCall,
    data: relax.Expr,
    scale: relax.Expr,
    zero_point: relax.Expr,
    dtype: str,
    axis: int = -1,
) -> relax.Expr:
    rank = len(shape_of(data))
    scale = call.along(scale, axis, rank)
    zero_point = call.along(call.cast(zero_point, "float32"), axis, rank)
    steps = round_half_away(call, call.emit(relax.op.divide(data, scale)))
    return _clipped(call, call.emit(relax.op.add(steps, zero_point)), dtype)


def _clipped(call: OperatorCall, data: relax.Expr, dtype: str) -> relax.Expr:
    """Clip to the range of an integer type and cast to it."""
    limits, current = np.iinfo(dtype), dtype_of(data)
    if current != dtype:
        low = call.emit(relax.op.maximum(data, constant(limits.min, current)))
        data = call.emit(relax.op.minimum(low, constant(limits.max, current)))
    return call.cast(data, dtype)


def dequantize(call: OperatorCall) -> Value:
    axis = call.attributes.integer("axis", -1)
    dtype = call.attributes.dtype("out_dtype", "float32")
    return call.cast(_real(call, call.tensor(0), call.tensor(1), call.tensor(2), axis), dtype)


def _real(
    call: OperatorCall, data: relax.Expr, scale: relax.Expr, zero_point: relax.Expr, axis: int = -1
) -> relax.Expr:
    shifted = call.cast(_shifted(call, data, zero_point, axis), "float32")
    scale = call.along(scale, axis, len(shape_of(data)))
    return call.emit(relax.op.multiply(shifted, scale))


def _shifted(
    call: OperatorCall, data: relax.Expr, zero_point: relax.Expr, axis: int = -1
) -> relax.Expr:
    """The data without their zero point, as int32; of weights right away."""
    array, zero = array_of(data), array_of(zero_point)
    zero_point = call.along(call.cast(zero_point, "int32"), axis, len(shape_of(data)))
    if array is not None:
        shift = array_of(zero_point)
        if shift is not None:
            return constant_of(array.astype(np.int32) - shift.astype(np.int32))
    data = call.cast(data, "int32")
    if zero is not None and not zero.any():
        return data
    return call.emit(relax.op.subtract(data, zero_point))


def requantize(call: OperatorCall) -> Value:
    attributes = call.attributes
    compute = attributes.text("compute_dtype", "None")
    if compute not in ("None", "int64"):
        raise call.unsupported(f"that computes in {compute}")
    return _requantized(
        call,
        call.tensor(0),
        call.constant(1),
        call.tensor(2),
        call.constant(3),
        call.tensor(4),
        attributes.dtype("out_dtype", "int8"),
        attributes.integer("axis", -1),
        attributes.choice("rounding", ("None", "UPWARD", "TONEAREST"), "None") == "TONEAREST",
    )


def _requantized(
    call: OperatorCall,
    data: relax.Expr,
    scale: np.ndarray,
    zero_point: relax.Expr,
    out_scale: np.ndarray,
    out_zero_point: relax.Expr,
    dtype: str,
    axis: int = -1,
    to_nearest: bool = False,
) -> relax.Expr:
    """From one scale and zero point to another, in fixed point arithmetic of 64 bits."""
    rank = len(shape_of(data))
    factors = scale.astype(np.float64).reshape(-1) / float(out_scale.reshape(-1)[0])
    steps = call.cast(_shifted(call, data, zero_point, axis), "int64")
    if np.any(factors != 1.0):
        steps = _fixed_point_product(call, steps, factors, axis % max(rank, 1), rank, to_nearest)
    out_zero_point = call.along(call.cast(out_zero_point, "int64"), axis, rank)
    return _clipped(call, call.emit(relax.op.add(steps, out_zero_point)), dtype)


def _fixed_point_product(
    call: OperatorCall,
    steps: relax.Expr,
    factors: np.ndarray,
    axis: int,
    rank: int,
    to_nearest: bool,
) -> relax.Expr:
    """`steps * factors` rounded: halves upwards, or `to_nearest` away from zero."""
    pairs = [_fixed_point(float(factor)) for factor in factors]
    shape = [len(pairs) if i == axis else 1 for i in range(rank)] if len(pairs) > 1 else []

    def values(numbers: list[int]) -> GenericConst:
        return constant_of(np.array(numbers, np.int64).reshape(shape))

    if any(exponent > 0 for _, exponent in pairs):
        left = values([max(exponent, 0) for _, exponent in pairs])
        steps = call.emit(relax.op.left_shift(steps, left))
    product = call.emit(relax.op.multiply(steps, values([factor for factor, _ in pairs])))
    right = [31 - min(exponent, 0) for _, exponent in pairs]
    rounder = values([1 << (shift - 1) for shift in right])
    if to_nearest:
        negative = call.emit(relax.op.less(product, constant(0, "int64")))
        lower = values([(1 << (shift - 1)) - 1 for shift in right])
        rounder = call.emit(relax.op.where(negative, lower, rounder))
    rounded = call.emit(relax.op.add(product, rounder))
    return call.emit(relax.op.right_shift(rounded, values(right)))


def fixed_point_multiply(call: OperatorCall) -> Value:
    """`x * multiplier * 2 ** (shift - 31)`, halves upwards."""
    data = call.tensor(0)
    multiplier, shift = call.attributes.integer("multiplier"), call.attributes.integer("shift")
    factors = np.array([math.ldexp(multiplier, shift - 31)])
    rank = len(shape_of(data))
    steps = _fixed_point_product(call, call.cast(data, "int64"), factors, 0, rank, False)
    return call.cast(steps, dtype_of(data))


def _fixed_point(factor: float) -> tuple[int, int]:
    """A factor as `significand * 2 ** (exponent - 31)`."""
    if factor == 0.0:
        return 0, 0
    fraction, exponent = math.frexp(factor)
    significand = math.floor(fraction * (1 << 31) + 0.5)
    if significand == 1 << 31:
        return significand // 2, exponent + 1
    return significand, max(exponent, -31)


# --- Sums of products ---


def quantized_convolution(convolve: Convolve, kernel_layout: str) -> Converter:
    """`qnn.conv2d` and its transpose: data, weight, the zero point of each, the scale of each."""

    def convert(call: OperatorCall) -> Value:
        channel = call.attributes.text("kernel_layout", kernel_layout).find("O")
        data = _shifted(call, call.tensor(0), call.tensor(2))
        weight = _shifted(call, call.tensor(1), call.tensor(3), channel)
        call.attributes.dtype("out_dtype", "int32")
        return convolve(call, 2, data, weight, "int32")

    return convert


def quantized_dense(call: OperatorCall) -> Value:
    data = _shifted(call, call.tensor(0), call.tensor(2))
    weight = _shifted(call, call.tensor(1), call.tensor(3), 0)
    call.attributes.dtype("out_dtype", "int32")
    return matrix_product(call, data, weight, transpose_b=True, dtype="int32")


def quantized_batch_matmul(call: OperatorCall) -> Value:
    a = _shifted(call, call.tensor(0), call.tensor(2))
    b = _shifted(call, call.tensor(1), call.tensor(3))
    call.attributes.dtype("out_dtype", "int32")
    return matrix_product(call, a, b, transpose_b=True, dtype="int32")


# --- Element by element ---


def quantized_binary(function: Callable[..., relax.Expr], zero_point_sign: int) -> Converter:
    """`qnn.add` and `qnn.subtract`: both sides at the output's scale, whose zero point is in both.

    A sum has the zero point twice, a difference not at all; `zero_point_sign` sets that right.
    """

    def convert(call: OperatorCall) -> Value:
        out_scale, out_zero_point = call.constant(6), call.tensor(7)
        dtype = dtype_of(call.tensor(0))
        sides = []
        for side, name in enumerate(("lhs_axis", "rhs_axis")):
            data = call.tensor(side)
            scale, zero_point = call.constant(2 + 2 * side), call.tensor(3 + 2 * side)
            axis = call.attributes.integer(name, -1)
            sides.append(
                _requantized(
                    call, data, scale, zero_point, out_scale, out_zero_point, "int32", axis
                )
            )
        result = call.emit(function(*sides))
        zero_point = call.reshape(call.cast(out_zero_point, "int32"), [])
        correct = relax.op.add if zero_point_sign > 0 else relax.op.subtract
        return _clipped(call, call.emit(correct(result, zero_point)), dtype)

    return convert


def quantized_multiply(call: OperatorCall) -> Value:
    left_axis = call.attributes.integer("lhs_axis", -1)
    right_axis = call.attributes.integer("rhs_axis", -1)
    left = _shifted(call, call.tensor(0), call.tensor(3), left_axis)
    right = _shifted(call, call.tensor(1), call.tensor(5), right_axis)
    product = call.emit(relax.op.multiply(left, right))
    scale = call.constant(2) * call.constant(4)
    zero = constant(0, "int32")
    dtype = dtype_of(call.tensor(0))
    return _requantized(call, product, scale, zero, call.constant(6), call.tensor(7), dtype)


def quantized_concatenate(call: OperatorCall) -> Value:
    tensors, scales, zero_points = (call.tensors(i) for i in range(3))
    axis = call.axis(len(shape_of(tensors[0])), default=0)
    parts = []
    for tensor, scale, zero_point in zip(tensors, scales, zero_points, strict=True):
        array = array_of(scale)
        if array is None:
            raise call.unsupported("with a scale known only at run time")
        parts.append(
            _requantized(
                call,
                tensor,
                array,
                zero_point,
                call.constant(3),
                call.tensor(4),
                dtype_of(tensor),
            )
        )
    return relax.op.concat(parts, axis)


def quantized_unary(function: Callable[..., relax.Expr]) -> Converter:
    """`qnn.tanh` and so on: the function of the real numbers."""

    def convert(call: OperatorCall) -> Value:
        data = call.tensor(0)
        result = call.emit(function(_real(call, data, call.tensor(1), call.tensor(2))))
        return _quantized(call, result, call.tensor(3), call.tensor(4), dtype_of(data))

    return convert
