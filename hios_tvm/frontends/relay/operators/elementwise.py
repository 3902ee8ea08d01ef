"""Operators on single elements, and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import relax
from tvm.ir import GenericConst

from hios_tvm.frontends.division import Part, divided
from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import constant, dtype_of, shape_of

Operator = Callable[..., relax.Expr]


def unary(function: Operator) -> Converter:
    """An operator of one tensor without attributes."""
    return lambda call: function(call.tensor(0))


def binary(function: Operator) -> Converter:
    """An operator of two tensors that broadcast."""
    return lambda call: function(call.tensor(0), call.tensor(1))


def identity(call: OperatorCall) -> Value:
    """Annotations for Relay's own code generation."""
    call.attributes.ignore_all()
    return call.tensor(0)


def logarithm(base: float) -> Converter:
    def convert(call: OperatorCall) -> Value:
        x = call.tensor(0)
        logarithm = call.emit(relax.op.log(x))
        return relax.op.multiply(logarithm, constant(1 / math.log(base), dtype_of(x)))

    return convert


def round_half_away(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    """Relay rounds halves away from zero, and Relax to the even number."""
    if "float" not in dtype_of(x):
        return x
    whole = call.emit(relax.op.trunc(x))
    rest = call.emit(relax.op.subtract(x, whole))  # exact, so that its double is too
    step = call.emit(relax.op.trunc(call.emit(relax.op.add(rest, rest))))
    rounded = call.emit(relax.op.add(whole, step))
    return call.emit(relax.op.where(call.emit(relax.op.isinf(x)), x, rounded))


def cast(call: OperatorCall) -> Value:
    return call.cast(call.tensor(0), call.attributes.dtype("dtype"))


def cast_like(call: OperatorCall) -> Value:
    return call.cast(call.tensor(0), dtype_of(call.tensor(1)))


def clip(call: OperatorCall) -> Value:
    x = call.tensor(0)
    low, high = call.attributes.number("a_min"), call.attributes.number("a_max")
    dtype = dtype_of(x)
    bounded = call.emit(relax.op.maximum(x, _bound(low, dtype)))
    return relax.op.minimum(bounded, _bound(high, dtype))


def _bound(value: float, dtype: str) -> GenericConst:
    """A limit in the tensor's type; outside of an integer type, the end of its range."""
    if "int" not in dtype:
        return constant(value, dtype)
    bits = int(dtype.lstrip("uint"))
    low, high = (0, 2**bits - 1) if dtype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return constant(int(min(max(value, low), high)), dtype)


def where(call: OperatorCall) -> Value:
    condition = call.tensor(0)
    if dtype_of(condition) != "bool":
        zero = constant(0, dtype_of(condition))
        condition = call.emit(relax.op.not_equal(condition, zero))
    return relax.op.where(condition, call.tensor(1), call.tensor(2))


def division(part: Part, of_floats: Operator) -> Converter:
    """A quotient or remainder, whose integers are those that have one."""

    def convert(call: OperatorCall) -> Value:
        left, right = call.tensor(0), call.tensor(1)
        if "int" in dtype_of(left):
            return divided(call, left, right, part)
        return of_floats(left, right)

    return convert


def truncated_quotient(left: relax.Expr, right: relax.Expr) -> relax.Expr:
    return relax.op.trunc(relax.op.divide(left, right))


# --- Reductions ---


def _reduced_axes(call: OperatorCall) -> list[int]:
    """Relay reduces all axes where none is given, and with `exclude` all others."""
    rank = len(shape_of(call.tensor(0)))
    given = call.attributes.optional_integers("axis") or []
    exclude = call.attributes.flag("exclude")
    for axis in given:
        if not -rank <= axis < rank:
            raise call.error(f"axis {axis} is not an axis of {rank} dimensions")
    axes = {axis % rank for axis in given}
    if not axes:
        return list(range(rank))
    return [axis for axis in range(rank) if (axis in axes) != exclude]


def reduction(function: Operator) -> Converter:
    def convert(call: OperatorCall) -> Value:
        axes, keep = _reduced_axes(call), call.attributes.flag("keepdims")
        return function(call.tensor(0), axes, keep) if axes else call.tensor(0)

    return convert


def bool_reduction(function: Callable[..., Any]) -> Converter:
    def convert(call: OperatorCall) -> Value:
        axes, keep = _reduced_axes(call), call.attributes.flag("keepdims")
        return call.compute(function, call.tensor(0), axes, keep) if axes else call.tensor(0)

    return convert


def arg_reduction(function: Callable[..., Any]) -> Converter:
    """`argmax` and `argmin`: over several axes, the index is that of the flattened axes."""

    def convert(call: OperatorCall) -> Value:
        axes, keep = _reduced_axes(call), call.attributes.flag("keepdims")
        last = call.attributes.flag("select_last_index")
        index = call.compute(function, call.tensor(0), axes, keep, last)
        return call.cast(index, "int32")

    return convert


def variance(call: OperatorCall) -> Value:
    x, mean = call.tensor(0), call.tensor(1)
    axes, keep = _reduced_axes(call), call.attributes.flag("keepdims")
    deviation = call.emit(relax.op.subtract(x, mean))
    squares = call.emit(relax.op.multiply(deviation, deviation))
    result = call.emit(relax.op.mean(squares, axes, keep))
    if not call.attributes.flag("unbiased"):
        return result
    count = math.prod(shape_of(x)[axis] for axis in axes)
    return relax.op.multiply(result, constant(count / (count - 1), dtype_of(x)))
