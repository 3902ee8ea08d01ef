"""Positions of extremes, the largest elements, softmax and related functions, running sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value, normalized_axis
from hios_tvm.frontends.onnx.operators.precision import is_float, least, widened
from hios_tvm.frontends.tensors import constant_of, dtype_of, shape_of
from hios_tvm.schema.value_checks import RESULT_RANGE

Pair = tuple[tirx.Expr, tirx.Expr]


# --- Positions of extremes ---


def arg_extreme(is_max: bool) -> Converter:
    """The position of the largest or least element along an axis; NaN comes before all numbers."""

    def convert(call: OperatorCall) -> Value:
        x = widened(call, call.tensor(0))
        axis = call.axis(len(shape_of(x)), 0) if shape_of(x) else 0
        last = call.attributes.flag("select_last_index")
        keep = call.attributes.flag("keepdims", True)
        index = _position(call, x, axis, is_max=is_max, last=last)
        shape = list(shape_of(x))
        shape[axis : axis + 1] = [1] if keep else []
        return call.reshape(index, shape)

    return convert


def _position(
    call: OperatorCall, x: relax.Expr, axis: int, *, is_max: bool, last: bool
) -> relax.Expr:
    if not shape_of(x):
        return constant_of(np.zeros((), np.int64))
    if shape_of(x)[axis] == 0:
        raise ValueError("there is no extreme of no elements")
    positions = {RESULT_RANGE: [0, shape_of(x)[axis] - 1]}
    return call.compute(lambda t: _te_position(t, axis, is_max, last), x, primfunc_attrs=positions)


def _te_position(x: te.Tensor, axis: int, is_max: bool, last: bool) -> te.Tensor:
    dtype = str(x.dtype)

    def better(a: Pair, b: Pair) -> tirx.Expr:
        (i, u), (j, v) = a, b
        first = i > j if last else i < j
        beats, equal = (u > v if is_max else u < v), u == v
        if is_float(dtype):
            beats = tirx.any(beats, tirx.all(tirx.isnan(u), tirx.Not(tirx.isnan(v))))
            equal = tirx.any(equal, tirx.all(tirx.isnan(u), tirx.isnan(v)))
        return tirx.any(beats, tirx.all(equal, first))

    def combine(a: Pair, b: Pair) -> Pair:
        choice = better(a, b)
        return tirx.Select(choice, a[0], b[0]), tirx.Select(choice, a[1], b[1])

    def nothing(_index: str, value: str) -> Pair:
        worst = tirx.const(-1 if last else np.iinfo("int64").max, "int64")
        return worst, least(value) if is_max else _most(value)

    reducer = te.comm_reducer(combine, nothing, name="position")
    shape = [int(n) for n in x.shape]
    k = te.reduce_axis((0, shape[axis]), "k")

    def element(*at: tirx.Var) -> Pair:
        index = (*at[:axis], k, *at[axis:])
        pair: Pair = reducer((tirx.Cast("int64", k.var), x(*index)), axis=[k])
        return pair

    return te.compute(shape[:axis] + shape[axis + 1 :], element, name="position")[0]


def _most(dtype: str) -> tirx.Expr:
    return tirx.const(np.inf if is_float(dtype) else int(np.iinfo(dtype).max), dtype)


# --- Softmax ---


def softmax(function: Callable[[OperatorCall, relax.Expr, int], relax.Expr]) -> Converter:
    """Before opset 13, over all dimensions from the axis on."""

    def convert(call: OperatorCall) -> Value:
        x = call.tensor(0)
        shape = shape_of(x)
        axis = call.axis(len(shape), 1 if call.version < 13 else -1) if shape else 0
        if prod(shape) == 0:
            return x
        wide = widened(call, x)
        if not shape or (call.version < 13 and axis != len(shape) - 1):
            wide = call.reshape(wide, [prod(shape[:axis]), prod(shape[axis:])])
            axis = 1
        return call.reshape(call.cast(call.emit(function(call, wide, axis)), dtype_of(x)), shape)

    return convert


def hardmax(call: OperatorCall, x: relax.Expr, axis: int) -> relax.Expr:
    """One at the first of the largest elements, zero elsewhere."""
    shape = shape_of(x)
    top = call.cast(_position(call, x, axis, is_max=True, last=False), "int64")
    top = call.reshape(top, [1 if i == axis else n for i, n in enumerate(shape)])
    positions = call.along(constant_of(np.arange(shape[axis])), axis, len(shape))
    if shape[axis] == 1:
        positions = call.reshape(positions, [1] * len(shape))
    return call.cast(call.emit(relax.op.equal(top, positions)), dtype_of(x))


# --- Running sums and products ---


def running(function: Callable[..., relax.Expr]) -> Converter:
    def convert(call: OperatorCall) -> Value:
        x, given = call.tensor(0), call.integers(1, "its axis")
        if given is None or len(given) != 1:
            raise ValueError("its axis must be one number")
        axis = normalized_axis(given[0], len(shape_of(x)))
        exclusive = call.attributes.flag("exclusive")
        reverse = call.attributes.flag("reverse")
        wide = widened(call, x)
        if reverse:
            wide = call.emit(relax.op.flip(wide, axis))
        result = call.emit(function(wide, axis, dtype_of(wide), exclusive))
        if reverse:
            result = call.emit(relax.op.flip(result, axis))
        return call.cast(result, dtype_of(x))

    return convert


# --- The largest elements ---


def top_k(call: OperatorCall) -> list[Value]:
    """Of equal elements the first comes first; NaN counts as the largest."""
    x = call.tensor(0)
    axis = call.axis(len(shape_of(x)), -1)
    if call.version < 10:
        count = call.attributes.integer("k")
    else:
        (count,) = call.integers(1, "its number of elements") or [0]
    largest = call.attributes.flag("largest", True)
    call.attributes.ignore("sorted")  # any order is right otherwise
    size = shape_of(x)[axis]
    if not 0 <= count <= size:
        raise ValueError(f"there are no {count} elements along an axis of {size}")
    wide = widened(call, x)
    keys = call.elements(shape_of(x), lambda at, t: _sort_key(t(*at), descending=largest), wide)
    order = call.emit(relax.op.argsort(keys, axis, False, "int64"))
    index = call.emit(relax.op.strided_slice(order, [axis], [0], [count]))
    return [call.emit(relax.op.gather_elements(x, index, axis)), index]


def _sort_key(value: tirx.Expr, *, descending: bool) -> tirx.Expr:
    """An integer in the order of the elements, zeros of both signs alike."""
    dtype = str(value.ty.dtype)
    bits = 64 if dtype in ("float64", "int64", "uint64") else 32
    signed = f"int{bits}"
    if is_float(dtype):
        plain = value + tirx.const(0, dtype)  # no negative zero
        whole = tirx.reinterpret(signed, plain)
        flipped = whole ^ tirx.const(np.iinfo(signed).max, signed)
        whole = tirx.Select(whole < 0, flipped, whole)
        whole = tirx.Select(tirx.isnan(value), tirx.const(np.iinfo(signed).max, signed), whole)
    elif dtype in ("uint32", "uint64"):
        whole = tirx.reinterpret(signed, value) ^ tirx.const(np.iinfo(signed).min, signed)
    else:
        whole = tirx.Cast(signed, value)
    return ~whole if descending else whole


OPERATORS: Mapping[str, Converter] = {
    "ArgMax": arg_extreme(is_max=True),
    "ArgMin": arg_extreme(is_max=False),
    "CumProd": running(relax.op.cumprod),
    "CumSum": running(relax.op.cumsum),
    "Hardmax": softmax(hardmax),
    "LogSoftmax": softmax(lambda _, x, axis: relax.op.nn.log_softmax(x, axis)),
    "Softmax": softmax(lambda _, x, axis: relax.op.nn.softmax(x, axis)),
    "TopK": top_k,
}
