"""Pooling in windows, and its inverse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.indexing import checked_indices
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.precision import least
from hios_tvm.frontends.onnx.operators.windows import (
    AUTO_PADS,
    Windows,
    axis_sizes,
    read_pads,
    read_windows,
)
from hios_tvm.frontends.tensors import constant_of, dtype_of, shape_of

_IMAGE_TYPES = ("float16", "float32")
"""Element types of the poolings that passes know."""


def max_pool(call: OperatorCall) -> Value | list[Value]:
    data = call.tensor(0)
    windows = _read_windows(call, data)
    column_major = call.attributes.flag("storage_order")
    maxima = _maxima(call, data, windows)
    if call.num_outputs < 2 or not call.is_used[1]:
        return maxima
    kernel = partial(_places_of_maxima, windows=windows, column_major=column_major)
    return [maxima, call.compute(kernel, _computable(call, data))]


def average_pool(call: OperatorCall) -> Value:
    data = call.tensor(0)
    windows = _read_windows(call, data)
    include_padding = call.attributes.flag("count_include_pad")
    if _is_common(data, windows) and max(windows.dilations) == 1:
        return _average_of_image(call, data, windows, include_padding)
    sums = call.compute(partial(_window_sums, windows=windows), _computable(call, data))
    divisors = _counts(windows, include_padding).astype(dtype_of(sums))
    return call.cast(call.emit(relax.op.divide(sums, constant_of(divisors))), dtype_of(data))


def lp_pool(call: OperatorCall) -> Value:
    """The p-norms of windows."""
    data = call.tensor(0)
    windows = _read_windows(call, data)

    def reduce(powers: relax.Expr) -> relax.Expr:
        return call.compute(partial(_window_sums, windows=windows), powers)

    return _norm(call, data, reduce)


def global_average_pool(call: OperatorCall) -> Value:
    data = call.tensor(0)
    return relax.op.mean(data, _spatial_axes(data), keepdims=True)


def global_max_pool(call: OperatorCall) -> Value:
    data = call.tensor(0)
    return relax.op.max(data, _spatial_axes(data), keepdims=True)


def global_lp_pool(call: OperatorCall) -> Value:
    data = call.tensor(0)
    return _norm(call, data, lambda x: relax.op.sum(x, _spatial_axes(data), keepdims=True))


def max_unpool(call: OperatorCall) -> Value:
    """Values at the places that MaxPool noted, among zeros."""
    data, places = call.tensor(0), call.tensor(1)
    image = shape_of(data)[2:]
    kernel = call.attributes.integers("kernel_shape")
    strides = axis_sizes(call, "strides", len(image))
    pads = read_pads(call, len(image))
    if len(kernel) != len(image):
        raise ValueError(f"kernel_shape {kernel} does not fit {len(image)} spatial axes")
    implied = [
        *shape_of(data)[:2],
        *(
            (size - 1) * step + extent - sum(padding)
            for size, step, extent, padding in zip(image, strides, kernel, pads, strict=True)
        ),
    ]
    zeros = constant_of(np.zeros(math.prod(implied), dtype_of(data)))
    flat_places, values = (call.reshape(x, [math.prod(shape_of(x))]) for x in (places, data))
    places = checked_indices(call, flat_places, [math.prod(implied)], from_end=False)
    scattered = call.emit(relax.op.scatter_elements(zeros, places, values, axis=0))
    # The places are those of the implied shape, whatever the output's
    result = call.reshape(scattered, implied)
    wanted = call.integers(2, "the extents of its output") or implied
    missing = [size - extent for size, extent in zip(wanted, implied, strict=True)]
    if min(missing) < 0:
        raise call.unsupported(f"its output_shape {wanted} is smaller than {implied}")
    if not any(missing):
        return result
    return relax.op.nn.pad(result, [width for more in missing for width in (0, more)])


# --- Geometry ---


def _read_windows(call: OperatorCall, data: relax.Expr) -> Windows:
    image = shape_of(data)[2:]
    kernel = call.attributes.integers("kernel_shape")
    if len(kernel) != len(image) or min(kernel) < 1:
        raise ValueError(f"kernel_shape {kernel} does not fit {len(image)} spatial axes")
    ceil_mode = call.attributes.flag("ceil_mode")
    same = call.attributes.choice("auto_pad", AUTO_PADS, "NOTSET").startswith("SAME")
    dilations = axis_sizes(call, "dilations", len(image))
    if same and any(size > 1 < step for size, step in zip(kernel, dilations, strict=True)):
        raise call.unsupported(
            "auto_pad with dilations means other pads to ONNX Runtime than in the standard; give "
            "pads instead"
        )
    return read_windows(call, image, kernel, ceil_mode=ceil_mode, may_crop=True)


def _spatial_axes(data: relax.Expr) -> list[int]:
    return list(range(2, len(shape_of(data))))


def _counts(windows: Windows, include_padding: bool) -> np.ndarray:
    """Elements of each window that lie in the image, or also in its padding; at least 1."""
    counts = np.ones((1, 1, *[1] * windows.rank), np.int64)
    for i, size in enumerate(windows.image):
        before, after = (windows.before[i], windows.after[i]) if include_padding else (0, 0)
        starts = np.arange(windows.out[i]) * windows.strides[i] - windows.before[i]
        places = starts[:, None] + np.arange(windows.kernel[i]) * windows.dilations[i]
        along = ((places >= -before) & (places < size + after)).sum(axis=1)
        counts = counts * along.reshape([-1 if axis == i else 1 for axis in range(windows.rank)])
    return np.maximum(counts, 1)


# --- Poolings that passes know ---


def _is_common(data: relax.Expr, windows: Windows) -> bool:
    is_cropped = min((*windows.before, *windows.after)) < 0
    return windows.rank <= 2 and dtype_of(data) in _IMAGE_TYPES and not is_cropped


def _average_of_image(
    call: OperatorCall, data: relax.Expr, windows: Windows, include_padding: bool
) -> relax.Expr:
    if include_padding and any(windows.overhang):
        # Elements beyond the padding do not count.
        pairs = list(zip(windows.before, windows.after, strict=True))
        widths = [0, 0, 0, 0, *(width for pair in pairs for width in pair)]
        data = call.emit(relax.op.nn.pad(data, widths))
        none = (0,) * windows.rank
        windows = replace(windows, image=shape_of(data)[2:], before=none, after=none)
        include_padding = False
    pool = partial(relax.op.nn.avg_pool2d, count_include_pad=include_padding)
    return _pooled_image(call, data, windows, pool)


def _pooled_image(
    call: OperatorCall,
    data: relax.Expr,
    windows: Windows,
    pool: Callable[..., relax.Expr],
) -> relax.Expr:
    """Pool an image; a sequence is an image of one row."""
    shape = shape_of(data)
    more = 2 - windows.rank
    image = call.reshape(data, [*shape[:2], *[1] * more, *shape[2:]])
    after = [width + more for width, more in zip(windows.after, windows.overhang, strict=True)]
    ones, zeros = [1] * more, [0] * more
    result = call.emit(
        pool(
            image,
            pool_size=[*ones, *windows.kernel],
            strides=[*ones, *windows.strides],
            padding=[*zeros, *windows.before, *zeros, *after],
            dilation=[*ones, *windows.dilations],
        )
    )
    return call.reshape(result, [*shape[:2], *windows.out])


def _maxima(call: OperatorCall, data: relax.Expr, windows: Windows) -> relax.Expr:
    if _is_common(data, windows):
        return _pooled_image(call, data, windows, relax.op.nn.max_pool2d)
    kernel = partial(_window_maxima, windows=windows)
    return call.cast(call.compute(kernel, _computable(call, data)), dtype_of(data))


# --- Poolings of any rank and type ---


def _computable(call: OperatorCall, data: relax.Expr) -> relax.Expr:
    """Half precision as single precision, in which sums are exact enough."""
    return call.cast(data, "float32") if dtype_of(data) in ("float16", "bfloat16") else data


def _norm(
    call: OperatorCall, data: relax.Expr, reduce: Callable[[relax.Expr], relax.Expr]
) -> relax.Expr:
    """The p-norm, where `reduce` sums powers."""
    # The first version of the operators has a p that need not be whole.
    is_whole = call.version >= 2
    p = call.attributes.integer("p", 2) if is_whole else call.attributes.number("p", 2.0)
    x = call.emit(relax.op.abs(_computable(call, data)))
    sums = call.emit(reduce(_power(call, x, p)))
    if p == 2:
        sums = call.emit(relax.op.sqrt(sums))
    elif p != 1:
        sums = call.emit(relax.op.power(sums, relax.const(1 / p, dtype_of(x))))
    return call.cast(sums, dtype_of(data))


def _power(call: OperatorCall, x: relax.Expr, p: float) -> relax.Expr:
    if p != int(p) or not 1 <= p <= 16:
        return call.emit(relax.op.power(x, relax.const(p, dtype_of(x))))
    result = x
    for _ in range(int(p) - 1):
        result = call.emit(relax.op.multiply(result, x))
    return result


def _window_elements(
    data: te.Tensor, windows: Windows, otherwise: tirx.Expr
) -> tuple[list[tirx.IterVar], Callable[..., tuple[tirx.Expr, list[tirx.Expr], tirx.Expr]]]:
    """What reductions over windows consist of.

    Returns
    -------
    taps : list of IterVar
        The axes of a window.
    element : callable
        The element of a window at the taps (`otherwise` outside the image), its place along the
        spatial axes, and whether it lies in the image; from the indices of the result.
    """
    taps = [te.reduce_axis((0, extent), f"k{i}") for i, extent in enumerate(windows.kernel)]

    def element(*index: tirx.Var) -> tuple[tirx.Expr, list[tirx.Expr], tirx.Expr]:
        places = [
            at * windows.strides[i] + tap * windows.dilations[i] - windows.before[i]
            for i, (at, tap) in enumerate(zip(index[2:], taps, strict=True))
        ]
        value = data[(*index[:2], *places)]
        if not windows.is_padded:
            return value, places, tirx.const(True, "bool")
        bounds = [
            condition
            for place, size in zip(places, windows.image, strict=True)
            for condition in (place >= 0, place < size)
        ]
        inside = tirx.all(*bounds)
        return tirx.if_then_else(inside, value, otherwise), places, inside

    return taps, element


def _window_sums(data: te.Tensor, windows: Windows) -> te.Tensor:
    taps, element = _window_elements(data, windows, tirx.const(0, data.dtype))
    shape = (*data.shape[:2], *windows.out)
    return te.compute(shape, lambda *at: te.sum(element(*at)[0], axis=taps), name="window_sums")


def _window_maxima(data: te.Tensor, windows: Windows) -> te.Tensor:
    lowest = least(str(data.dtype))
    taps, element = _window_elements(data, windows, lowest)
    maximum = te.comm_reducer(lambda a, b: tirx.max(a, b), lambda _dtype: lowest, name="max")
    shape = (*data.shape[:2], *windows.out)
    return te.compute(shape, lambda *at: maximum(element(*at)[0], axis=taps), name="window_maxima")


def _places_of_maxima(data: te.Tensor, windows: Windows, column_major: bool) -> te.Tensor:
    """The index of the first maximum of each window, in the whole flat tensor."""
    lowest = least(str(data.dtype))
    taps, element = _window_elements(data, windows, lowest)
    channels, plane = int(data.shape[1]), math.prod(windows.image)
    steps = _steps(windows.image, column_major)
    unknown = tirx.const(-1, "int64")

    def later(a: Sequence[tirx.Expr], b: Sequence[tirx.Expr]) -> tuple[tirx.Expr, tirx.Expr]:
        better = tirx.all(b[0] >= 0, tirx.any(a[0] < 0, b[1] > a[1]))
        return tirx.Select(better, b[0], a[0]), tirx.Select(better, b[1], a[1])

    first_maximum = te.comm_reducer(later, lambda *_dtypes: (unknown, lowest), name="argmax")

    def place(*at: tirx.Var) -> tirx.Expr:
        value, places, inside = element(*at)
        index = (at[0].astype("int64") * channels + at[1]) * plane
        for where, step in zip(places, steps, strict=True):
            index = index + where.astype("int64") * step
        return first_maximum((tirx.Select(inside, index, unknown), value), axis=taps)

    shape = (*data.shape[:2], *windows.out)
    found, _maxima = te.compute(shape, place, name="places_of_maxima")
    return te.compute(shape, lambda *at: found(*at), name="places")


def _steps(image: Sequence[int], column_major: bool) -> list[int]:
    """Distances of neighbours along each axis in a flat plane."""
    if column_major:
        return [math.prod(image[:i]) for i in range(len(image))]
    return [math.prod(image[i + 1 :]) for i in range(len(image))]


OPERATORS: Mapping[str, Converter] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_max_pool,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
}
