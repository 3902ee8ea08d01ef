"""Convolutions and their transposes."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
from tvm import relax, te, tirx, topi

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.windows import (
    AUTO_PADS,
    Windows,
    axis_sizes,
    read_pads,
    read_windows,
    split_padding,
)
from hios_tvm.frontends.tensors import array_of, constant_of, shape_of

CONVOLUTIONS: Mapping[int, Callable[..., relax.Expr]] = {
    1: relax.op.nn.conv1d,
    2: relax.op.nn.conv2d,
    3: relax.op.nn.conv3d,
}
_TRANSPOSED: Mapping[int, Callable[..., relax.Expr]] = {
    1: relax.op.nn.conv1d_transpose,
    2: relax.op.nn.conv2d_transpose,
    3: relax.op.nn.conv3d_transpose,
}


def conv(call: OperatorCall) -> Value:
    data, weight = call.tensor(0), call.tensor(1)
    rank = spatial_rank(call, data, weight)
    groups = call.attributes.integer("group", 1)
    channels, (outputs, inputs, *kernel) = shape_of(data)[1], shape_of(weight)
    if groups < 1 or inputs * groups != channels or outputs % groups:
        raise ValueError(
            f"a weight of {outputs} x {inputs} channels in {groups} groups does not fit "
            f"{channels} input channels"
        )
    windows = read_windows(call, shape_of(data)[2:], kernel)
    if any(windows.overhang):
        raise ValueError(f"its kernel {kernel} is larger than the padded image")
    result = call.emit(
        CONVOLUTIONS[rank](
            data,
            weight,
            strides=list(windows.strides),
            padding=[*windows.before, *windows.after],
            dilation=list(windows.dilations),
            groups=groups,
        )
    )
    return _biased(call, result)


def conv_transpose(call: OperatorCall) -> Value:
    data, weight = call.tensor(0), call.tensor(1)
    rank = spatial_rank(call, data, weight)
    groups = call.attributes.integer("group", 1)
    channels, inputs = shape_of(data)[1], shape_of(weight)[0]
    if inputs != channels or groups < 1 or inputs % groups:
        raise ValueError(
            f"a weight of {inputs} input channels in {groups} groups does not fit {channels}"
        )
    strides = axis_sizes(call, "strides", rank)
    weight = _spread(call, weight, axis_sizes(call, "dilations", rank))
    spans = shape_of(weight)[2:]
    starts, sizes = _kept_part(call, shape_of(data)[2:], strides, spans)
    whole = [
        (size - 1) * step + span
        for size, step, span in zip(shape_of(data)[2:], strides, spans, strict=True)
    ]
    cut = [
        max(0, extent - start - size)
        for extent, start, size in zip(whole, starts, sizes, strict=True)
    ]
    # Kernels pad the input by what is left of a window.
    inside = all(
        width < span for pair in (starts, cut) for width, span in zip(pair, spans, strict=True)
    )
    result = call.emit(
        _TRANSPOSED[rank](
            data,
            weight,
            strides=strides,
            padding=[*starts, *cut] if inside else 0,
            groups=groups,
        )
    )
    if not inside:
        ends = [extent - width for extent, width in zip(whole, cut, strict=True)]
        axes = list(range(2, rank + 2))
        result = call.emit(relax.op.strided_slice(result, axes, starts, ends))
    return _biased(call, _extended(call, result, sizes))


def spatial_rank(call: OperatorCall, data: relax.Expr, weight: relax.Expr) -> int:
    """The number of spatial axes, where data and weight fit each other."""
    rank = len(shape_of(data)) - 2
    kernel = list(shape_of(weight)[2:])
    if len(shape_of(weight)) != rank + 2:
        raise ValueError(
            f"a weight of {len(shape_of(weight))} dimensions does not fit an input of {rank + 2}"
        )
    if call.attributes.integers("kernel_shape", kernel) != kernel:
        raise ValueError(f"kernel_shape is not the shape of the weight, {kernel}")
    if rank not in CONVOLUTIONS:
        raise call.unsupported(f"it has {rank} spatial axes; only 1, 2 and 3 are possible")
    return rank


def _biased(call: OperatorCall, result: relax.Expr, index: int = 2) -> relax.Expr:
    bias = call.optional_tensor(index)
    if bias is None:
        return result
    return call.emit(relax.op.add(result, call.along(bias, 1, len(shape_of(result)))))


def _spread(call: OperatorCall, weight: relax.Expr, dilations: Sequence[int]) -> relax.Expr:
    """The weight with zeros in the gaps that dilation leaves: kernels know no other way."""
    if max(dilations) == 1:
        return weight
    steps = [1, 1, *dilations]
    array = array_of(weight)
    if array is None:
        return call.compute(topi.nn.dilate, weight, steps)
    spans = [(n - 1) * step + 1 for n, step in zip(array.shape, steps, strict=True)]
    spread = np.zeros(spans, array.dtype)
    spread[tuple(slice(None, None, step) for step in steps)] = array
    return constant_of(spread)


def _kept_part(
    call: OperatorCall, image: Sequence[int], strides: Sequence[int], spans: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Where the result begins in the sum of all windows, and how large it is."""
    rank = len(image)
    extra = call.attributes.integers("output_padding", [0] * rank)
    wanted = call.attributes.integers("output_shape", [])[-rank:]
    mode = call.attributes.choice("auto_pad", AUTO_PADS, "NOTSET")
    pads = read_pads(call, rank)
    if mode.startswith("SAME") and any(extra) and not wanted:
        raise call.unsupported(
            "the standard leaves open what output_padding means with auto_pad; give pads instead"
        )
    if len(extra) != rank or min(extra) < 0 or len(wanted) not in (0, rank):
        raise ValueError(f"output_padding or output_shape does not fit {rank} spatial axes")
    starts, sizes = [], []
    for i in range(rank):
        whole = (image[i] - 1) * strides[i] + spans[i] + extra[i]
        if wanted or mode.startswith("SAME"):
            size = wanted[i] if wanted else image[i] * strides[i]
            start, end = split_padding(max(0, whole - size), mode)
            size = size if wanted else whole - start - end
        else:
            start, end = pads[i] if mode == "NOTSET" else (0, 0)
            size = whole - start - end
        if size < 0:
            raise ValueError(f"its padding leaves nothing along spatial axis {i}")
        starts.append(start)
        sizes.append(size)
    return starts, sizes


