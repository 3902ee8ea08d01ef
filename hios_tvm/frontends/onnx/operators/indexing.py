"""Selecting elements by their indices, and by lengths and places that inputs hold."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from tvm import te, tirx

from hios_tvm.frontends import indexing
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.tensors import array_of, constant_of, shape_of
from hios_tvm.schema.value_checks import ValidValues


def gather(call: OperatorCall) -> Value:
    data, indices = call.tensor(0), call.tensor(1)
    return indexing.take(call, data, indices, call.axis(len(shape_of(data)), default=0))


def gather_elements(call: OperatorCall) -> Value:
    data, indices = call.tensor(0), call.tensor(1)
    return indexing.gather_elements(call, data, indices, call.axis(len(shape_of(data)), default=0))


def gather_nd(call: OperatorCall) -> Value:
    batch = call.attributes.integer("batch_dims", 0)
    return indexing.gather_nd(call, call.tensor(0), call.tensor(1), batch)


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
    return indexing.take(call, data, constant_of(chosen), axis)


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
            length = tirx.min(lengths(position[batch]).astype("int64"), extent)
            source = tirx.Select(index < length, length - 1 - index, index)
            return data(*position[:time], source, *position[time + 1 :])

        return te.compute(data.shape, element, name="reverse_sequence")

    limits = call.valid_values(ValidValues(1, "length", 0, extent))
    return call.compute(compute, data, lengths, primfunc_attrs=limits)


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

    limits = {} if is_circular else call.valid_values(ValidValues(2, "index", 0, extent - count))
    return call.compute(compute, cache, update, starts, primfunc_attrs=limits)


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
