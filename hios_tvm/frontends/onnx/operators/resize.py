"""Resizing of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import (
    Converter,
    OperatorCall,
    Value,
    normalized_axis,
)
from hios_tvm.frontends.onnx.operators.sampling import (
    COORDINATES,
    NEAREST_MODES,
    AxisResize,
    Filter,
    Taps,
    source_taps,
)
from hios_tvm.frontends.tensors import constant, constant_of, dtype_of, shape_of

_MAX_UNROLLED_TAPS = 16
_MANY_CHANNELS = 32
"""Images with as many are resized channels-last, a vector of channels at a time."""
_INJECTIVE = 2  # TVM's number for kernels that compute each element from some of others
_OPAQUE = 8  # and for those that are not fused


def resize(call: OperatorCall) -> Value:
    if call.version < 11:
        return _resize_by_factors(call, _factors(call, 1))
    attributes = call.attributes
    how = Filter(
        mode=attributes.choice("mode", ("nearest", "linear", "cubic"), "nearest"),
        coordinates=attributes.choice("coordinate_transformation_mode", COORDINATES, "half_pixel"),
        nearest=attributes.choice("nearest_mode", NEAREST_MODES, "round_prefer_floor"),
        cubic_coeff=attributes.number("cubic_coeff_a", -0.75),
        exclude_outside=attributes.flag("exclude_outside"),
        antialias=attributes.flag("antialias"),
    )
    return _resized(call, _read_axes(call), how, attributes.number("extrapolation_value", 0.0))


def upsample(call: OperatorCall) -> Value:
    if call.version >= 9:
        factors = _factors(call, 1)
    elif call.version >= 7:
        factors = call.attributes.numbers("scales")
    else:
        names = ("height_scale", "width_scale")
        factors = [1.0, 1.0, *(call.attributes.number(name) for name in names)]
    return _resize_by_factors(call, factors)


def _resize_by_factors(call: OperatorCall, factors: Sequence[float]) -> relax.Expr:
    """The versions that know neither modes of coordinates nor of rounding."""
    mode = call.attributes.choice("mode", ("nearest", "linear", "bilinear"), "nearest")
    shape = shape_of(call.tensor(0))
    if len(factors) != len(shape):
        raise ValueError(f"scales {list(factors)} do not fit {len(shape)} dimensions")
    axes = {i: _by_scale(shape[i], factor) for i, factor in enumerate(factors)}
    how = Filter(mode.removeprefix("bi"), "asymmetric", nearest="simple")
    return _resized(call, axes, how)


# --- What is resized ---


def _factors(call: OperatorCall, index: int) -> list[float]:
    return [float(factor) for factor in call.constant(index, "its scales").ravel()]


def _read_axes(call: OperatorCall) -> dict[int, AxisResize]:
    """How the axes change, from scales, sizes and regions of interest."""
    shape = shape_of(call.tensor(0))
    rank = len(shape)
    given = call.attributes.integers("axes", list(range(rank)))
    axes = [normalized_axis(axis, rank, "axes") for axis in given]
    roi = _region(call, len(axes))
    policies = ("stretch", "not_larger", "not_smaller")
    policy = call.attributes.choice("keep_aspect_ratio_policy", policies, "stretch")
    if _is_given(call, 3):
        sizes = call.integers(3, "its sizes") or []
        _check_count(sizes, axes, "sizes")
        resized = _by_sizes([shape[axis] for axis in axes], sizes, policy)
    elif _is_given(call, 2):
        factors = _factors(call, 2)
        _check_count(factors, axes, "scales")
        resized = [
            _by_scale(shape[axis], factor) for axis, factor in zip(axes, factors, strict=True)
        ]
    else:
        raise ValueError("it has neither scales nor sizes")
    return {
        axis: replace(how, roi=part) for axis, how, part in zip(axes, resized, roi, strict=True)
    }


def _is_given(call: OperatorCall, index: int) -> bool:
    """Whether an input is there; exporters also leave inputs out as empty tensors."""
    tensor = call.optional_tensor(index)
    return tensor is not None and shape_of(tensor) != (0,)


def _check_count(values: Sequence[float], axes: Sequence[int], name: str) -> None:
    if len(values) != len(axes):
        raise ValueError(f"{name} {list(values)} do not fit {len(axes)} axes")
    if min(values, default=1) <= 0:
        raise ValueError(f"{name} {list(values)} are not all positive")


def _region(call: OperatorCall, count: int) -> list[tuple[float, float]]:
    coordinates = call.attributes.text("coordinate_transformation_mode", "half_pixel")
    if coordinates != "tf_crop_and_resize":
        return [(0.0, 1.0)] * count
    values = [float(place) for place in call.constant(1, "its region of interest").ravel()]
    if len(values) != 2 * count:
        raise ValueError(f"roi {values} does not fit {count} axes")
    return list(zip(values[:count], values[count:], strict=True))


def _by_scale(size: int, factor: float) -> AxisResize:
    # In single precision, as the scale is given
    return AxisResize(size, int(np.floor(np.float32(size) * np.float32(factor))), factor)


def _by_sizes(shape: Sequence[int], sizes: Sequence[int], policy: str) -> list[AxisResize]:
    scales = [
        float(np.float32(out) / np.float32(size)) for size, out in zip(shape, sizes, strict=True)
    ]
    if policy == "stretch":
        return [AxisResize(*each) for each in zip(shape, sizes, scales, strict=True)]
    scale = min(scales) if policy == "not_larger" else max(scales)
    outs = [int(np.floor(np.float32(scale) * np.float32(size) + 0.5)) for size in shape]
    return [AxisResize(size, out, scale) for size, out in zip(shape, outs, strict=True)]


# --- Resizing, axis by axis ---


def _resized(
    call: OperatorCall, axes: Mapping[int, AxisResize], how: Filter, outside: float = 0.0
) -> relax.Expr:
    """`outside` is the value of elements outside the image."""
    data = call.tensor(0)
    dtype = dtype_of(data)
    is_float = dtype.startswith(("float", "bfloat"))
    if not is_float and (how.mode == "cubic" or how.antialias):
        raise call.unsupported(
            f"it resizes {dtype} in the mode {how.mode}; cast its input to float32"
        )
    shape = [axes[i].out if i in axes else size for i, size in enumerate(shape_of(data))]
    if 0 in shape:
        return constant(np.zeros(shape), dtype)
    taps = {
        axis: source_taps(change, how)
        for axis, change in axes.items()
        if change != AxisResize(change.size, change.size, 1.0)
    }
    exact = how.mode == "nearest" or dtype in ("float32", "float64")
    result = data if exact else call.cast(data, "float32")
    if len(shape) == 4 and shape[1] >= _MANY_CHANNELS and taps.keys() <= {2, 3}:
        last = call.emit(relax.op.permute_dims(result, [0, 2, 3, 1]))
        last = _along_axes(call, last, {axis - 1: table for axis, table in taps.items()})
        result = call.emit(relax.op.permute_dims(last, [0, 3, 1, 2]))
    else:
        result = _along_axes(call, result, taps)
    for axis, table in taps.items():
        if not table.inside.all():
            inside = call.along(constant_of(table.inside), axis, len(shape))
            value = constant(outside, dtype_of(result))
            result = call.emit(relax.op.where(inside, result, value))
    return call.cast(result, dtype)


def _along_axes(call: OperatorCall, data: relax.Expr, taps: Mapping[int, Taps]) -> relax.Expr:
    """Resize some axes by one kernel or several."""
    # What shrinks most comes first: less is left for the others. Then comes the last axis: along
    # it elements are picked one by one, along the others whole vectors.
    shape = shape_of(data)
    last = len(shape) - 1
    ratios = {axis: len(table.indices) / shape[axis] for axis, table in taps.items()}
    order = sorted(taps, key=lambda axis: (min(1.0, ratios[axis]), axis != last, ratios[axis]))
    groups = _kernels(order, taps, last)
    for group in groups:
        is_fusable = group is groups[-1]  # one kernel of two would compute what is between again
        data = _combined(call, data, {axis: taps[axis] for axis in group}, is_fusable)
    return data


def _kernels(order: Sequence[int], taps: Mapping[int, Taps], last: int) -> list[list[int]]:
    """The axes that one kernel resizes: as many as need few elements together.

    The `last` one has a kernel of its own where elements are combined.
    """
    groups: list[list[int]] = []
    for axis in order:
        if taps[axis].is_identity:
            continue
        together = [*(groups[-1] if groups else []), axis]
        is_choice = all(taps[i].is_choice for i in together)
        few = prod(taps[i].count for i in together) <= _MAX_UNROLLED_TAPS
        if groups and few and (is_choice or last not in together):
            groups[-1] = together
        else:
            groups.append([axis])
    return groups


def _combined(
    call: OperatorCall, data: relax.Expr, taps: Mapping[int, Taps], is_fusable: bool
) -> relax.Expr:
    """Each element along some axes as a sum of weighted elements."""
    dtype = dtype_of(data)
    tables = [
        table
        for axis in taps
        for table in (
            constant_of(taps[axis].indices.astype(np.int64)),
            constant(taps[axis].weights, dtype),
        )
    ]
    if prod(taps[axis].count for axis in taps) > _MAX_UNROLLED_TAPS:
        return call.compute(_weighted_sum, data, *tables, axis=next(iter(taps)))
    # Its indices come from tables, which TVM takes for a reason not to fuse the kernel.
    attributes = {"op_pattern": _INJECTIVE if is_fusable else _OPAQUE}
    kernel = partial(_unrolled_sum, taps=taps)
    return call.compute(kernel, data, *tables, primfunc_attrs=attributes)


def _unrolled_sum(data: te.Tensor, *tables: te.Tensor, taps: Mapping[int, Taps]) -> te.Tensor:
    shape = list(data.shape)
    for axis, table in taps.items():
        shape[axis] = table.indices.shape[0]
    axes = list(taps)

    def element(*at: tirx.Var) -> tirx.Expr:
        def total(position: int, source: list[tirx.Expr]) -> tirx.Expr:
            """The sum over the axes from `position` on."""
            if position == len(axes):
                return data[tuple(source)]
            axis = axes[position]
            indices, weights = tables[2 * position : 2 * position + 2]
            result = None
            for tap in range(taps[axis].count):
                source[axis] = indices[at[axis], tap]
                part = total(position + 1, list(source))
                if not taps[axis].is_choice:
                    part = part * weights[at[axis], tap]
                result = part if result is None else result + part
            return result

        return total(0, list(at))

    return te.compute(shape, element, name="interpolated")


def _weighted_sum(data: te.Tensor, indices: te.Tensor, weights: te.Tensor, axis: int) -> te.Tensor:
    out, taps = indices.shape
    tap = te.reduce_axis((0, taps), "tap")
    shape = [*data.shape[:axis], out, *data.shape[axis + 1 :]]

    def element(*at: tirx.Var) -> tirx.Expr:
        source = (*at[:axis], indices[at[axis], tap], *at[axis + 1 :])
        return te.sum(data[source] * weights[at[axis], tap], axis=tap)

    return te.compute(shape, element, name="weighted_sum")


OPERATORS: Mapping[str, Converter] = {"Resize": resize, "Upsample": upsample}
