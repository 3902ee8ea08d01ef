"""Convolutions, matrix products and layouts against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_reference import onnx_result, spatial_last
from relay_programs import assert_close, compute, numbers

CONVOLUTIONS = [
    (
        "nn.conv1d",
        (2, 4, 9),
        (6, 2, 3),
        "padding=[1, 2], strides=[2], groups=2",
        {"pads": [1, 2], "strides": [2], "group": 2},
    ),
    ("nn.conv1d", (1, 4, 9), (6, 4, 3), "dilation=[2]", {"dilations": [2]}),
    (
        "nn.conv2d",
        (1, 4, 7, 8),
        (6, 4, 3, 1),
        "padding=[1], strides=[1, 2]",
        {"pads": [1, 1, 1, 1], "strides": [1, 2]},
    ),
    (
        "nn.conv2d",
        (1, 4, 7, 8),
        (8, 1, 3, 3),
        "padding=[0, 1], groups=4, channels=8",
        {"pads": [0, 1, 0, 1], "group": 4},
    ),
    (
        "nn.conv3d",
        (1, 2, 5, 6, 4),
        (3, 2, 2, 3, 2),
        "padding=[1, 0, 1, 0, 1, 0]",
        {"pads": [1, 0, 1, 0, 1, 0]},
    ),
    (
        "nn.conv1d_transpose",
        (1, 3, 5),
        (3, 2, 4),
        "strides=[2], padding=[1, 0], output_padding=[1]",
        {"strides": [2], "pads": [1, 0], "output_padding": [1]},
    ),
    (
        "nn.conv2d_transpose",
        (1, 4, 5, 4),
        (4, 3, 3, 2),
        "strides=[2, 2], groups=2",
        {"strides": [2, 2], "group": 2},
    ),
    (
        "nn.conv2d_transpose",
        (1, 4, 5, 4),
        (4, 3, 3, 3),
        "padding=[1, 1, 0, 0], dilation=[2, 1]",
        {"pads": [1, 1, 0, 0], "dilations": [2, 1]},
    ),
    (
        "nn.conv3d_transpose",
        (1, 2, 3, 4, 3),
        (2, 3, 2, 2, 2),
        "strides=[2, 1, 2]",
        {"strides": [2, 1, 2]},
    ),
]


@pytest.mark.parametrize(("name", "data", "weight", "attributes", "onnx_attributes"), CONVOLUTIONS)
def test_convolution(
    name: str,
    data: tuple[int, ...],
    weight: tuple[int, ...],
    attributes: str,
    onnx_attributes: dict[str, Any],
) -> None:
    x, w = numbers(*data), numbers(*weight, seed=1)
    (result,) = compute(f"{name}(%x, %w, {attributes})", {"x": x, "w": w})
    kind = "ConvTranspose" if "transpose" in name else "Conv"
    assert_close(result, onnx_result(kind, [x, w], **onnx_attributes))


LAYOUTS = [
    ("nn.conv2d", "NHWC", "HWIO", (2, 3, 1, 0)),
    ("nn.conv2d", "NHWC", "OHWI", (0, 2, 3, 1)),
    ("nn.conv2d", "NCHW", "HWOI", (2, 3, 0, 1)),
    ("nn.conv1d", "NWC", "WIO", (2, 1, 0)),
    ("nn.conv3d", "NDHWC", "DHWIO", (2, 3, 4, 1, 0)),
    ("nn.conv2d_transpose", "NHWC", "HWIO", (2, 3, 0, 1)),
    ("nn.conv2d_transpose", "NCHW", "OIHW", (0, 1, 2, 3)),  # what Relay before 0.9 called IOHW
]


@pytest.mark.parametrize(("name", "layout", "kernel_layout", "order"), LAYOUTS)
@pytest.mark.parametrize("constant", [True, False])
def test_convolution_layouts(
    name: str, layout: str, kernel_layout: str, order: tuple[int, ...], constant: bool
) -> None:
    size = [5, 6, 4][: len(layout) - 2]
    transposed = "transpose" in name
    x = numbers(1, 4, *size)
    w = numbers(*((4, 3) if transposed else (3, 4)), *[2] * len(size), seed=1)
    last = layout[-1] == "C"
    inputs = {"x": np.moveaxis(x, 1, -1) if last else x, "w": w.transpose(order)}
    inputs = {key: np.ascontiguousarray(value) for key, value in inputs.items()}
    body = f'{name}(%x, %w, data_layout="{layout}", kernel_layout="{kernel_layout}")'
    (result,) = compute(body, inputs, ("w",) if constant else ())
    expected = onnx_result("ConvTranspose" if transposed else "Conv", [x, w])
    assert_close(spatial_last(result) if last else result, expected)


def test_depthwise_convolution_with_multiplier() -> None:
    """Relay's depthwise weights are (channels, multiplier, ...), in NHWC as HWOI."""
    x, w = numbers(1, 4, 5, 5), numbers(4, 2, 3, 3, seed=1)
    expected = onnx_result("Conv", [x, w.reshape(8, 1, 3, 3)], group=4)
    (result,) = compute("nn.conv2d(%x, %w, groups=4)", {"x": x, "w": w})
    assert_close(result, expected)
    body = 'nn.conv2d(%x, %w, groups=4, data_layout="NHWC", kernel_layout="HWOI")'
    inputs = {"x": np.moveaxis(x, 1, -1).copy(), "w": w.transpose(2, 3, 0, 1).copy()}
    assert_close(spatial_last(compute(body, inputs, ("w",))[0]), expected)


