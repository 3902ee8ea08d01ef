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

from hios_tvm.passes.dataflow import constant_value
from hios_tvm.passes.kernel_shapes import (
    OUT_ELEMENTWISE_FUSABLE,
    WINOGRAD,
    ConvolutionShape,
    WinogradShape,
)
from hios_tvm.passes.legalize_convolution import conv2d_shape
from hios_tvm.passes.schedule_rules.register_tile import choose_tile
from hios_tvm.passes.targets import vector_registers
from hios_tvm.passes.winograd_matrices import WINOGRAD_MATRICES, Matrix

__all__ = ["legalize_winograd", "transform_weights"]

_PRODUCT_CYCLES = 0.55  # of a vector of products in a register tile
_TRANSFORM_CYCLES = 5.0  # of a vector that a transform reads and writes
_BYTES_PER_CYCLE = 8.0  # of weights, which come from memory


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
        relax.const(transform_weights(array, tile=shape.tile, block=shape.block)),
        primfunc_name_hint="conv2d_winograd",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def transform_weights(weights: np.ndarray, *, tile: int, block: int) -> np.ndarray:
    """Transform ``(outputs, inputs, 3, 3)`` as `WinogradShape` describes.

    >>> transform_weights(np.ones((40, 3, 3, 3), "float32"), tile=4, block=32).shape
    (2, 36, 3, 32)
    """
    outputs, inputs, _, _ = weights.shape
    matrix = np.array(WINOGRAD_MATRICES[tile].filters)
    points = np.einsum("ia,jb,ocab->ijco", matrix, matrix, weights.astype("float64"))
    blocks = -(-outputs // block)
    padded = np.zeros((len(matrix) ** 2, inputs, blocks * block), weights.dtype)
    padded[:, :, :outputs] = points.reshape(len(matrix) ** 2, inputs, outputs)
    packed = padded.reshape(-1, inputs, blocks, block).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(packed)


def _winograd_shape(direct: ConvolutionShape, target: tvm.target.Target) -> WinogradShape | None:
    """Return the tiles of fewest estimated cycles; None if the direct way takes fewer."""
    plain = (direct.kernel, direct.strides, direct.dilation) == ((3, 3), (1, 1), (1, 1))
    if not plain or direct.groups > 1 or direct.in_channels % direct.lanes:
        return None
    channels = direct.in_channels * direct.out_channels
    least = _cycles(direct.work / direct.lanes, 0.0, 4 * 9 * channels)
    best = None
    for tile in WINOGRAD_MATRICES:
        shape = _shape_of_tile(direct, tile, target)
        vectors = (shape.in_channels + shape.out_channels) / shape.lanes
        transforms = shape.batch * math.prod(shape.tiles) * shape.points * vectors
        cycles = _cycles(shape.work / shape.lanes, transforms, 4 * shape.points * channels)
        if cycles < least:
            best, least = shape, cycles
    return best


def _cycles(products: float, transformed: float, weight_bytes: int) -> float:
    """Estimate a kernel's cycles from its vectors of products and of transformed elements."""
    arithmetic = products * _PRODUCT_CYCLES + transformed * _TRANSFORM_CYCLES
    memory = weight_bytes / _BYTES_PER_CYCLE
    return max(arithmetic, memory) + min(arithmetic, memory) / 2


def _shape_of_tile(direct: ConvolutionShape, size: int, target: tvm.target.Target) -> WinogradShape:
    tiles = direct.batch * -(-direct.out_size[0] // size) * -(-direct.out_size[1] // size)
    tile = choose_tile(
        tiles,
        direct.out_channels,
        direct.in_channels,
        lanes=direct.lanes,
        registers=vector_registers(target),
    )
    return WinogradShape(
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
        tile=size,
    )


def _convolution(data: te.Tensor, weight: te.Tensor, shape: WinogradShape) -> te.Tensor:
    """Define the convolution; the rule for `WINOGRAD` says how it is computed."""
    tile, width, (rows, columns) = shape.tile, shape.tile + 2, shape.tiles
    matrices = WINOGRAD_MATRICES[tile]
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
        factors = _element(matrices.inputs, i, row) * _element(matrices.inputs, j, column)
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
        factors = _element(matrices.outputs, y % tile, point_row)
        factors = factors * _element(matrices.outputs, x % tile, point_column)
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
