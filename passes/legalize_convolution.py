"""Legalizations of convolutions and matrix products whose weights are constants.

They say in an annotation what is computed, and leave tiles and the layout of weights to the rules
of each kind of device. What they do not take (other layouts, weights that are computed, other
types) goes to TVM's own legalizations.
"""

import math

import numpy as np
from tvm import relax, te, tirx, topi
from tvm.ir import Call

from hios_tvm.passes.dataflow import constant_value
from hios_tvm.schema.kernel_shapes import (
    CONVOLUTION,
    OUT_ELEMENTWISE_FUSABLE,
    ConvolutionShape,
)


def legalize_conv2d(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a convolution with constant weights, or None for any other."""
    data, weight = call.args
    shape = convolution_shape(call)
    array = constant_value(weight)
    if shape is None or array is None or str(call.ty.dtype.dtype) != "float32":
        return None
    return builder.call_te(
        lambda x, w: convolution(x, w, shape),
        data,
        relax.const(np.ascontiguousarray(array.transpose(2, 3, 1, 0)), array.dtype.name),
        primfunc_name_hint="conv2d",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def legalize_matmul(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a product with a constant matrix, or None for any other.

    To the rules it is a pointwise convolution of an image of one row.
    """
    data, weight = call.args
    array = constant_value(weight)
    types = [str(value.ty.dtype.dtype) for value in (data, call)]
    if array is None or array.ndim != 2 or types != ["float32"] * 2 or data.ty.ndim < 2:
        return None
    shape = product_shape(data, array)
    return builder.call_te(
        lambda x, w: product(x, w, shape),
        data,
        weight,
        primfunc_name_hint="matmul",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def product_shape(data: relax.Expr, matrix: np.ndarray) -> ConvolutionShape:
    """Return the pointwise convolution that a product of `data` and a constant matrix is."""
    inputs, outputs = matrix.shape
    pixels = math.prod(int(extent) for extent in data.ty.shape) // inputs
    return ConvolutionShape(
        batch=1,
        in_size=(1, pixels),
        out_size=(1, pixels),
        in_channels=inputs,
        out_channels=outputs,
        kernel=(1, 1),
        strides=(1, 1),
        dilation=(1, 1),
        padding=(0, 0),
        groups=1,
    )


def convolution_shape(call: Call) -> ConvolutionShape | None:
    """Return what `call` computes; None if images are not channels-last."""
    attrs = call.attrs
    data, weight = call.args
    layouts = (str(attrs.data_layout), str(attrs.out_layout), str(attrs.kernel_layout))
    if layouts != ("NHWC", "NHWC", "OIHW"):
        return None
    batch, in_height, in_width, in_channels = map(int, data.ty.shape)
    _, out_height, out_width, out_channels = map(int, call.ty.shape)
    _, _, height, width = map(int, weight.ty.shape)
    strides, dilation = tuple(map(int, attrs.strides)), tuple(map(int, attrs.dilation))
    top, left, _, _ = map(int, attrs.padding)
    return ConvolutionShape(
        batch=batch,
        in_size=(in_height, in_width),
        out_size=(out_height, out_width),
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=(height, width),
        strides=(strides[0], strides[1]),
        dilation=(dilation[0], dilation[1]),
        padding=(top, left),
        groups=int(attrs.groups),
    )


def convolution(
    data: te.Tensor,
    weight: te.Tensor,
    shape: ConvolutionShape,
    annotation: str = CONVOLUTION,
    dtype: str = "float32",
) -> te.Tensor:
    """Return a convolution whose sums are of `dtype`, with its shape as an annotation."""
    (height, width), before, after = shape.kernel, shape.padding, shape.padding_after
    if any((*before, *after)):
        data = topi.nn.pad(data, [0, *before, 0], [0, *after, 0], name="pad")
    kernel_row = te.reduce_axis((0, height), "kernel_row")
    kernel_column = te.reduce_axis((0, width), "kernel_column")
    channel = te.reduce_axis((0, shape.group_inputs), "channel")

    def element(n: tirx.Var, row: tirx.Var, column: tirx.Var, output: tirx.Var) -> tirx.Expr:
        group = output // shape.group_outputs if shape.groups > 1 else 0
        value = data[
            n,
            row * shape.strides[0] + kernel_row * shape.dilation[0],
            column * shape.strides[1] + kernel_column * shape.dilation[1],
            group * shape.group_inputs + channel,
        ]
        factor = weight[kernel_row, kernel_column, channel, output]
        term = value.astype(dtype) * factor.astype(dtype)
        return te.sum(term, axis=[kernel_row, kernel_column, channel])

    return te.compute(
        (shape.batch, *shape.out_size, shape.out_channels),
        element,
        name="conv2d",
        attrs={annotation: shape.to_annotation()},
    )


def product(
    data: te.Tensor,
    weight: te.Tensor,
    shape: ConvolutionShape,
    annotation: str = CONVOLUTION,
    dtype: str = "float32",
) -> te.Tensor:
    """Return a product whose sums are of `dtype`, with its shape as an annotation."""
    channel = te.reduce_axis((0, shape.in_channels), "channel")

    def element(*index: tirx.Var) -> tirx.Expr:
        *pixel, output = index
        value, factor = data[(*pixel, channel)], weight[channel, output]
        return te.sum(value.astype(dtype) * factor.astype(dtype), axis=[channel])

    return te.compute(
        (*data.shape[:-1], shape.out_channels),
        element,
        name="matmul",
        attrs={annotation: shape.to_annotation()},
    )
