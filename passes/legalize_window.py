"""Legalizations of depthwise convolutions and poolings of channels-last images."""

import math

import numpy as np
from tvm import relax, te, tirx, topi
from tvm.ir import Call, TensorLoad

from hios_tvm.passes.dataflow import constant_value, operator_name
from hios_tvm.passes.legalize_extremum import MAXIMUM
from hios_tvm.passes.tir_trees import nodes_of
from hios_tvm.schema.kernel_shapes import OUT_ELEMENTWISE_FUSABLE, WINDOW, WindowShape


def legalize_depthwise(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a depthwise convolution with constant weights, or None for any other convolution."""
    attrs = call.attrs
    data, weight = call.args
    array = constant_value(weight)
    layouts = (str(attrs.data_layout), str(attrs.out_layout), str(attrs.kernel_layout))
    channels = int(data.ty.shape[3])
    if layouts != ("NHWC", "NHWC", "OIHW") or array is None or array.dtype != "float32":
        return None
    if int(attrs.groups) != channels or array.shape[:2] != (channels, 1):
        return None
    shape = _window_shape(call, array.shape[2:], "product")
    taps = np.ascontiguousarray(array[:, 0].transpose(1, 2, 0))
    return builder.call_te(
        lambda x, w: _reduce_window(x, w, shape),
        _before_cast(builder, data),
        relax.const(taps),
        primfunc_name_hint="depthwise_conv2d",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def legalize_pool(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a pooling of float32 images, or None where the layout or type is another.

    The largest elements may also be of uint8.
    """
    attrs = call.attrs
    (data,) = call.args
    if str(attrs.layout) != "NHWC" or str(attrs.out_layout) != "NHWC":
        return None
    average = operator_name(call) == "relax.nn.avg_pool2d"
    if str(data.ty.dtype.dtype) not in (("float32",) if average else ("float32", "uint8")):
        return None
    kernel = tuple(map(int, attrs.pool_size))
    shape = _window_shape(call, kernel, "sum" if average else "max")

    def pool(data: te.Tensor) -> te.Tensor:
        reduced = _reduce_window(data, None, shape)
        if not average:
            return reduced
        padding = tuple(map(int, attrs.padding)) if attrs.count_include_pad else (0, 0, 0, 0)
        return _divided_by_count(reduced, shape, padding)

    return builder.call_te(
        pool,
        _before_cast(builder, data) if average else data,
        primfunc_name_hint="avg_pool2d" if average else "max_pool2d",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def _before_cast(builder: relax.BlockBuilder, data: relax.Expr) -> relax.Expr:
    """Return the ``uint8`` image that `data` is converted from, or `data` itself.

    Kernels convert what they load, so that memory holds bytes.
    """
    call = builder.lookup_binding(data) if isinstance(data, relax.Var) else None
    if call is None or operator_name(call) != "relax.call_tir" or len(call.args[1].fields) != 1:
        return data
    (source,) = call.args[1].fields
    stores = nodes_of(builder.get()[call.args[0]].body, tirx.BufferStore)
    if str(source.ty.dtype.dtype) != "uint8" or len(stores) != 1:
        return data
    (store,) = stores
    if not isinstance(store.value, tirx.Cast) or not isinstance(store.value.value, TensorLoad):
        return data
    same = zip(store.value.value.indices, store.indices, strict=True)
    return source if all(read.same_as(written) for read, written in same) else data


def _window_shape(call: Call, kernel: tuple[int, ...], operation: str) -> WindowShape:
    attrs = call.attrs
    batch, in_height, in_width, channels = map(int, call.args[0].ty.shape)
    _, out_height, out_width, _ = map(int, call.ty.shape)
    strides, padding, dilation = (
        tuple(map(int, values)) for values in (attrs.strides, attrs.padding, attrs.dilation)
    )
    return WindowShape(
        batch=batch,
        in_size=(in_height, in_width),
        out_size=(out_height, out_width),
        kernel=(kernel[0], kernel[1]),
        strides=(strides[0], strides[1]),
        dilation=(dilation[0], dilation[1]),
        padding=(padding[0], padding[1]),
        channels=channels,
        operation=operation,
    )


def _reduce_window(data: te.Tensor, weight: te.Tensor | None, shape: WindowShape) -> te.Tensor:
    before, after = shape.padding, shape.padding_after
    if any((*before, *after)):
        fill = -math.inf if shape.operation == "max" and data.dtype == "float32" else 0.0
        data = topi.nn.pad(data, [0, *before, 0], [0, *after, 0], fill, name="pad")
    kernel_row = te.reduce_axis((0, shape.kernel[0]), "kernel_row")
    kernel_column = te.reduce_axis((0, shape.kernel[1]), "kernel_column")
    reduce = te.sum
    if shape.operation == "max":
        reduce = MAXIMUM if data.dtype == "float32" else te.max

    def element(n: tirx.Var, row: tirx.Var, column: tirx.Var, channel: tirx.Var) -> tirx.Expr:
        value = data[
            n,
            row * shape.strides[0] + kernel_row * shape.dilation[0],
            column * shape.strides[1] + kernel_column * shape.dilation[1],
            channel,
        ]
        if reduce is te.sum:
            value = value.astype("float32")
        if weight is not None:
            value = value * weight[kernel_row, kernel_column, channel]
        return reduce(value, axis=[kernel_row, kernel_column])

    return te.compute(
        (shape.batch, *shape.out_size, shape.channels),
        element,
        name="window",
        attrs={WINDOW: shape.to_annotation()},
    )


def _divided_by_count(
    total: te.Tensor, shape: WindowShape, counted_padding: tuple[int, ...]
) -> te.Tensor:
    """Divide by the elements of each window that lie in the image, or in `counted_padding`."""

    def count(axis: int, place: tirx.Var) -> tirx.Expr:
        kernel, dilation = shape.kernel[axis], shape.dilation[axis]
        start = place * shape.strides[axis] - shape.padding[axis] + counted_padding[axis]
        extent = shape.in_size[axis] + counted_padding[axis] + counted_padding[axis + 2]
        first = tirx.max(0, tirx.floordiv(dilation - 1 - start, dilation))
        end = tirx.min(kernel, tirx.floordiv(extent - start + dilation - 1, dilation))
        return tirx.max(end - first, 1)

    whole = not any(shape.padding) and not any(shape.padding_after)

    def element(n: tirx.Var, row: tirx.Var, column: tirx.Var, channel: tirx.Var) -> tirx.Expr:
        elements = shape.kernel[0] * shape.kernel[1]
        if not whole:
            elements = (count(0, row) * count(1, column)).astype("float32")
        return total[n, row, column, channel] * (tirx.const(1.0, "float32") / elements)

    return te.compute(total.shape, element, name="average")
