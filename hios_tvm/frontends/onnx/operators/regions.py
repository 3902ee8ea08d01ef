"""Pooling of regions of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tvm import relax, te, tirx, topi

from hios_tvm.frontends.indexing import Position, checked_indices, checked_regions
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.tensors import dtype_of, shape_of
from hios_tvm.schema.value_checks import ValidValues

MAX_SAMPLES = 1024
"""The largest sampling_ratio: more samples than pixels change nothing, and take long."""

MAX_SAMPLES_BEYOND = 64
"""By how many pixels a part of a region may be larger than the image."""


@dataclass(frozen=True)
class _Pooling:
    """How RoiAlign pools; `offset` is what its coordinates are shifted by."""

    size: tuple[int, int]
    mode: str
    samples: int
    scale: float
    offset: float


def roi_align(call: OperatorCall) -> Value:
    data, rois, batches = (call.tensor(i) for i in range(3))
    attributes = call.attributes
    coordinates = "output_half_pixel"  # before version 16 there was nothing else
    if call.version >= 16:
        choices = ("half_pixel", coordinates)
        coordinates = attributes.choice("coordinate_transformation_mode", choices, "half_pixel")
    how = _Pooling(
        (attributes.integer("output_height", 1), attributes.integer("output_width", 1)),
        attributes.choice("mode", ("avg", "max"), "avg"),
        attributes.integer("sampling_ratio", 0),
        attributes.number("spatial_scale", 1.0),
        0.5 if coordinates == "half_pixel" else 0.0,
    )
    if how.samples > MAX_SAMPLES:
        raise call.error(f"its sampling_ratio {how.samples} is larger than {MAX_SAMPLES}")
    dtype = dtype_of(data)
    if dtype in ("float16", "bfloat16"):
        data, rois = call.cast(data, "float32"), call.cast(rois, "float32")
    batches = checked_indices(call, batches, shape_of(data)[:1], from_end=False)
    inputs = [data, rois, batches]
    if how.samples <= 0:
        inputs.append(_checked_counts(call, rois, shape_of(data)[2:], how))
    return call.cast(call.compute(partial(_aligned, how=how), *inputs), dtype)


def _checked_counts(
    call: OperatorCall, rois: relax.Expr, sizes: Sequence[int], how: _Pooling
) -> relax.Expr:
    """Return how many samples parts of each region have along both axes, which its size says.

    A region may be larger than the image, but not by so much that a run does not end.
    """
    shape = (shape_of(rois)[0], 2)
    most = [MAX_SAMPLES_BEYOND + size for size in sizes]

    def count(position: Position, rois: te.Tensor) -> tirx.Expr:
        extents = [_extent(rois, position[0], axis, how)[1] for axis in (0, 1)]
        extent = tirx.Select(position[1] == 0, *extents)
        wrong = tirx.const(max(most) + 1, rois.dtype)
        inside = te.min(te.max(te.ceil(extent), 0.0), wrong)
        return tirx.Select(te.isnan(extent), wrong, inside).astype("int64")

    def valid(position: Position, counts: te.Tensor) -> tirx.Expr:
        high = tirx.Select(position[1] == 0, *(tirx.const(size, "int64") for size in most))
        return te.min(counts(*position), high)

    counts = call.elements(shape, count, rois)
    ranges = (ValidValues(0, "length", 0, size, column) for column, size in enumerate(most))
    return call.elements(shape, valid, counts, primfunc_attrs=call.valid_values(*ranges))


def _extent(
    rois: te.Tensor, roi: tirx.Expr, axis: int, how: _Pooling
) -> tuple[tirx.Expr, tirx.Expr]:
    """Where a region begins along an axis, and the extent of one of its parts."""
    start, end = (rois[roi, corner] * how.scale - how.offset for corner in (1 - axis, 3 - axis))
    size = end - start
    if how.offset == 0:
        size = te.max(size, tirx.const(1, rois.dtype))
    return start, size / float(how.size[axis])


def _aligned(
    data: te.Tensor,
    rois: te.Tensor,
    batches: te.Tensor,
    counts: te.Tensor | None = None,
    *,
    how: _Pooling,
) -> te.Tensor:
    channels, dtype = data.shape[1], data.dtype
    shape = (rois.shape[0], channels, *how.size)

    def samples(roi: tirx.Expr, axis: int) -> tirx.Expr:
        if counts is None:
            return tirx.const(how.samples, "int32")
        return counts[roi, axis].astype("int32")

    def element(roi: tirx.Var, c: tirx.Var, row: tirx.Var, column: tirx.Var) -> tirx.Expr:
        places, taps = [], []
        for axis, part in enumerate((row, column)):
            start, size = _extent(rois, roi, axis, how)
            count = samples(roi, axis)
            tap = te.reduce_axis((0, count), f"k{axis}")
            share = (tap.astype(dtype) + 0.5) * size / count.astype(dtype)
            places.append(start + part.astype(dtype) * size + share)
            taps.append(tap)
        parts = _bilinear_parts(data, batches[roi].astype("int64"), c, *places)
        if how.mode == "avg":
            return te.sum(parts[0] + parts[1] + parts[2] + parts[3], axis=taps)
        maximum = te.comm_reducer(
            lambda a, b: tirx.max(a, b), lambda dtype: tirx.const(-math.inf, dtype), name="max"
        )
        # The standard takes the maximum of the weighted corners, not of their sum
        corners = te.max(te.max(parts[0], parts[1]), te.max(parts[2], parts[3]))
        return maximum(corners, axis=taps)

    pooled = te.compute(shape, element, name="pooled")

    def finished(roi: tirx.Var, *at: tirx.Var) -> tirx.Expr:
        rows, columns = samples(roi, 0), samples(roi, 1)
        value = pooled[(roi, *at)]
        if how.mode == "avg":
            value = value / (rows * columns).astype(dtype)
        # A sum over no samples is not even set to zero
        return tirx.Select(tirx.all(rows > 0, columns > 0), value, tirx.const(0, dtype))

    return te.compute(shape, finished, name="aligned")


def _bilinear_parts(
    data: te.Tensor, n: tirx.Expr, c: tirx.Expr, y: tirx.Expr, x: tirx.Expr
) -> list[tirx.Expr]:
    """The four neighbours of a place, each times its weight; zeros outside the image."""
    dtype = data.dtype
    height, width = (int(size) for size in data.shape[2:])
    inside = tirx.all(y >= -1.0, y <= float(height), x >= -1.0, x <= float(width))

    def neighbours(place: tirx.Expr, size: int) -> list[tuple[tirx.Expr, tirx.Expr]]:
        place = te.max(te.min(place, float(size - 1)), 0.0)
        low = te.floor(place)
        index = low.astype("int64")
        return [(index, 1.0 - (place - low)), (te.min(index + 1, size - 1), place - low)]

    return [
        tirx.if_then_else(inside, data[n, c, row, column] * (down * right), tirx.const(0, dtype))
        for row, down in neighbours(y, height)
        for column, right in neighbours(x, width)
    ]


def max_roi_pool(call: OperatorCall) -> Value:
    size = call.attributes.integers("pooled_shape")
    if len(size) != 2 or len(shape_of(call.tensor(0))) != 4:
        raise ValueError(f"pooled_shape {size} does not fit 2 spatial axes")
    scale, data = call.attributes.number("spatial_scale", 1.0), call.tensor(0)
    rois = checked_regions(call, call.tensor(1), shape_of(data)[0])
    return call.compute(topi.vision.roi_pool, data, rois, tuple(size), scale)


OPERATORS: Mapping[str, Converter] = {"MaxRoiPool": max_roi_pool, "RoiAlign": roi_align}
