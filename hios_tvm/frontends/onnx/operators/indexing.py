"""Selecting elements by their indices.

Negative indices count from the end. Others outside of a dimension are an error of the model, which
nothing can report while it runs: they select the nearest element, so that no other memory is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.tensors import ARGUMENT_RANGES, array_of, constant_of, shape_of


def index_inside(index: tirx.Expr, extent: int) -> tirx.Expr:
    """Count an index from the start, inside of a dimension of `extent`."""
    index = index.astype("int64")
    return tirx.max(tirx.min(tirx.Select(index < 0, index + extent, index), extent - 1), 0)


def gather(call: OperatorCall) -> Value:
    data, indices = call.tensor(0), call.tensor(1)
    axis = call.axis(len(shape_of(data)), default=0)
    return _take(call, data, indices, axis)


def _take(call: OperatorCall, data: relax.Expr, indices: relax.Expr, axis: int) -> relax.Expr:
    sizes, count = shape_of(data), len(shape_of(indices))
    extent = sizes[axis]
    shape = (*sizes[:axis], *shape_of(indices), *sizes[axis + 1 :])
    known = array_of(indices)
    if known is not None and known.size and not -extent <= known.min() <= known.max() < extent:
        raise ValueError(f"an index is outside of a dimension of {extent}")
    if known is not None and known.size == 1:
        index = int(known.reshape(-1)[0]) % extent
        return call.reshape(call.slice(data, {axis: range(index, index + 1)}), shape)
    if extent == 0 and 0 not in shape:
        raise ValueError("nothing can be gathered from an empty dimension")

    def compute(data: te.Tensor, indices: te.Tensor) -> te.Tensor:
        def element(*position: tirx.Var) -> tirx.Expr:
            index = index_inside(indices(*position[axis : axis + count]), extent)
            return data(*position[:axis], index, *position[axis + count :])

        return te.compute(shape, element, name="gather")

    return call.compute(compute, data, indices, primfunc_attrs=_indices_below(extent))


def gather_elements(call: OperatorCall) -> Value:
    data, indices = call.tensor(0), call.tensor(1)
    sizes, shape = shape_of(data), shape_of(indices)
    axis = call.axis(len(sizes), default=0)
    fits = [shape[i] <= sizes[i] for i in range(min(len(sizes), len(shape))) if i != axis]
    if len(sizes) != len(shape) or not all(fits):
        raise ValueError(f"indices of shape {list(shape)} do not fit data of shape {list(sizes)}")

    def compute(data: te.Tensor, indices: te.Tensor) -> te.Tensor:
        def element(*position: tirx.Var) -> tirx.Expr:
            index = index_inside(indices(*position), sizes[axis])
            return data(*position[:axis], index, *position[axis + 1 :])

        return te.compute(shape, element, name="gather_elements")

    return call.compute(compute, data, indices, primfunc_attrs=_indices_below(sizes[axis]))


def gather_nd(call: OperatorCall) -> Value:
    """The last dimension of the indices names elements, or slices of all that is left."""
    data, indices = call.tensor(0), call.tensor(1)
    sizes, (*outer, length) = shape_of(data), shape_of(indices)
    batch = call.attributes.integer("batch_dims", 0)
    if list(sizes[:batch]) != outer[:batch] or not 1 <= length <= len(sizes) - batch:
        raise ValueError(f"indices of shape {[*outer, length]} do not fit {list(sizes)}")

    def compute(data: te.Tensor, indices: te.Tensor) -> te.Tensor:
        def element(*position: tirx.Var) -> tirx.Expr:
            inner = position[len(outer) :]
            named = [
                index_inside(indices(*position[: len(outer)], i), sizes[batch + i])
                for i in range(length)
            ]
            return data(*position[:batch], *named, *inner)

        return te.compute([*outer, *sizes[batch + length :]], element, name="gather_nd")

    limits = _indices_below(min(sizes[batch : batch + length]))
    return call.compute(compute, data, indices, primfunc_attrs=limits)


def _indices_below(extent: int) -> dict[str, list[list[int]]]:
    """Attributes of a kernel whose second argument is indices of a dimension."""
    return {ARGUMENT_RANGES: [[1, 0, extent - 1]]}


def compress(call: OperatorCall) -> Value:
    """Without an axis, of the flattened tensor."""
    data = call.tensor(0)
    condition = array_of(call.tensor(1))
    if condition is None:
        raise call.depends_on_data("the sizes of its output")
    if "axis" in call.attributes:
        axis = call.axis(len(shape_of(data)))
    else:
        data, axis = call.reshape(data, [math.prod(shape_of(data))]), 0
    chosen = np.flatnonzero(condition)
    if chosen.size and chosen.max() >= shape_of(data)[axis]:
        raise ValueError(f"its condition is longer than a dimension of {shape_of(data)[axis]}")
    if not chosen.size:
        return call.slice(data, {axis: range(0)})
    return _take(call, data, constant_of(chosen), axis)


def data_dependent(call: OperatorCall) -> Value:
    """Nodes on constants are computed at import and do not come here."""
    raise call.depends_on_data("the sizes of its outputs")


def reverse_sequence(call: OperatorCall) -> Value:
    data, lengths = call.tensor(0), call.tensor(1)
    rank = len(shape_of(data))
    time = call.axis(rank, default=0, name="time_axis")
    batch = call.axis(rank, default=1, name="batch_axis")
    if time == batch or shape_of(lengths) != (shape_of(data)[batch],):
        raise ValueError("its axes or its lengths do not fit its input")
    extent = shape_of(data)[time]

    def compute(data: te.Tensor, lengths: te.Tensor) -> te.Tensor:
        def element(*position: tirx.Var) -> tirx.Expr:
            index = position[time].astype("int64")
            length = tirx.min(lengths(position[batch]), extent)
            source = tirx.Select(index < length, length - 1 - index, index)
            return data(*position[:time], source, *position[time + 1 :])

        return te.compute(data.shape, element, name="reverse_sequence")

    return call.compute(compute, data, lengths)


def tensor_scatter(call: OperatorCall) -> Value:
    """A cache whose elements from an index on, one for each sample, are replaced."""
    cache, update, starts = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    sizes = shape_of(cache)
    axis = call.axis(len(sizes), default=-2)
    is_circular = call.attributes.choice("mode", ("linear", "circular"), "linear") == "circular"
    count, extent = shape_of(update)[axis], sizes[axis]
    if axis == 0 or (*sizes[:axis], count, *sizes[axis + 1 :]) != shape_of(update):
        raise ValueError("its update does not fit its cache")
    if starts is None:
        starts = constant_of(np.zeros(sizes[0], np.int64))

    def compute(cache: te.Tensor, update: te.Tensor, starts: te.Tensor) -> te.Tensor:
        def element(*position: tirx.Var) -> tirx.Expr:
            source = position[axis].astype("int64") - starts(position[0])
            if is_circular:
                source = tirx.floormod(source, extent)
            inside = tirx.all(source >= 0, source < count)
            new = update(*position[:axis], source, *position[axis + 1 :])
            return tirx.if_then_else(inside, new, cache(*position))

        return te.compute(cache.shape, element, name="tensor_scatter")

    return call.compute(compute, cache, update, starts)


OPERATORS: Mapping[str, Converter] = {
    "Compress": compress,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonMaxSuppression": data_dependent,
    "NonZero": data_dependent,
    "ReverseSequence": reverse_sequence,
    "TensorScatter": tensor_scatter,
    "Unique": data_dependent,
}
