"""Reductions along axes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tvm import relax

from hios_tvm.frontends.onnx.operators.call import (
    Converter,
    OperatorCall,
    Value,
    normalized_axis,
)
from hios_tvm.frontends.onnx.operators.casts import converted
from hios_tvm.frontends.onnx.operators.precision import is_float, widened
from hios_tvm.frontends.tensors import constant, constant_of, dtype_of, shape_of


@dataclass(frozen=True)
class _Axes:
    """Which axes of a tensor are reduced, counted from 0; each stays with extent 1 if `keep`."""

    of: tuple[int, ...]
    keep: bool

    def reduce(
        self, call: OperatorCall, function: Callable[..., relax.Expr], x: relax.Expr
    ) -> relax.Expr:
        """Reduce `x` by a Relax operator; without axes it stays as it is."""
        return call.emit(function(x, list(self.of), self.keep)) if self.of else x

    def count(self, x: relax.Expr) -> int:
        """How many elements become one."""
        return math.prod(shape_of(x)[axis] for axis in self.of)


Reduce = Callable[[OperatorCall, relax.Expr, _Axes], relax.Expr]


def reduction(reduce: Reduce, empty: float, *, attribute_until: int = 17) -> Converter:
    """A converter that reduces by `reduce`.

    Parameters
    ----------
    empty : float
        The result of no elements; integers cannot be infinite and get their least or largest
        number.
    attribute_until : int
        The last opset that has the axes as an attribute; they are an input since.
    """

    def convert(call: OperatorCall) -> Value:
        x = call.tensor(0)
        axes = _read_axes(call, len(shape_of(x)), call.version <= attribute_until)
        if axes.count(x) == 0:
            return _filled(_reduced_shape(x, axes), empty, dtype_of(x))
        return converted(call, reduce(call, widened(call, x), axes), dtype_of(x))

    return convert


def _read_axes(call: OperatorCall, rank: int, is_attribute: bool) -> _Axes:
    keep = call.attributes.flag("keepdims", True)
    if is_attribute:
        given: list[int] | None = call.attributes.integers("axes", ())
        no_operation = False
    else:
        given = call.integers(1, "its axes")
        no_operation = call.attributes.flag("noop_with_empty_axes")
    if not given:
        return _Axes(() if no_operation else tuple(range(rank)), keep)
    return _Axes(tuple(sorted({normalized_axis(axis, rank, "axes") for axis in given})), keep)


def _reduced_shape(x: relax.Expr, axes: _Axes) -> tuple[int, ...]:
    sizes = enumerate(shape_of(x))
    if axes.keep:
        return tuple(1 if axis in axes.of else size for axis, size in sizes)
    return tuple(size for axis, size in sizes if axis not in axes.of)


def _filled(shape: tuple[int, ...], value: float, dtype: str) -> relax.Expr:
    if not is_float(dtype) and not math.isfinite(value):
        if dtype == "bool":
            value = float(value > 0)
        else:
            limits = np.iinfo(dtype)
            return constant_of(np.full(shape, limits.max if value > 0 else limits.min, dtype))
    return constant(np.full(shape, value), dtype)


# --- Sums ---


def total(call: OperatorCall, x: relax.Expr, axes: _Axes) -> relax.Expr:
    return axes.reduce(call, relax.op.sum, x)


def mean(call: OperatorCall, x: relax.Expr, axes: _Axes) -> relax.Expr:
    """Of integers, the fraction is cut off."""
    if is_float(dtype_of(x)):
        return axes.reduce(call, relax.op.mean, x)
    result = call.cast(axes.reduce(call, relax.op.sum, call.cast(x, "int64")), "int64")
    return call.emit(relax.op.divide(result, constant(axes.count(x), "int64")))


def product(call: OperatorCall, x: relax.Expr, axes: _Axes) -> relax.Expr:
    return axes.reduce(call, relax.op.prod, x)


def absolute_sum(call: OperatorCall, x: relax.Expr, axes: _Axes) -> relax.Expr:
    size = x if dtype_of(x).startswith("u") else call.emit(relax.op.abs(x))
    return axes.reduce(call, relax.op.sum, size)


def square_sum(call: OperatorCall, x: relax.Expr, axes: _Axes) -> relax.Expr:
    return axes.reduce(call, relax.op.sum, call.emit(relax.op.multiply(x, x)))


def euclidean_norm(call: OperatorCall, x: relax.Expr, axes: _Axes) -> relax.Expr:
    return call.emit(relax.op.sqrt(square_sum(call, _as_float(call, x), axes)))


def log_sum(call: OperatorCall, x: relax.Expr, axes: _Axes) -> relax.Expr:
    return call.emit(relax.op.log(total(call, _as_float(call, x), axes)))


def log_sum_exp(call: OperatorCall, x: relax.Expr, axes: _Axes) -> relax.Expr:
    """The largest element is subtracted first, as exponentials would overflow."""
    x = _as_float(call, x)
    top = _Axes(axes.of, keep=True).reduce(call, relax.op.max, x)
    zero = constant(0, dtype_of(x))
    shift = call.emit(relax.op.where(relax.op.isinf(top), zero, top))
    powers = call.emit(relax.op.exp(relax.op.subtract(x, shift)))
    result = call.emit(relax.op.log(total(call, powers, axes)))
    shape = shape_of(result)
    return call.emit(relax.op.add(result, call.reshape(shift, shape)))


def _as_float(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    return x if is_float(dtype_of(x)) else call.cast(x, "float64")


# --- Extremes ---


def extreme(function: Callable[..., relax.Expr]) -> Reduce:
    def reduce(call: OperatorCall, x: relax.Expr, axes: _Axes) -> relax.Expr:
        if dtype_of(x) == "bool":
            x = call.cast(x, "uint8")
        return axes.reduce(call, function, x)

    return reduce


OPERATORS: Mapping[str, Converter] = {
    "ReduceL1": reduction(absolute_sum, 0.0),
    "ReduceL2": reduction(euclidean_norm, 0.0),
    "ReduceLogSum": reduction(log_sum, -math.inf),
    "ReduceLogSumExp": reduction(log_sum_exp, -math.inf),
    "ReduceMax": reduction(extreme(relax.op.max), -math.inf),
    "ReduceMean": reduction(mean, math.nan),
    "ReduceMin": reduction(extreme(relax.op.min), math.inf),
    "ReduceProd": reduction(product, 1.0),
    "ReduceSum": reduction(total, 0.0, attribute_until=12),
    "ReduceSumSquare": reduction(square_sum, 0.0),
}