def _extended(call: OperatorCall, result: relax.Expr, sizes: Sequence[int]) -> relax.Expr:
    """Zeros at the ends of spatial axes, where ``output_padding`` goes beyond all windows."""
    missing = [size - n for n, size in zip(shape_of(result)[2:], sizes, strict=True)]
    if not any(missing):
        return result
    widths = [0, 0, 0, 0, *(width for more in missing for width in (0, more))]
    return call.emit(relax.op.nn.pad(result, widths))


# --- Convolutions at places that are computed ---


def deform_conv(call: OperatorCall) -> Value:
    """Samples of the image at moved places, times the weights."""
    data, weight, offset = call.tensor(0), call.tensor(1), call.tensor(2)
    mask = call.optional_tensor(4)
    rank = spatial_rank(call, data, weight)
    if rank != 2:
        raise call.unsupported(f"it has {rank} spatial axes; only 2 are possible")
    groups = call.attributes.integer("group", 1)
    offset_groups = call.attributes.integer("offset_group", 1)
    batch, channels, *image = shape_of(data)
    outputs, inputs, *kernel = shape_of(weight)
    if inputs * groups != channels or outputs % groups or channels % offset_groups:
        raise ValueError(f"{channels} input channels do not fit its groups and weight")
    windows = read_windows(call, image, kernel)
    pixels = prod(windows.out)
    operands = [data, offset] if mask is None else [data, offset, mask]
    samples = call.compute(
        lambda *tensors: _deformed_windows(*tensors, windows=windows, groups=offset_groups),
        *operands,
    )
    columns = call.reshape(samples, [batch, groups, inputs * windows.size, pixels])
    rows = call.reshape(weight, [1, groups, outputs // groups, inputs * windows.size])
    product = call.emit(relax.op.matmul(rows, columns))
    return _biased(call, call.reshape(product, [batch, outputs, *windows.out]), 3)


def _deformed_windows(
    data: te.Tensor,
    offset: te.Tensor,
    mask: te.Tensor | None = None,
    *,
    windows: Windows,
    groups: int,
) -> te.Tensor:
    """All windows: (batch, channels, kernel height and width, output height and width)."""
    batch, channels, height, width = (int(size) for size in data.shape)
    kernel, out = windows.kernel, windows.out
    offset = topi.reshape(offset, (batch, groups, *kernel, 2, *out))
    if mask is not None:
        mask = topi.reshape(mask, (batch, groups, *kernel, *out))
    per_group = channels // groups

    def place(axis: int, k: tirx.Expr, at: tirx.Expr, moved: tirx.Expr) -> tirx.Expr:
        start = at * windows.strides[axis] - windows.before[axis] + k * windows.dilations[axis]
        return start.astype(data.dtype) + moved

    def element(
        n: tirx.Var, c: tirx.Var, i: tirx.Var, j: tirx.Var, row: tirx.Var, column: tirx.Var
    ) -> tirx.Expr:
        group = c // per_group
        y = place(0, i, row, offset[n, group, i, j, 0, row, column])
        x = place(1, j, column, offset[n, group, i, j, 1, row, column])
        top, left = te.floor(y), te.floor(x)

        def pixel(down: int, right: int) -> tirx.Expr:
            at_y, at_x = top + float(down), left + float(right)
            share = (1 - te.abs(y - at_y)) * (1 - te.abs(x - at_x))
            conditions = (at_y >= 0.0, at_y < float(height), at_x >= 0.0, at_x < float(width))
            index_y = te.max(te.min(at_y, height - 1.0), 0.0).astype("int64")
            index_x = te.max(te.min(at_x, width - 1.0), 0.0).astype("int64")
            value = data[n, c, index_y, index_x] * share
            return tirx.Select(tirx.all(*conditions), value, tirx.const(0, data.dtype))

        total = pixel(0, 0) + pixel(0, 1) + pixel(1, 0) + pixel(1, 1)
        return total if mask is None else total * mask[n, group, i, j, row, column]

    return te.compute((batch, channels, *kernel, *out), element, name="deformed_windows")


# --- The inverse of taking windows ---


def col2im(call: OperatorCall) -> Value:
    """The sums of windows, each at its place in an image."""
    columns = call.tensor(0)
    image = call.integers(1, "the extents of its image") or []
    block = call.integers(2, "the extents of its blocks") or []
    windows = read_windows(call, image, block)
    batch, rows, count = shape_of(columns)
    if rows % windows.size or prod(windows.out) != count:
        raise ValueError(
            f"{rows} rows and {count} columns are not the windows of {block} in an image of {image}"
        )
    channels = rows // windows.size
    split = call.reshape(columns, [batch, channels, *block, *windows.out])
    return call.compute(lambda x: _sum_of_windows(x, windows), split)


def _sum_of_windows(columns: te.Tensor, windows: Windows) -> te.Tensor:
    batch, channels = columns.shape[:2]
    taps = [te.reduce_axis((0, extent), f"k{i}") for i, extent in enumerate(windows.kernel)]
    sums = "float32" if columns.dtype in ("float16", "bfloat16") else columns.dtype

    def element(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> tirx.Expr:
        places, conditions = [], []
        for i, tap in enumerate(taps):
            start = at[i] + windows.before[i] - tap * windows.dilations[i]
            place = tirx.floordiv(start, windows.strides[i])
            places.append(place)
            conditions += [
                tirx.floormod(start, windows.strides[i]) == 0,
                place >= 0,
                place < windows.out[i],
            ]
        value = columns[(n, c, *taps, *places)].astype(sums)
        inside = tirx.if_then_else(tirx.all(*conditions), value, tirx.const(0, sums))
        return te.sum(inside, axis=taps)

    total = te.compute((batch, channels, *windows.image), element, name="sum_of_windows")
    return total if sums == columns.dtype else topi.cast(total, columns.dtype)


OPERATORS: Mapping[str, Converter] = {
    "Col2Im": col2im,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DeformConv": deform_conv,
}
