"""Reading and writing elements at given indices, for all frontends.

Negative indices count from the end. Kernels never leave a tensor: an index outside of a dimension
selects the nearest element. Where indices depend on the model's inputs, their valid range is noted
on the kernel, so that the run that got another one ends with an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.tensors import TensorBuilder, array_of, constant_of, dtype_of, shape_of
from hios_tvm.schema.value_checks import RESULT_RANGE, indices_of

MAX_KNOWN_TARGETS = 1 << 24

Position = tuple[tirx.Var, ...]


def index_inside(index: tirx.Expr, extent: int) -> tirx.Expr:
    """Count an index from the start, inside of a dimension of `extent`."""
    index = index.astype("int64")
    return tirx.max(tirx.min(tirx.Select(index < 0, index + extent, index), extent - 1), 0)


def checked_indices(
    call: TensorBuilder, indices: relax.Expr, extents: Sequence[int], *, from_end: bool = True
) -> relax.Expr:
    """Return indices that count from the start and lie inside, for kernels that trust them.

    Parameters
    ----------
    call : TensorBuilder
    indices : relax.Expr
    extents : sequence of int
        Of the dimension that is indexed, or of one for each element of the last dimension.
    from_end : bool
        Whether negative indices are valid, and count from the end.
    """
    known = array_of(indices)
    if known is not None:
        return constant_of(_from_start(call, known, extents, from_end=from_end))

    def element(position: Position, indices: te.Tensor) -> tirx.Expr:
        extent = tirx.const(extents[-1], "int64")
        for column, other in enumerate(extents[:-1]):
            extent = tirx.Select(position[-1] == column, tirx.const(other, "int64"), extent)
        return index_inside(indices(*position), extent)

    attributes = {
        **call.valid_values(*indices_of(0, extents, from_end=from_end)),
        RESULT_RANGE: [0, max(extents) - 1],
    }
    return call.elements(shape_of(indices), element, indices, primfunc_attrs=attributes)


def checked_regions(call: TensorBuilder, regions: relax.Expr, images: int) -> relax.Expr:
    """Return regions whose first column, the number of an image, is valid: ``(regions, 5)``."""
    columns = shape_of(regions)[1]
    numbers = call.cast(call.slice(regions, {1: range(1)}), "int64")
    inside = checked_indices(call, numbers, [images], from_end=False)
    corners = call.slice(regions, {1: range(1, columns)})
    return call.concatenate([call.cast(inside, dtype_of(regions)), corners], 1)


def take(call: TensorBuilder, data: relax.Expr, indices: relax.Expr, axis: int) -> relax.Expr:
    """Select slices along an axis, in whose place the dimensions of the indices come."""
    sizes, count = shape_of(data), len(shape_of(indices))
    extent = sizes[axis]
    shape = (*sizes[:axis], *shape_of(indices), *sizes[axis + 1 :])
    known = array_of(indices)
    if known is not None:
        known = _from_start(call, known, [extent])
        indices = constant_of(known)
    if known is not None and known.size == 1:
        index = int(known.reshape(-1)[0])
        return call.reshape(call.slice(data, {axis: range(index, index + 1)}), shape)
    if extent == 0 and 0 not in shape:
        raise call.error("nothing can be gathered from an empty dimension")

    def element(position: Position, data: te.Tensor, indices: te.Tensor) -> tirx.Expr:
        index = index_inside(indices(*position[axis : axis + count]), extent)
        return data(*position[:axis], index, *position[axis + count :])

    attributes = _noted(call, indices, [extent])
    return call.elements(shape, element, data, indices, primfunc_attrs=attributes)


def gather_elements(
    call: TensorBuilder, data: relax.Expr, indices: relax.Expr, axis: int
) -> relax.Expr:
    """Select elements whose place along one axis the indices say."""
    sizes, shape = shape_of(data), shape_of(indices)
    _require_fit(call, sizes, shape, axis)
    indices = _known_from_start(call, indices, [sizes[axis]])

    def element(position: Position, data: te.Tensor, indices: te.Tensor) -> tirx.Expr:
        index = index_inside(indices(*position), sizes[axis])
        return data(*position[:axis], index, *position[axis + 1 :])

    attributes = _noted(call, indices, [sizes[axis]])
    return call.elements(shape, element, data, indices, primfunc_attrs=attributes)


def gather_nd(call: TensorBuilder, data: relax.Expr, indices: relax.Expr, batch: int) -> relax.Expr:
    """The last dimension of the indices names elements, or slices of all that is left."""
    sizes, (*outer, length) = shape_of(data), shape_of(indices)
    if list(sizes[:batch]) != outer[:batch] or not 1 <= length <= len(sizes) - batch:
        raise call.error(f"indices of shape {[*outer, length]} do not fit {list(sizes)}")
    extents = sizes[batch : batch + length]
    indices = _known_from_start(call, indices, extents)

    def element(position: Position, data: te.Tensor, indices: te.Tensor) -> tirx.Expr:
        outside = position[: len(outer)]
        named = [index_inside(indices(*outside, i), extents[i]) for i in range(length)]
        return data(*position[:batch], *named, *position[len(outer) :])

    shape = [*outer, *sizes[batch + length :]]
    attributes = _noted(call, indices, extents)
    return call.elements(shape, element, data, indices, primfunc_attrs=attributes)


def scatter_elements(
    call: TensorBuilder,
    data: relax.Expr,
    indices: relax.Expr,
    updates: relax.Expr,
    axis: int,
    reduction: str,
) -> relax.Expr:
    """Replace elements whose place along one axis the indices say, or reduce others into them.

    `reduction` is Relax's name of it.
    """
    sizes, shape = shape_of(data), shape_of(indices)
    if shape != shape_of(updates):
        raise call.error(f"its indices are {list(shape)}, its updates {list(shape_of(updates))}")
    _require_fit(call, sizes, shape, axis)
    if 0 in shape:
        return data
    inside = checked_indices(call, indices, [sizes[axis]])
    known = array_of(inside)
    if known is not None and reduction == "update" and math.prod(sizes) <= MAX_KNOWN_TARGETS:
        position = list(np.ix_(*map(range, shape)))
        position[axis] = known
        return _replace(call, data, updates, np.ravel_multi_index(position, sizes), 1)
    return relax.op.scatter_elements(data, inside, updates, axis, reduction)


def scatter_nd(
    call: TensorBuilder,
    data: relax.Expr,
    indices: relax.Expr,
    updates: relax.Expr,
    reduction: str,
) -> relax.Expr:
    """Replace what the last dimension of the indices names, or reduce other elements into it."""
    sizes, (*outer, length) = shape_of(data), shape_of(indices)
    if not 1 <= length <= len(sizes) or shape_of(updates) != (*outer, *sizes[length:]):
        raise call.error(
            f"updates of shape {list(shape_of(updates))} at indices of shape "
            f"{[*outer, length]} do not fit data of shape {list(sizes)}"
        )
    if 0 in outer:
        return data
    inside = checked_indices(call, indices, sizes[:length])
    known = array_of(inside)
    if known is not None and reduction == "update" and math.prod(sizes) <= MAX_KNOWN_TARGETS:
        targets = np.ravel_multi_index([known[..., i] for i in range(length)], sizes[:length])
        return _replace(call, data, updates, targets, math.prod(sizes[length:]))
    return relax.op.scatter_nd(data, inside, updates, reduction)


def _require_fit(
    call: TensorBuilder, sizes: Sequence[int], shape: Sequence[int], axis: int
) -> None:
    """Indices along one axis have at most the extents of the data along the others."""
    fits = [extent <= size for extent, size in zip(shape, sizes, strict=False)]
    if len(sizes) != len(shape) or not all(fits[:axis] + fits[axis + 1 :]):
        raise call.error(f"indices of shape {list(shape)} do not fit data of shape {list(sizes)}")


def _noted(call: TensorBuilder, indices: relax.Expr, extents: Sequence[int]) -> dict[str, object]:
    """Return the attributes of a kernel whose second argument is `indices`."""
    known = array_of(indices) is not None
    return {} if known else call.valid_values(*indices_of(1, extents))


def _known_from_start(
    call: TensorBuilder, indices: relax.Expr, extents: Sequence[int]
) -> relax.Expr:
    known = array_of(indices)
    return indices if known is None else constant_of(_from_start(call, known, extents))


def _from_start(
    call: TensorBuilder, indices: np.ndarray, extents: Sequence[int], *, from_end: bool = True
) -> np.ndarray:
    """Count known indices from the start; one outside of its dimension is an error."""
    bounds = np.array(extents, np.int64)
    wrong = (indices < (-bounds if from_end else 0)) | (indices >= bounds)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        extent = extents[place[-1]] if len(extents) > 1 else extents[0]
        raise call.error(f"the index {indices[tuple(place)]} is outside of a dimension of {extent}")
    return np.where(indices < 0, indices + bounds, indices).astype(np.int64)


def _replace(
    call: TensorBuilder, data: relax.Expr, updates: relax.Expr, targets: np.ndarray, inner: int
) -> relax.Expr:
    """Replace rows of `inner` elements at known places, each element by itself.

    Every element looks up which update it gets, so that the kernel is parallel and can be fused.
    """
    shape = shape_of(data)
    rows = math.prod(shape) // inner
    sources = np.full(rows, -1, np.int32)
    sources[targets.ravel()] = np.arange(targets.size, dtype=np.int32)

    def element(
        position: Position, data: te.Tensor, updates: te.Tensor, sources: te.Tensor
    ) -> tirx.Expr:
        row, column = position
        source = sources(row)
        return tirx.if_then_else(source >= 0, updates(source, column), data(row, column))

    result = call.elements(
        [rows, inner],
        element,
        call.reshape(data, [rows, inner]),
        call.reshape(updates, [targets.size, inner]),
        constant_of(sources),
    )
    return call.reshape(result, shape)
