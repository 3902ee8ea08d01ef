"""Legalization of 3x3 convolutions of step 1 by Winograd's method, where that is less work.

NumPy transforms the weights at compile time; the kernel transforms tiles of the image, multiplies
them point by point, and transforms the products back.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax, te, tirx, topi
from tvm.ir import Call

from hios_tvm.passes.cpu_rules.register_tile import choose_tile
from hios_tvm.passes.dataflow import constant_value
from hios_tvm.passes.kernel_shapes import (
    OUT_ELEMENTWISE_FUSABLE,
    WINOGRAD,
    ConvolutionShape,
    WinogradShape,
)
from hios_tvm.passes.legalize_convolution import conv2d_shape
from hios_tvm.passes.targets import vector_registers
from hios_tvm.passes.winograd_matrices import MATRICES, TILE, Matrix

__all__ = ["legalize_winograd", "transform_weights"]

_PRODUCT_CYCLES = 0.55  # of a vector of products in a register tile
_TRANSFORM_CYCLES = 9.0  # of a vector that a transform reads and writes
_BYTES_PER_CYCLE = 2.5  # of weights, which come from memory that several cores share
_LEAST_GAIN = 0.85  # of the direct way's cycles


def legalize_winograd(
    builder: relax.BlockBuilder, call: Call, target: tvm.target.Target
) -> relax.Expr | None:
    """Return a 3x3 convolution by Winograd's method, or None where another way is better."""
    data, weight = call.args
    direct = conv2d_shape(call, target)
    array = constant_value(weight)
    if direct is None or array is None:
        return None
    shape = _winograd_shape(direct, target)
    if shape is None:
        return None
    return builder.call_te(
        lambda x, w: _convolution(x, w, shape),
        data,
        relax.const(transform_weights(array, block=shape.block)),
        primfunc_name_hint="conv2d_winograd",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def transform_weights(weights: np.ndarray, *, block: int) -> np.ndarray:
    """Transform ``(outputs, inputs, 3, 3)`` as `WinogradShape` describes.

    >>> transform_weights(np.ones((40, 3, 3, 3), "float32"), block=32).shape
    (2, 16, 3, 32)
    """
    outputs, inputs, _, _ = weights.shape
    matrix = np.array(MATRICES.filters)
    points = np.einsum("ia,jb,ocab->ijco", matrix, matrix, weights.astype("float64"))
    blocks = -(-outputs // block)
    padded = np.zeros((len(matrix) ** 2, inputs, blocks * block), weights.dtype)
    padded[:, :, :outputs] = points.reshape(len(matrix) ** 2, inputs, outputs)
    packed = padded.reshape(-1, inputs, blocks, block).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(packed)


def _winograd_shape(direct: ConvolutionShape, target: tvm.target.Target) -> WinogradShape | None:
    """Return the shape of the same convolution; None if that gains too little."""
    plain = (direct.kernel, direct.strides, direct.dilation) == ((3, 3), (1, 1), (1, 1))
    if not plain or direct.groups > 1 or direct.in_channels % direct.lanes:
        return None
    tiles = direct.batch * math.prod(-(-size // TILE) for size in direct.out_size)
    tile = choose_tile(
        tiles,
        direct.out_channels,
        direct.in_channels,
        lanes=direct.lanes,
        registers=vector_registers(target),
    )
    shape = WinogradShape(
        batch=direct.batch,
        in_size=direct.in_size,
        out_size=direct.out_size,
        kernel=direct.kernel,
        strides=direct.strides,
        dilation=direct.dilation,
        padding=direct.padding,
        pixels=tile.pixels,
        vectors=tile.vectors,
        lanes=tile.lanes,
        in_channels=direct.in_channels,
        out_channels=direct.out_channels,
    )
    channels = direct.in_channels * direct.out_channels
    vectors = (direct.in_channels + direct.out_channels) / direct.lanes
    cycles = _cycles(
        shape.work / direct.lanes, tiles * shape.points * vectors, 4 * shape.points * channels
    )
    direct_cycles = _cycles(direct.work / direct.lanes, 0.0, 4 * 9 * channels)
    return shape if cycles < _LEAST_GAIN * direct_cycles else None


def _cycles(products: float, transformed: float, weight_bytes: int) -> float:
    """Estimate a kernel's cycles from its vectors of products and of transformed elements.

    Weights that a kernel reads once are waited for.
    """
    arithmetic = products * _PRODUCT_CYCLES + transformed * _TRANSFORM_CYCLES
    return arithmetic + weight_bytes / _BYTES_PER_CYCLE


def _convolution(data: te.Tensor, weight: te.Tensor, shape: WinogradShape) -> te.Tensor:
    """Define the convolution; the rule for `WINOGRAD` says how it is computed."""
    tile, width, (rows, columns) = TILE, TILE + 2, shape.tiles
    before = shape.padding
    after = [
        count * tile + 2 - size - first
        for count, size, first in zip(shape.tiles, shape.in_size, before, strict=True)
    ]
    if any((*before, *after)):
        data = topi.nn.pad(data, [0, *before, 0], [0, *after, 0], name="pad")
    tiles = shape.batch * rows * columns
    row, column = (te.reduce_axis((0, width), name) for name in ("row", "column"))

    def transformed(i: tirx.Var, j: tirx.Var, t: tirx.Var, channel: tirx.Var) -> tirx.Expr:
        value = data[
            t // (rows * columns),
            t // columns % rows * tile + row,
            t % columns * tile + column,
            channel,
        ]
        factors = _element(MATRICES.inputs, i, row) * _element(MATRICES.inputs, j, column)
        return te.sum(factors * value, axis=[row, column])

    inputs = te.compute((width, width, tiles, shape.in_channels), transformed, "winograd_input")
    channel = te.reduce_axis((0, shape.in_channels), "channel")
    products = te.compute(
        (width, width, tiles, shape.out_channels),
        lambda i, j, t, output: te.sum(
            inputs[i, j, t, channel]
            * weight[output // shape.block, i * width + j, channel, output % shape.block],
            axis=[channel],
        ),
        "winograd_products",
    )
    point_row, point_column = (te.reduce_axis((0, width), f"point_{n}") for n in ("row", "column"))

    def result(n: tirx.Var, y: tirx.Var, x: tirx.Var, output: tirx.Var) -> tirx.Expr:
        place = (n * rows + y // tile) * columns + x // tile
        factors = _element(MATRICES.outputs, y % tile, point_row)
        factors = factors * _element(MATRICES.outputs, x % tile, point_column)
        product = products[point_row, point_column, place, output]
        return te.sum(factors * product, axis=[point_row, point_column])

    return te.compute(
        (shape.batch, *shape.out_size, shape.out_channels),
        result,
        name="conv2d",
        attrs={WINOGRAD: shape.to_annotation()},
    )


def _element(matrix: Matrix, row: tirx.Expr, column: tirx.Expr) -> tirx.Expr:
    """Return an element of a constant matrix."""
    value: tirx.Expr = tirx.const(0.0, "float32")
    for i, values in enumerate(matrix):
        for j, factor in enumerate(values):
            if factor:
                here = tirx.all(row == i, column == j)
                value = tirx.Select(here, tirx.const(float(factor), "float32"), value)
    return value
