"""Legalizations of convolutions and matrix products whose weights are constants.

They define the computation on weights packed for the kernels of
`hios_tvm.passes.cpu_rules.convolution`; NumPy packs, at compile time. What they do not take
(other layouts, weights that are computed, other types) goes to TVM's own legalizations.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping

import numpy as np
import tvm
from tvm import relax, te, tirx, topi
from tvm.ir import Call, GenericConst

from hios_tvm.passes.cpu_rules.register_tile import RegisterTile, choose_tile
from hios_tvm.passes.dataflow import constant_value
from hios_tvm.passes.kernel_shapes import (
    CONVOLUTION,
    MOST_UNROLLED_INPUTS,
    OUT_ELEMENTWISE_FUSABLE,
    ConvolutionShape,
)
from hios_tvm.passes.targets import vector_lanes, vector_registers

__all__ = ["conv2d_shape", "legalize_conv2d", "legalize_matmul", "pack_weights"]


def legalize_conv2d(
    builder: relax.BlockBuilder, call: Call, target: tvm.target.Target
) -> relax.Expr | None:
    """Return a convolution with constant weights on packed weights, or None for any other."""
    data, weight = call.args
    shape = conv2d_shape(call, target)
    array = constant_value(weight)
    if shape is None or array is None:
        return None
    packed = pack_weights(array, groups=shape.groups, block=shape.block)
    return builder.call_te(
        lambda x, w: _convolution(x, w, shape),
        data,
        relax.const(packed),
        primfunc_name_hint="conv2d",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def legalize_matmul(
    builder: relax.BlockBuilder,
    call: Call,
    target: tvm.target.Target,
    *,
    packed: MutableMapping[tuple[GenericConst, int], GenericConst],
) -> relax.Expr | None:
    """Return a product with a constant matrix on packed weights, or None for any other.

    To the kernels it is a pointwise convolution of an image of one row. `packed` keeps the packed
    weights by matrix and block: the steps of a recurrent layer share theirs.
    """
    data, weight = call.args
    array = constant_value(weight)
    types = [str(value.ty.dtype.dtype) for value in (data, weight, call)]
    if array is None or array.ndim != 2 or types != ["float32"] * 3 or data.ty.ndim < 2:
        return None
    inputs, outputs = array.shape
    pixels = math.prod(int(extent) for extent in data.ty.shape) // inputs
    tile = _tile(target, pixels, outputs, inputs)
    shape = ConvolutionShape(
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
        pixels=tile.pixels,
        vectors=tile.vectors,
        lanes=tile.lanes,
    )
    key = (weight, shape.block)
    if key not in packed:
        blocks = pack_weights(array.T[:, :, None, None], groups=1, block=shape.block)
        packed[key] = relax.const(blocks)
    return builder.call_te(
        lambda x, w: _product(x, w, shape),
        data,
        packed[key],
        primfunc_name_hint="matmul",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def pack_weights(weights: np.ndarray, *, groups: int, block: int) -> np.ndarray:
    """Pack ``(outputs, inputs of a group, height, width)`` as `ConvolutionShape` describes.

    >>> pack_weights(np.ones((40, 3, 5, 5), "float32"), groups=1, block=32).shape
    (2, 5, 5, 3, 32)
    """
    outputs, inputs, height, width = weights.shape
    per_group = outputs // groups
    blocks = -(-per_group // block)
    padded = np.zeros((groups, blocks * block, inputs, height, width), weights.dtype)
    padded[:, :per_group] = weights.reshape(groups, per_group, inputs, height, width)
    packed = padded.reshape(groups * blocks, block, inputs, height, width)
    return np.ascontiguousarray(packed.transpose(0, 3, 4, 2, 1))


def conv2d_shape(call: Call, target: tvm.target.Target) -> ConvolutionShape | None:
    """Return what `call` computes, and its register tile; None if it is not channels-last."""
    attrs = call.attrs
    data, weight = call.args
    layouts = (str(attrs.data_layout), str(attrs.out_layout), str(attrs.kernel_layout))
    if layouts != ("NHWC", "NHWC", "OIHW") or str(call.ty.dtype.dtype) != "float32":
        return None
    batch, in_height, in_width, in_channels = map(int, data.ty.shape)
    _, out_height, out_width, out_channels = map(int, call.ty.shape)
    kernel = tuple(map(int, weight.ty.shape))[2:]
    strides = tuple(map(int, attrs.strides))
    padding = tuple(map(int, attrs.padding))
    groups = int(attrs.groups)
    pointwise = kernel == (1, 1) and strides == (1, 1) and not any(padding)
    inputs = in_channels // groups
    tile = _tile(
        target,
        batch * out_height * out_width if pointwise else out_width,
        out_channels // groups,
        kernel[0] * kernel[1] * inputs,
        unrolled=inputs <= MOST_UNROLLED_INPUTS,
    )
    return ConvolutionShape(
        batch=batch,
        in_size=(in_height, in_width),
        out_size=(out_height, out_width),
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=(kernel[0], kernel[1]),
        strides=(strides[0], strides[1]),
        dilation=(int(attrs.dilation[0]), int(attrs.dilation[1])),
        padding=(padding[0], padding[1]),
        groups=groups,
        pixels=tile.pixels,
        vectors=tile.vectors,
        lanes=tile.lanes,
    )


def _tile(
    target: tvm.target.Target,
    pixels: int,
    channels: int,
    reduction: int,
    *,
    unrolled: bool = False,
) -> RegisterTile:
    return choose_tile(
        pixels,
        channels,
        reduction,
        lanes=vector_lanes(target),
        registers=vector_registers(target),
        unrolled=unrolled,
    )


def _convolution(data: te.Tensor, weight: te.Tensor, shape: ConvolutionShape) -> te.Tensor:
    (height, width), before, after = shape.kernel, shape.padding, shape.padding_after
    if any((*before, *after)):
        data = topi.nn.pad(data, [0, *before, 0], [0, *after, 0], name="pad")
    kernel_row = te.reduce_axis((0, height), "kernel_row")
    kernel_column = te.reduce_axis((0, width), "kernel_column")
    channel = te.reduce_axis((0, shape.group_inputs), "channel")

    def element(n: tirx.Var, row: tirx.Var, column: tirx.Var, output: tirx.Var) -> tirx.Expr:
        group, place = 0, output
        if shape.groups > 1:
            group, place = output // shape.group_outputs, output % shape.group_outputs
        value = data[
            n,
            row * shape.strides[0] + kernel_row * shape.dilation[0],
            column * shape.strides[1] + kernel_column * shape.dilation[1],
            group * shape.group_inputs + channel,
        ]
        block = group * shape.group_blocks + place // shape.block
        factor = weight[block, kernel_row, kernel_column, channel, place % shape.block]
        return te.sum(value * factor, axis=[kernel_row, kernel_column, channel])

    return te.compute(
        (shape.batch, *shape.out_size, shape.out_channels),
        element,
        name="conv2d",
        attrs={CONVOLUTION: shape.to_annotation()},
    )


def _product(data: te.Tensor, weight: te.Tensor, shape: ConvolutionShape) -> te.Tensor:
    channel = te.reduce_axis((0, shape.in_channels), "channel")

    def element(*index: tirx.Var) -> tirx.Expr:
        *pixel, output = index
        factor = weight[output // shape.block, 0, 0, channel, output % shape.block]
        return te.sum(data[(*pixel, channel)] * factor, axis=[channel])

    return te.compute(
        (*data.shape[:-1], shape.out_channels),
        element,
        name="matmul",
        attrs={CONVOLUTION: shape.to_annotation()},
    )
