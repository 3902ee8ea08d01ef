"""Trigonometric and hyperbolic functions, and their inverses."""

from collections.abc import Callable, Mapping

from tvm import relax, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall
from hios_tvm.frontends.onnx.operators.precision import in_single, single
from hios_tvm.frontends.tensors import constant, dtype_of, shape_of


def elementwise(function: Callable[[tirx.Expr], tirx.Expr]) -> Converter:
    """A function of single elements."""

    def convert(call: OperatorCall, x: relax.Expr) -> relax.Expr:
        return call.elements(shape_of(x), lambda at, t: function(t(*at)), x)

    return in_single(convert)


def cosh(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    both = relax.op.add(relax.op.exp(x), relax.op.exp(relax.op.negative(x)))
    return relax.op.multiply(constant(0.5, dtype_of(x)), both)


def sinh(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    def number(value: float) -> relax.Expr:
        return constant(value, dtype_of(x))

    both = relax.op.subtract(relax.op.exp(x), relax.op.exp(relax.op.negative(x)))
    # Near zero the difference cancels; there a series is exact enough.
    square = call.emit(relax.op.multiply(x, x))
    series = number(1 / 39916800)
    for i in (362880, 5040, 120, 6, 1):
        series = relax.op.add(number(1 / i), relax.op.multiply(square, series))
    is_small = relax.op.less(relax.op.abs(x), number(0.3))
    large = relax.op.multiply(number(0.5), both)
    return relax.op.where(is_small, relax.op.multiply(x, series), large)


def _extern(name: str) -> Callable[[tirx.Expr], tirx.Expr]:
    """A function of the C library, which takes no vectors."""

    def call(x: tirx.Expr) -> tirx.Expr:
        suffix = "f" if str(x.ty.dtype) == "float32" else ""
        return tirx.call_pure_extern(x.ty, name + suffix, x)

    return call


OPERATORS: Mapping[str, Converter] = {
    "Acos": elementwise(_extern("acos")),
    "Acosh": elementwise(_extern("acosh")),
    "Asin": elementwise(_extern("asin")),
    "Asinh": elementwise(_extern("asinh")),
    "Atan": elementwise(_extern("atan")),
    "Atanh": elementwise(_extern("atanh")),
    "Cos": single(relax.op.cos),
    "Cosh": in_single(cosh),
    "Sin": single(relax.op.sin),
    "Sinh": in_single(sinh),
    "Tan": elementwise(_extern("tan")),
}
