"""Activation functions."""

import math
from collections.abc import Mapping

import ml_dtypes
from tvm import relax

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.casts import converted
from hios_tvm.frontends.onnx.operators.precision import in_single, is_float, single, widened
from hios_tvm.frontends.tensors import constant, dtype_of, shape_of


def _number(value: float, x: relax.Expr) -> relax.Expr:
    return constant(value, dtype_of(x))


def _where_negative(x: relax.Expr, then: relax.Expr) -> relax.Expr:
    """`then` for negative elements; NaN stays NaN."""
    return relax.op.where(relax.op.less(x, _number(0, x)), then, x)


# --- Pieces of lines ---


def relu(call: OperatorCall) -> Value:
    x = call.tensor(0)
    if is_float(dtype_of(x)):
        return relax.op.nn.relu(x)
    return relax.op.maximum(x, _number(0, x))


def leaky_relu(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    return relax.op.nn.leakyrelu(x, call.attributes.number("alpha", 0.01))


def p_relu(call: OperatorCall) -> Value:
    x, slope = call.tensor(0), call.tensor(1)
    if call.version < 7:  # one slope for all, or for each channel
        slope = call.along(slope, min(1, len(shape_of(x)) - 1), len(shape_of(x)))
    return _where_negative(x, relax.op.multiply(slope, x))


def thresholded_relu(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    limit = _number(call.attributes.number("alpha", 1.0), x)
    return relax.op.where(relax.op.greater(x, limit), x, _number(0, x))


def hard_sigmoid(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    alpha = _number(call.attributes.number("alpha", 0.2), x)
    beta = _number(call.attributes.number("beta", 0.5), x)
    line = call.emit(relax.op.add(relax.op.multiply(x, alpha), beta))
    return _between(line, 0.0, 1.0)


def hard_swish(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    line = call.emit(relax.op.add(relax.op.multiply(x, _number(1 / 6, x)), _number(0.5, x)))
    return relax.op.multiply(x, _between(line, 0.0, 1.0))


def _between(x: relax.Expr, low: float, high: float) -> relax.Expr:
    return relax.op.minimum(relax.op.maximum(x, _number(low, x)), _number(high, x))


def clip(call: OperatorCall) -> Value:
    """The upper bound wins; where a bound is left out, infinities become the largest number."""
    x = call.tensor(0)
    low, high = _bounds(call, dtype_of(x))
    if low is not None:
        x = call.emit(relax.op.maximum(x, low))
    return x if high is None else relax.op.minimum(x, high)


def _bounds(call: OperatorCall, dtype: str) -> tuple[relax.Expr | None, relax.Expr | None]:
    most = _largest(dtype)
    if call.version < 11:
        least = max(call.attributes.number("min", -most), -most)
        greatest = min(call.attributes.number("max", most), most)
        return constant(least, dtype), constant(greatest, dtype)
    given = [call.optional_tensor(i) for i in (1, 2)]
    low, high = (None if bound is None else call.reshape(bound, []) for bound in given)
    if is_float(dtype):
        low = constant(-most, dtype) if low is None else low
        high = constant(most, dtype) if high is None else high
    return low, high


def _largest(dtype: str) -> float:
    """The largest finite float of a type; infinity for integers, which have no need of it."""
    if not is_float(dtype):
        return math.inf
    return float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]


def shrink(call: OperatorCall) -> Value:
    """Integers are computed as floats, whose fraction is cut off."""
    x = call.tensor(0)
    wide = widened(call, x) if is_float(dtype_of(x)) else call.cast(x, "float64")
    bias = _number(call.attributes.number("bias", 0.0), wide)
    limit = call.attributes.number("lambd", 0.5)
    result = relax.op.where(
        relax.op.greater(wide, _number(limit, wide)),
        relax.op.subtract(wide, bias),
        _number(0, wide),
    )
    is_low = relax.op.less(wide, _number(-limit, wide))
    result = relax.op.where(is_low, relax.op.add(wide, bias), result)
    return converted(call, call.emit(result), dtype_of(x))


# --- Exponentials ---


def _exponential_minus_one(x: relax.Expr) -> relax.Expr:
    return relax.op.subtract(relax.op.exp(x), constant(1, dtype_of(x)))


def elu(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    alpha = _number(call.attributes.number("alpha", 1.0), x)
    return _where_negative(x, relax.op.multiply(alpha, _exponential_minus_one(x)))


def celu(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    alpha = _number(call.attributes.number("alpha", 1.0), x)
    scaled = call.emit(relax.op.divide(x, alpha))
    return _where_negative(x, relax.op.multiply(alpha, _exponential_minus_one(scaled)))


def selu(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    """Opset 1 has constants of fewer digits."""
    alpha, gamma = (1.6732, 1.0507) if call.version < 6 else (1.6732632423543772, 1.05070102214813)
    alpha = call.attributes.number("alpha", alpha)
    gamma = call.attributes.number("gamma", gamma)
    low = relax.op.multiply(_number(alpha, x), _exponential_minus_one(x))
    return relax.op.multiply(_number(gamma, x), _where_negative(x, low))


def swish(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    alpha = call.attributes.number("alpha", 1.0)
    if alpha == 1.0:
        return relax.op.nn.silu(x)
    return relax.op.multiply(x, relax.op.sigmoid(relax.op.multiply(x, _number(alpha, x))))


def softplus(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    """log(1 + e^x), with a series where the sum would lose the digits of a small e^x."""
    power = call.emit(relax.op.exp(relax.op.negative(relax.op.abs(x))))
    logarithm = relax.op.log(relax.op.add(power, _number(1, x)))
    series = _number(0, x)  # p - p^2/2 + p^3/3 - ...
    for i in range(9 if dtype_of(x) == "float64" else 4, 0, -1):
        series = relax.op.subtract(_number(1 / i, x), relax.op.multiply(power, series))
    is_small = relax.op.less(power, _number(0.01, x))
    logarithm = relax.op.where(is_small, relax.op.multiply(power, series), logarithm)
    return relax.op.add(relax.op.maximum(x, _number(0, x)), logarithm)


def mish(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    """x * tanh(log(1 + e^x)), without the logarithm."""
    # Above 20 the result is x in single precision, and nothing below may overflow
    most = 40.0 if dtype_of(x) == "float64" else 20.0
    power = call.emit(relax.op.exp(relax.op.minimum(x, _number(most, x))))
    top = call.emit(relax.op.multiply(power, relax.op.add(power, _number(2, x))))
    ratio = relax.op.divide(top, relax.op.add(top, _number(2, x)))
    return relax.op.multiply(x, ratio)


def gelu(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    if call.attributes.choice("approximate", ("none", "tanh"), "none") == "tanh":
        return relax.op.nn.gelu_tanh(x)
    return relax.op.nn.gelu(x)


def error_function(call: OperatorCall) -> Value:
    """Integers are allowed, too."""
    x = call.tensor(0)
    wide = widened(call, x) if is_float(dtype_of(x)) else call.cast(x, "float32")
    return converted(call, call.emit(relax.op.erf(wide)), dtype_of(x))


OPERATORS: Mapping[str, Converter] = {
    "Celu": in_single(celu),
    "Clip": clip,
    "Elu": in_single(elu),
    "Erf": error_function,
    "Gelu": in_single(gelu),
    "HardSigmoid": in_single(hard_sigmoid),
    "HardSwish": in_single(hard_swish),
    "LeakyRelu": in_single(leaky_relu),
    "Mish": in_single(mish),
    "PRelu": p_relu,
    "Relu": relu,
    "Selu": in_single(selu),
    "Shrink": shrink,
    "Sigmoid": single(relax.op.sigmoid),
    "Softplus": in_single(softplus),
    "Softsign": single(lambda x: relax.op.divide(x, relax.op.add(_number(1, x), relax.op.abs(x)))),
    "Swish": in_single(swish),
    "Tanh": single(relax.op.tanh),
    "ThresholdedRelu": in_single(thresholded_relu),
}
