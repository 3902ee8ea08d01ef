"""Arithmetic on single elements: sums, products, quotients, powers, extremes, rounding, bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.division import Part, broadcast, differ_in_sign, divided, elementwise
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.casts import converted
from hios_tvm.frontends.onnx.operators.precision import is_float, is_signed, single, widened
from hios_tvm.frontends.tensors import array_of, constant, constant_of, dtype_of, shape_of

Function = Callable[..., relax.Expr]


def operands(call: OperatorCall) -> tuple[relax.Expr, relax.Expr]:
    """Two tensors that broadcast as NumPy's.

    Up to opset 6 the second one's dimensions are those of the first from ``axis`` on.
    """
    left, right = call.tensor(0), call.tensor(1)
    if call.version >= 7:
        return left, right
    call.attributes.ignore("broadcast")
    rank, shape = len(shape_of(left)), shape_of(right)
    if "axis" in call.attributes and 0 < len(shape) < rank:
        axis = call.axis(rank)
        if axis + len(shape) > rank:
            raise ValueError(f"{len(shape)} dimensions do not fit axis {axis} of {rank}")
        right = call.reshape(right, [*shape, *[1] * (rank - axis - len(shape))])
    call.attributes.ignore("axis")
    return left, right


def binary(function: Function) -> Converter:
    """An operator of two tensors without attributes of its own."""
    return lambda call: function(*operands(call))


def unary(function: Function) -> Converter:
    """An operator of one tensor that is exact in every type."""
    return lambda call: function(call.tensor(0))


# --- Quotients and powers ---


def divide(call: OperatorCall) -> Value:
    left, right = operands(call)
    if is_float(dtype_of(left)):
        return relax.op.divide(left, right)
    return divided(call, left, right, "quotient")


def modulo(call: OperatorCall) -> Value:
    """The remainder has the divisor's sign, with ``fmod`` the dividend's."""
    is_truncated, dtype = call.attributes.flag("fmod"), dtype_of(call.tensor(0))
    if not is_float(dtype):
        part: Part = "remainder" if is_truncated else "modulus"
        return divided(call, call.tensor(0), call.tensor(1), part)
    function = _float_remainder if is_truncated else _float_modulus
    left, right = (widened(call, call.tensor(i)) for i in range(2))
    return call.cast(call.compute(partial(elementwise, function), left, right), dtype)


def _float_remainder(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    name = "fmodf" if str(a.ty.dtype) == "float32" else "fmod"
    return tirx.call_pure_extern(a.ty, name, a, b)


def _float_modulus(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """As NumPy's: a zero has the divisor's sign, too."""
    zero = tirx.const(0, a.ty)
    remainder = _float_remainder(a, b)
    moved = tirx.Select(differ_in_sign(remainder, b), remainder + b, remainder)
    return tirx.Select(remainder == zero, tirx.copysign(zero, b), moved)


def power(call: OperatorCall) -> Value:
    """The result has the base's type, whatever the exponent's."""
    base, exponent = operands(call)
    dtype, known = dtype_of(base), array_of(exponent)
    if not is_float(dtype) and not is_float(dtype_of(exponent)):
        return call.compute(_integer_power, base, call.cast(exponent, "int64"))
    if is_float(dtype) and known is not None and known.size == 1 and known.flat[0] in (2, 3):
        shape = np.broadcast_shapes(shape_of(base), shape_of(exponent))
        return _small_power(call, base, int(known.flat[0]), shape)
    # Integers above 2^24 are no floats of single precision
    is_mixed = dtype_of(exponent) != dtype and known is None
    is_double = is_mixed or dtype == "float64" or not is_float(dtype)
    compute = "float64" if is_double else "float32"
    result = call.emit(relax.op.power(call.cast(base, compute), call.cast(exponent, compute)))
    return converted(call, result, dtype)


def _small_power(
    call: OperatorCall, base: relax.Expr, exponent: int, shape: tuple[int, ...]
) -> relax.Expr:
    wide = call.broadcast(widened(call, base), shape)
    result = call.emit(relax.op.multiply(wide, wide))
    if exponent == 3:
        result = call.emit(relax.op.multiply(result, wide))
    return call.cast(result, dtype_of(base))


def _integer_power(base: te.Tensor, exponent: te.Tensor) -> te.Tensor:
    """Modulo the range; of negative exponents, the fraction is cut off."""
    base, exponent = broadcast(base, exponent)
    dtype = str(base.dtype)
    one, zero = tirx.const(1, dtype), tirx.const(0, dtype)
    k = te.reduce_axis((0, 64), "k")
    multiply = te.comm_reducer(lambda a, b: a * b, lambda kind: tirx.const(1, kind), name="product")

    def factor(*at: tirx.Var) -> tirx.Expr:
        # From 64 on, all bases but 0, 1 and -1 exceed the range; these depend on the parity alone
        exact, last = exponent(*at), 62 + tirx.truncmod(exponent(*at), tirx.const(2, "int64"))
        count = tirx.Select(exact < tirx.const(64, "int64"), exact, last)
        return multiply(tirx.Select(tirx.Cast("int64", k.var) < count, base(*at), one), axis=[k])

    def result(*at: tirx.Var) -> tirx.Expr:
        inverse = tirx.Select(base(*at) == one, one, zero)
        if is_signed(dtype):
            minus = tirx.const(-1, dtype)
            is_odd = tirx.truncmod(exponent(*at), tirx.const(2, "int64")) != 0
            inverse = tirx.Select(base(*at) == minus, tirx.Select(is_odd, minus, one), inverse)
        return tirx.Select(exponent(*at) < tirx.const(0, "int64"), inverse, products(*at))

    products = te.compute(base.shape, factor, name="products")
    return te.compute(base.shape, result, name="power")


# --- Any number of tensors ---


def variadic(function: Function) -> Converter:
    """Combine all tensors by a function of two."""

    def convert(call: OperatorCall) -> Value:
        first, *rest = call.tensors()
        for tensor in rest:
            first = call.emit(function(tensor, first))  # kernels repeat their left operand
        return first

    return convert


def total(call: OperatorCall) -> Value:
    return call.cast(_sum(call), dtype_of(call.tensor(0)))


def mean(call: OperatorCall) -> Value:
    result = _sum(call)
    count = constant(len(call.arguments), dtype_of(result))
    return call.cast(call.emit(relax.op.divide(result, count)), dtype_of(call.tensor(0)))


def _sum(call: OperatorCall) -> relax.Expr:
    first, *rest = (widened(call, tensor) for tensor in call.tensors())
    for tensor in rest:
        first = call.emit(relax.op.add(first, tensor))
    return first


# --- Signs and rounding ---


def absolute(call: OperatorCall) -> Value:
    x = call.tensor(0)
    return relax.op.abs(x) if is_signed(dtype_of(x)) else x


def sign(call: OperatorCall) -> Value:
    """NaN stays NaN."""
    x = widened(call, call.tensor(0))
    zero, one = constant(0, dtype_of(x)), constant(1, dtype_of(x))
    result = relax.op.where(relax.op.greater(x, zero), one, zero)
    if is_signed(dtype_of(x)):
        result = relax.op.where(relax.op.less(x, zero), constant(-1, dtype_of(x)), result)
    if is_float(dtype_of(x)):
        result = relax.op.where(relax.op.isnan(x), x, result)
    return call.cast(call.emit(result), dtype_of(call.tensor(0)))


# --- Bits ---


def bit_shift(call: OperatorCall) -> Value:
    """Shifts by a negative number, or by all bits and more, shift every bit out."""
    x, places = operands(call)
    dtype = dtype_of(x)
    bits = np.iinfo(dtype).bits
    is_right = call.attributes.choice("direction", ("LEFT", "RIGHT"), "") == "RIGHT"
    inside = call.emit(relax.op.less(places, constant(bits, dtype)))
    if is_signed(dtype):
        positive = call.emit(relax.op.greater_equal(places, constant(0, dtype)))
        inside = call.emit(relax.op.logical_and(inside, positive))
    all_but_sign = constant(bits - 1 if is_right else 0, dtype)
    places = call.emit(relax.op.where(inside, places, all_but_sign))
    shift = relax.op.right_shift if is_right else relax.op.left_shift
    shifted = call.emit(shift(x, places))
    if is_right and is_signed(dtype):
        return shifted  # what is left of it is the sign
    return relax.op.where(inside, shifted, constant_of(np.zeros((), dtype)))


OPERATORS: Mapping[str, Converter] = {
    "Abs": absolute,
    "Add": binary(relax.op.add),
    "BitShift": bit_shift,
    "BitwiseAnd": binary(relax.op.bitwise_and),
    "BitwiseNot": unary(relax.op.bitwise_not),
    "BitwiseOr": binary(relax.op.bitwise_or),
    "BitwiseXor": binary(relax.op.bitwise_xor),
    "Ceil": single(relax.op.ceil),
    "Div": divide,
    "Exp": single(relax.op.exp),
    "Floor": single(relax.op.floor),
    "Log": single(relax.op.log),
    "Max": variadic(relax.op.maximum),
    "Mean": mean,
    "Min": variadic(relax.op.minimum),
    "Mod": modulo,
    "Mul": binary(relax.op.multiply),
    "Neg": unary(relax.op.negative),
    "Pow": power,
    "Reciprocal": single(lambda x: relax.op.divide(constant(1, dtype_of(x)), x)),
    "Round": single(relax.op.round),
    "Sign": sign,
    "Sqrt": single(relax.op.sqrt),
    "Sub": binary(relax.op.subtract),
    "Sum": total,
}
