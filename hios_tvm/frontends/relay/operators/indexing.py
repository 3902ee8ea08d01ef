"""Slices, gathers, scatters, sorting, and tensors from shapes and values alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, tirx, topi

from hios_tvm.frontends import indexing
from hios_tvm.frontends.division import divisors
from hios_tvm.frontends.indexing import checked_indices
from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import (
    MAX_DIMENSIONS,
    array_of,
    constant,
    constant_of,
    dtype_of,
    shape_of,
)
from hios_tvm.schema.value_checks import ValidValues

MAX_CONSTANT_ELEMENTS = 1 << 24

Operator = Callable[..., relax.Expr]


# --- Slices ---


def strided_slice(call: OperatorCall) -> Value:
    data, attributes = call.tensor(0), call.attributes
    shape = shape_of(data)
    begin, end = attributes.integers("begin"), attributes.integers("end")
    axes = attributes.optional_integers("axes")
    axes = list(range(len(begin))) if axes is None else axes
    if attributes.choice("slice_mode", ("end", "size"), "end") == "size":
        attributes.optional_integers("strides")
        strides = [1] * len(begin)
        end = [
            shape[axis] if size < 0 else start + size
            for axis, start, size in zip(axes, begin, end, strict=True)
        ]
    else:
        strides = attributes.optional_integers("strides") or [1]
        strides = strides * len(begin) if len(strides) == 1 else strides
    if not len(begin) == len(end) == len(strides) == len(axes) <= len(shape):
        raise call.error("begin, end, strides and axes have different lengths")
    if any(not -len(shape) <= axis < len(shape) for axis in axes) or 0 in strides:
        raise call.error(f"axes {axes} with strides {strides} do not fit {list(shape)}")
    return _slice(call, data, [axis % len(shape) for axis in axes], begin, end, strides)


def _slice(
    call: OperatorCall,
    data: relax.Expr,
    axes: list[int],
    begin: list[int],
    end: list[int],
    strides: list[int],
) -> relax.Expr:
    """Slice as Python does, with bounds inside of the tensor."""
    bounds = []
    for axis, *part in zip(axes, begin, end, strides, strict=True):
        first, last, stride = slice(*part).indices(shape_of(data)[axis])
        if len(range(first, last, stride)) == 0:
            raise call.error(f"nothing of axis {axis} is left")
        # -1 would count from the end again: one more step back is before the first element.
        bounds.append((first, last if last >= 0 else -shape_of(data)[axis] - 1, stride))
    firsts, lasts, steps = (list(values) for values in zip(*bounds, strict=True))
    return call.emit(relax.op.strided_slice(data, axes, firsts, lasts, steps))


def slice_like(call: OperatorCall) -> Value:
    data, like = call.tensor(0), call.tensor(1)
    rank = len(shape_of(data))
    axes = call.attributes.optional_integers("axes") or list(range(len(shape_of(like))))
    if any(not -rank <= axis < rank for axis in axes):
        raise call.error(f"{axes} are not axes of {rank} dimensions")
    axes = [axis % rank for axis in axes]
    end = [shape_of(like)[axis] for axis in axes]
    return _slice(call, data, axes, [0] * len(axes), end, [1] * len(axes))


def fifo_buffer(call: OperatorCall) -> Value:
    """The buffer without its oldest elements, and the data behind it."""
    data, buffer = call.tensor(0), call.tensor(1)
    axis = call.axis(len(shape_of(buffer)), default=0)
    size = shape_of(buffer)[axis]
    joined = call.emit(relax.op.concat([buffer, data], axis))
    return _slice(call, joined, [axis], [-size], [shape_of(joined)[axis]], [1])


# --- Gathers and scatters ---


def take(call: OperatorCall) -> Value:
    """The modes say what indices outside of the data select; in ``fast`` there must be none."""
    data, indices, attributes = call.tensor(0), call.tensor(1), call.attributes
    mode = attributes.choice("mode", ("clip", "wrap", "fast"), "clip")
    batch_dims = attributes.integer("batch_dims", 0)
    if "axis" in attributes:
        axis = call.axis(len(shape_of(data)))
    else:
        data, axis, batch_dims = call.reshape(data, [math.prod(shape_of(data))]), 0, 0
    if mode == "fast":
        indices, mode = checked_indices(call, indices, [shape_of(data)[axis]]), "clip"
    if batch_dims:
        return call.compute(topi.take, data, indices, axis, batch_dims, mode)
    return relax.op.take(data, indices, axis, mode)


def gather(call: OperatorCall) -> Value:
    data = call.tensor(0)
    return indexing.gather_elements(call, data, call.tensor(1), call.axis(len(shape_of(data))))


def gather_nd(call: OperatorCall) -> Value:
    batch_dims = call.attributes.integer("batch_dims", 0)
    call.attributes.optional_integer("index_rank")
    return indexing.gather_nd(call, call.tensor(0), _coordinates_last(call), batch_dims)


def _coordinates_last(call: OperatorCall) -> relax.Expr:
    """Relay has the coordinates of an element along the first axis, Relax along the last."""
    indices = call.cast(call.tensor(1), "int64")
    return call.permute(indices, [*range(1, len(shape_of(indices))), 0])


def scatter(reduction: str | None) -> Converter:
    """Scatter along an axis; without a reduction the attribute of that name says which."""
    kinds = ("update", "add", "mul", "mean", "min", "max")

    def convert(call: OperatorCall) -> Value:
        data, indices, updates = (call.tensor(i) for i in range(3))
        axis = call.axis(len(shape_of(data)), default=0)
        kind = reduction or call.attributes.choice("reduction", kinds, "update")
        return indexing.scatter_elements(call, data, indices, updates, axis, kind)

    return convert


def scatter_nd(call: OperatorCall) -> Value:
    mode = call.attributes.choice("mode", ("update", "add", "mul", "min", "max"), "update")
    data, updates = call.tensor(0), call.tensor(2)
    return indexing.scatter_nd(call, data, _coordinates_last(call), updates, mode)


def advanced_index(call: OperatorCall) -> Value:
    data, *indices = call.tensors(0)
    if len(indices) > len(shape_of(data)):
        raise call.error(f"{len(indices)} indices do not fit {len(shape_of(data))} dimensions")
    inside = [
        checked_indices(call, index, [size])
        for index, size in zip(indices, shape_of(data), strict=False)
    ]
    return call.compute(topi.adv_index, data, inside)


def unravel_index(call: OperatorCall) -> Value:
    indices, shape = call.tensor(0), call.tensor(1)
    if len(shape_of(shape)) != 1 or not 1 <= shape_of(shape)[0] <= MAX_DIMENSIONS:
        raise call.error(f"a tensor of {list(shape_of(shape))} elements is not a shape")
    return call.compute(topi.unravel_index, indices, divisors(call, shape))


def sequence_mask(call: OperatorCall) -> Value:
    value, axis = call.attributes.number("mask_value", 0.0), call.attributes.integer("axis", 0)
    if axis not in (0, 1):
        raise call.error(f"the axis must be 0 or 1, and is {axis}")
    return call.compute(topi.sequence_mask, call.tensor(0), call.tensor(1), value, axis)


def reverse_sequence(call: OperatorCall) -> Value:
    data = call.tensor(0)
    rank = len(shape_of(data))
    sequence, batch = call.axis(rank, "seq_axis", 1), call.axis(rank, "batch_axis", 0)
    limits = ValidValues(0, "length", 0, shape_of(data)[sequence])
    lengths = call.checked(call.tensor(1), limits)
    return relax.op.reverse_sequence(data, lengths, sequence, batch)


def one_hot(call: OperatorCall) -> Value:
    on, off = call.constant(1), call.constant(2)
    attributes = call.attributes
    dtype = attributes.dtype("dtype", str(on.dtype))
    return call.compute(
        topi.one_hot,
        call.tensor(0),
        tirx.const(on.reshape(-1)[0].item(), dtype),
        tirx.const(off.reshape(-1)[0].item(), dtype),
        attributes.integer("depth", 1),
        attributes.integer("axis", -1),
        dtype,
    )


def triangle(call: OperatorCall) -> Value:
    k = int(call.constant(1).reshape(-1)[0]) if len(call.arguments) > 1 else 0
    keep_upper = call.attributes.flag("upper", True)
    return (relax.op.triu if keep_upper else relax.op.tril)(call.tensor(0), k)


# --- Sorting and scans ---


def sort(call: OperatorCall) -> Value:
    data = call.tensor(0)
    ascending = call.attributes.flag("is_ascend", True)
    return relax.op.sort(data, call.axis(len(shape_of(data)), default=-1), not ascending)


def argsort(call: OperatorCall) -> Value:
    data, attributes = call.tensor(0), call.attributes
    axis = call.axis(len(shape_of(data)), default=-1)
    descending = not attributes.flag("is_ascend", True)
    return relax.op.argsort(data, axis, descending, attributes.dtype("dtype", "int32"))


def topk(call: OperatorCall) -> Value:
    data, attributes = call.tensor(0), call.attributes
    axis = call.axis(len(shape_of(data)), default=-1)
    k = attributes.integer("k", 1)
    size = shape_of(data)[axis]
    wanted = attributes.choice("ret_type", ("both", "values", "indices"), "both")
    largest = not attributes.flag("is_ascend")
    dtype = attributes.dtype("dtype", "int32")
    count = size if k < 1 else min(k, size)
    result = call.emit(relax.op.topk(data, count, axis, wanted, largest, dtype))
    if wanted != "both":
        return result
    return tuple(call.emit(relax.TupleGetItem(result, i)) for i in range(2))


def scan(function: Operator) -> Converter:
    """`cumsum` and `cumprod`; without an axis, of the flattened tensor."""

    def convert(call: OperatorCall) -> Value:
        data, attributes = call.tensor(0), call.attributes
        if "axis" in attributes:
            axis = call.axis(len(shape_of(data)))
        else:
            data, axis = call.reshape(data, [math.prod(shape_of(data))]), 0
        default = "int32" if dtype_of(data) == "bool" else dtype_of(data)
        dtype = attributes.dtype("dtype", default)
        return function(data, axis, dtype, bool(attributes.optional_integer("exclusive")))

    return convert


# --- Tensors from nothing ---


def initial(value: int) -> Converter:
    """`zeros` and `ones`."""
    return lambda call: _filled(
        call, call.attributes.integers("shape"), constant(value, call.attributes.dtype("dtype"))
    )


def initial_like(value: int) -> Converter:
    def convert(call: OperatorCall) -> Value:
        like = call.tensor(0)
        return _filled(call, list(shape_of(like)), constant(value, dtype_of(like)))

    return convert


def full(call: OperatorCall) -> Value:
    fill, attributes = call.tensor(0), call.attributes
    fill = call.reshape(call.cast(fill, attributes.dtype("dtype", dtype_of(fill))), [])
    return _filled(call, attributes.integers("shape"), fill)


def full_like(call: OperatorCall) -> Value:
    like, fill = call.tensor(0), call.tensor(1)
    return _filled(call, list(shape_of(like)), call.reshape(call.cast(fill, dtype_of(like)), []))


def _filled(call: OperatorCall, shape: list[int], fill: relax.Expr) -> relax.Expr:
    if min(shape, default=0) < 0:
        raise call.error(f"{shape} is not a shape")
    array = array_of(fill)
    if array is None or math.prod(shape) > MAX_CONSTANT_ELEMENTS:
        return call.emit(relax.op.full(shape, fill, dtype_of(fill)))
    return constant_of(np.full(shape, array))


def arange(call: OperatorCall) -> Value:
    attributes = call.attributes
    for name in ("start", "stop", "step"):  # the arguments, which Relay prints a second time
        attributes.value(name)
    dtype = attributes.dtype("dtype", dtype_of(call.tensor(0)))
    start, stop, step = (call.constant(i).reshape(-1)[0].item() for i in range(3))
    count = math.ceil((stop - start) / step) if step else -1
    if not 0 <= count <= MAX_CONSTANT_ELEMENTS:
        raise call.error(f"from {start} to {stop} by {step} there are not some numbers")
    return constant([start + i * step for i in range(count)], dtype)


def shape_constant(call: OperatorCall) -> Value:
    return constant(shape_of(call.tensor(0)), call.attributes.dtype("dtype", "int32"))


def size_constant(call: OperatorCall) -> Value:
    size: Any = math.prod(shape_of(call.tensor(0)))
    return constant(size, call.attributes.dtype("dtype", "int32"))
