"""Replacing elements at given indices, or reducing others into them.

Indices outside of a dimension are treated as in `indexing`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.indexing import index_inside
from hios_tvm.frontends.tensors import ARGUMENT_RANGES, array_of, constant_of, shape_of

REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}
"""ONNX's names, and Relax's."""

MAX_KNOWN_TARGETS = 1 << 24


def scatter_elements(call: OperatorCall) -> Value:
    data, indices, updates = (call.tensor(i) for i in range(3))
    sizes, shape = shape_of(data), shape_of(indices)
    axis = call.axis(len(sizes), default=0)
    reduction = _reduction(call)
    if shape != shape_of(updates):
        raise ValueError(f"its indices are {list(shape)}, its updates {list(shape_of(updates))}")
    fits = [extent <= size for extent, size in zip(shape, sizes, strict=False)]
    if len(shape) != len(sizes) or not all(fits[:axis] + fits[axis + 1 :]):
        raise ValueError(f"indices of shape {list(shape)} do not fit data of shape {list(sizes)}")
    if 0 in shape:
        return data
    known = array_of(indices)
    if known is not None and reduction == "update" and math.prod(sizes) <= MAX_KNOWN_TARGETS:
        position = list(np.ix_(*map(range, shape)))
        position[axis] = _checked(known, sizes[axis])
        return _replace(call, data, updates, np.ravel_multi_index(position, sizes), 1)
    inside = _inside(call, indices, [sizes[axis]] * shape[-1])
    return relax.op.scatter_elements(data, inside, updates, axis, reduction)


def scatter_nd(call: OperatorCall) -> Value:
    """The last dimension of the indices names elements, or slices of all that is left."""
    data, indices, updates = (call.tensor(i) for i in range(3))
    sizes, (*outer, length) = shape_of(data), shape_of(indices)
    reduction = _reduction(call)
    if not 1 <= length <= len(sizes) or shape_of(updates) != (*outer, *sizes[length:]):
        raise ValueError(
            f"updates of shape {list(shape_of(updates))} at indices of shape "
            f"{[*outer, length]} do not fit data of shape {list(sizes)}"
        )
    if 0 in outer:
        return data
    known = array_of(indices)
    if known is not None and reduction == "update" and math.prod(sizes) <= MAX_KNOWN_TARGETS:
        position = [_checked(known[..., i], sizes[i]) for i in range(length)]
        targets = np.ravel_multi_index(position, sizes[:length])
        return _replace(call, data, updates, targets, math.prod(sizes[length:]))
    inside = _inside(call, indices, sizes[:length])
    return relax.op.scatter_nd(data, inside, updates, reduction)


def _reduction(call: OperatorCall) -> str:
    allowed = ["none"]
    if call.version >= 16:
        allowed += ["add", "mul"]
    if call.version >= 18:
        allowed += ["max", "min"]
    return REDUCTIONS[call.attributes.choice("reduction", allowed, "none")]


def _checked(indices: np.ndarray, extent: int) -> np.ndarray:
    if not -extent <= indices.min() <= indices.max() < extent:
        raise ValueError(f"an index is outside of a dimension of {extent}")
    return indices % extent


def _inside(call: OperatorCall, indices: relax.Expr, extents: Sequence[int]) -> relax.Expr:
    """Indices from the start, where the last dimension holds one for each of `extents`."""
    bounds = constant_of(np.array(extents, np.int64))

    def compute(indices: te.Tensor, bounds: te.Tensor) -> te.Tensor:
        def element(*position: tirx.Var) -> tirx.Expr:
            return index_inside(indices(*position), bounds(position[-1]))

        return te.compute(indices.shape, element, name="indices")

    limits = {ARGUMENT_RANGES: [[0, 0, min(extents) - 1]]}
    return call.compute(compute, indices, bounds, primfunc_attrs=limits)


def _replace(
    call: OperatorCall, data: relax.Expr, updates: relax.Expr, targets: np.ndarray, inner: int
) -> relax.Expr:
    """Replace rows of `inner` elements at known places, each element by itself.

    Every element looks up which update it gets, so that the kernel is parallel and can be fused.
    """
    shape = shape_of(data)
    rows = math.prod(shape) // inner
    sources = np.full(rows, -1, np.int32)
    sources[targets.ravel()] = np.arange(targets.size, dtype=np.int32)

    def compute(data: te.Tensor, updates: te.Tensor, sources: te.Tensor) -> te.Tensor:
        def element(row: tirx.Var, column: tirx.Var) -> tirx.Expr:
            source = sources(row)
            return tirx.if_then_else(source >= 0, updates(source, column), data(row, column))

        return te.compute([rows, inner], element, name="scatter")

    result = call.compute(
        compute,
        call.reshape(data, [rows, inner]),
        call.reshape(updates, [targets.size, inner]),
        constant_of(sources),
    )
    return call.reshape(result, shape)


OPERATORS: Mapping[str, Converter] = {
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
