"""GELU in fewer operations than by the error function, and more exact.

``gelu(x) = x * P(x)``, where P is the distribution function of a normal variable. The usual formula
``x * (1 + erf(x / sqrt 2)) / 2`` cancels for negative x. Here, for a = |x|,

    h = exp(-R(a))                       R is a polynomial, and h the smaller of P(x) and P(-x)
    gelu(x) = x * (h if x < 0 else 1 - h)
"""

import math

import tvm
from tvm import relax, te, tirx
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main

_ADD, _MULTIPLY, _DIVIDE, _ERF = "relax.add", "relax.multiply", "relax.divide", "relax.erf"

_MINUS_LOG_P = (
    0.6931463479995728,
    0.7979162335395813,
    0.31810522079467773,
    0.03684886544942856,
    -0.005435202736407518,
    0.0004370801616460085,
    0.000008885610441211611,
    -0.000005372274699766422,
    0.0000003470715057574125,
)
"""-log P(-a) for a >= 0, such that a * P(-a) is right to 1e-10 beyond 4; it grows for ever."""


@tvm.transform.module_pass(opt_level=0, name="RecognizeGelu")
class RecognizeGelu:
    """Make GELU of the product of x, a half, and ``1 + erf(x / sqrt 2)``, in any order.

    So exporters write it for versions of ONNX without the operator.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, _rewrite)


def _rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    if operator_name(value) != _MULTIPLY:
        return value
    factors = _factors(rewriter, value)
    halves = [factor for factor in factors if _is_number(factor, 0.5)]
    others = [factor for factor in factors if not _is_number(factor, 0.5)]
    if len(halves) != 1 or len(others) != 2:
        return value
    for x, sum_ in (others, others[::-1]):
        if x.same_as(_argument(rewriter, sum_)) and x.ty == value.ty:
            return relax.op.nn.gelu(x)
    return value


def _factors(rewriter: Rewriter, product: relax.Expr) -> list[relax.Expr]:
    """Return the factors of a product, and those of a factor that is a product."""
    direct = list(product.args)
    for i, factor in enumerate(direct):
        inner = rewriter.producer(factor, (_MULTIPLY,))
        if inner is not None:
            return [*direct[:i], *inner.args, *direct[i + 1 :]]
    return direct


def _argument(rewriter: Rewriter, value: relax.Expr) -> relax.Expr | None:
    """Return x where `value` is ``1 + erf(x / sqrt 2)``."""
    erf = rewriter.producer(_without_number(rewriter.producer(value, (_ADD,)), 1.0), (_ERF,))
    if erf is None:
        return None
    scaled = rewriter.producer(erf.args[0], (_MULTIPLY, _DIVIDE))
    if scaled is not None and operator_name(scaled) == _DIVIDE:
        return scaled.args[0] if _is_number(scaled.args[1], math.sqrt(2.0)) else None
    return _without_number(scaled, math.sqrt(0.5))


def _without_number(call: Call | None, number: float) -> relax.Expr | None:
    """Return the operand beside `number`, if that is the other one of two."""
    if call is None:
        return None
    left, right = call.args
    if _is_number(right, number):
        return left
    return right if _is_number(left, number) else None


def _is_number(value: relax.Expr, number: float) -> bool:
    array = constant_value(value)
    return (
        array is not None and array.size == 1 and math.isclose(array.item(), number, rel_tol=1e-6)
    )


def legalize_gelu(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return GELU of single precision, None of any other type."""
    if str(call.ty.dtype.dtype) != "float32":
        return None
    return builder.call_te(_gelu, call.args[0])


def _gelu(x: te.Tensor) -> te.Tensor:
    def element(*at: tirx.Var) -> tirx.Expr:
        value = x(*at)
        a = tirx.abs(value)
        total: tirx.Expr = tirx.const(_MINUS_LOG_P[-1], "float32")
        for coefficient in _MINUS_LOG_P[-2::-1]:
            total = total * a + tirx.const(coefficient, "float32")
        zero, one = (tirx.const(number, "float32") for number in (0.0, 1.0))
        h = tirx.exp(zero - total)
        return value * tirx.Select(value < zero, h, one - h)

    return te.compute(x.shape, element, name="gelu")