def test_matrix_products() -> None:
    a, b = numbers(2, 3, 4), numbers(2, 5, 4, seed=1)
    expected = a @ b.transpose(0, 2, 1)
    # Relay 0.7 always transposed b; later versions say so.
    for flags in ("", ", transpose_b=True"):
        assert_close(compute(f"nn.batch_matmul(%a, %b{flags})", {"a": a, "b": b})[0], expected)
    square = numbers(2, 4, 4, seed=2)
    (result,) = compute("nn.batch_matmul(%a, %b)", {"a": a, "b": square})
    assert_close(result, a @ square)
    body = "nn.batch_matmul(%a, %b, transpose_a=True, transpose_b=True)"
    inputs = {"a": a.transpose(0, 2, 1).copy(), "b": b[:1]}
    assert_close(compute(body, inputs)[0], a @ b[:1].transpose(0, 2, 1))
    inputs = {"a": a[0], "b": b[0]}
    for constants in ((), ("b",)):
        assert_close(compute("nn.dense(%a, %b, units=None)", inputs, constants)[0], a[0] @ b[0].T)
    (result,) = compute("nn.matmul(%a, %b, units=None, transpose_b=True)", inputs)
    assert_close(result, a[0] @ b[0].T)
    (result,) = compute(
        'nn.dense(%a, %b, units=None, out_dtype="int32")',
        {"a": numbers(2, 4, dtype="int8"), "b": numbers(3, 4, dtype="int8")},
    )
    assert_close(result, numbers(2, 4, dtype="int32") @ numbers(3, 4, dtype="int32").T)


def blocked(array: np.ndarray, block: int) -> np.ndarray:
    """NCHW as NCHW{block}c."""
    n, c, h, w = array.shape
    parts = array.reshape(n, c // block, block, h, w)
    return np.ascontiguousarray(parts.transpose(0, 1, 3, 4, 2))


def test_layouts_with_blocks() -> None:
    """What Relay's own optimizations left behind."""
    x, w = numbers(1, 4, 5, 5), numbers(6, 4, 3, 3, seed=1)
    packed = w.reshape(3, 2, 2, 2, 3, 3).transpose(0, 2, 4, 5, 3, 1)  # OIHW2i2o
    inputs = {"x": blocked(x, 2), "w": np.ascontiguousarray(packed)}
    body = (
        "nn.contrib_conv2d_NCHWc(%x, %w, padding=[1, 1, 1, 1], channels=6, kernel_size=[3, 3], "
        'data_layout="NCHW2c", kernel_layout="OIHW2i2o", out_layout="NCHW3c")'
    )
    for constants in ((), ("w",)):
        (result,) = compute(body, inputs, constants)
        assert_close(result, blocked(onnx_result("Conv", [x, w], pads=[1] * 4), 3))
    body = 'nn.max_pool2d(%x, pool_size=[2, 2], strides=[2, 2], layout="NCHW2c")'
    (result,) = compute(body, {"x": inputs["x"]})
    pooled = onnx_result("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    assert_close(result, blocked(pooled, 2))
    (result,) = compute('nn.global_avg_pool2d(%x, layout="NCHW2c")', {"x": inputs["x"]})
    assert_close(result, blocked(x.mean((2, 3), keepdims=True), 2))
    a, b = numbers(2, 5), numbers(4, 5, seed=1)
    body = 'nn.contrib_dense_pack(%a, %b, units=None, weight_layout="NC2n")'
    (result,) = compute(body, {"a": a, "b": b.reshape(2, 2, 5).transpose(0, 2, 1).copy()})
    assert_close(result, a @ b.T)
