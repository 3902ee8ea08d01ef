"""Convolutions, poolings, normalizations and resizing against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from relay_programs import assert_close, compute, numbers


def onnx_result(operator: str, inputs: list[np.ndarray], opset: int = 19, **attributes: Any) -> Any:
    """The first output of one ONNX operator."""
    arrays = {f"x{i}": x for i, x in enumerate(inputs) if x.size}  # an empty one is left out
    names = [f"x{i}" if x.size else "" for i, x in enumerate(inputs)]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in arrays.items()
    ]
    node = helper.make_node(operator, names, ["y"], **attributes)
    result = helper.make_tensor_value_info("y", values[0].type.tensor_type.elem_type, None)
    graph = helper.make_graph([node], "graph", values, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, arrays)[0]


def spatial_last(array: np.ndarray) -> np.ndarray:
    """Channels-last data with the channels moved in front of the spatial axes."""
    return np.moveaxis(array, -1, 1)


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


POOLINGS = [
    (
        "nn.max_pool1d",
        1,
        "pool_size=[3], strides=[2], padding=[1]",
        "MaxPool",
        {"kernel_shape": [3], "strides": [2], "pads": [1, 1]},
    ),
    (
        "nn.max_pool2d",
        2,
        "pool_size=[2, 3], strides=[2, 2], padding=[0, 1, 1, 1]",
        "MaxPool",
        {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [0, 1, 1, 1]},
    ),
    (
        "nn.max_pool2d",
        2,
        "pool_size=[2, 2], dilation=[2, 2]",
        "MaxPool",
        {"kernel_shape": [2, 2], "dilations": [2, 2]},
    ),
    (
        "nn.max_pool3d",
        3,
        "pool_size=[2, 2, 2], strides=[2, 2, 2], ceil_mode=True",
        "MaxPool",
        {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2], "ceil_mode": 1},
    ),
    (
        "nn.avg_pool1d",
        1,
        "pool_size=[3], padding=[1, 1]",
        "AveragePool",
        {"kernel_shape": [3], "pads": [1, 1]},
    ),
    (
        "nn.avg_pool2d",
        2,
        "pool_size=[3, 2], strides=[2, 1], padding=[1, 1, 1, 1]",
        "AveragePool",
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 1, 1]},
    ),
    (
        "nn.avg_pool3d",
        3,
        "pool_size=[2, 2, 2], padding=[1, 1, 1], count_include_pad=True",
        "AveragePool",
        {"kernel_shape": [2, 2, 2], "pads": [1] * 6, "count_include_pad": 1},
    ),
    ("nn.global_avg_pool1d", 1, "", "GlobalAveragePool", {}),
    ("nn.global_avg_pool2d", 2, "", "GlobalAveragePool", {}),
    ("nn.global_max_pool2d", 2, "", "GlobalMaxPool", {}),
    ("nn.global_max_pool3d", 3, "", "GlobalMaxPool", {}),
    ("nn.adaptive_avg_pool2d", 2, "output_size=[1]", "GlobalAveragePool", {}),
    ("nn.adaptive_max_pool1d", 1, "output_size=[1]", "GlobalMaxPool", {}),
    ("nn.adaptive_max_pool3d", 3, "output_size=[1, 1, 1]", "GlobalMaxPool", {}),
]


@pytest.mark.parametrize(("name", "rank", "attributes", "operator", "onnx_attributes"), POOLINGS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_pooling(
    name: str,
    rank: int,
    attributes: str,
    operator: str,
    onnx_attributes: dict[str, Any],
    channels_last: bool,
) -> None:
    x = numbers(2, 3, *[7, 6, 5][:rank])
    expected = onnx_result(operator, [x], **onnx_attributes)
    if not channels_last:
        assert_close(compute(f"{name}(%x, {attributes})", {"x": x})[0], expected)
        return
    layout = f"N{'DHW'[3 - rank :]}C"
    body = f'{name}(%x, {attributes + ", " if attributes else ""}layout="{layout}")'
    (result,) = compute(body, {"x": np.moveaxis(x, 1, -1).copy()})
    assert_close(spatial_last(result), expected)


def test_adaptive_pooling_has_windows_of_nearly_equal_sizes() -> None:
    x = numbers(1, 2, 7)
    windows = [slice(0, 3), slice(2, 5), slice(4, 7)]
    (result,) = compute("nn.adaptive_avg_pool1d(%x, output_size=[3])", {"x": x})
    assert_close(result, np.stack([x[..., w].mean(-1) for w in windows], -1))
    (result,) = compute("nn.adaptive_max_pool1d(%x, output_size=[3])", {"x": x})
    assert_close(result, np.stack([x[..., w].max(-1) for w in windows], -1))
    assert_close(compute("nn.adaptive_avg_pool1d(%x)", {"x": x})[0], x)


X = numbers(2, 6, 5, 4)
SCALE, SHIFT, MEAN = (numbers(6, seed=i) for i in (1, 2, 3))
VARIANCE = np.abs(numbers(6, seed=4)) + np.float32(0.5)


def test_batch_norm() -> None:
    inputs = {"x": X, "g": SCALE, "b": SHIFT, "m": MEAN, "v": VARIANCE}
    expected = onnx_result("BatchNormalization", [X, SCALE, SHIFT, MEAN, VARIANCE], epsilon=1e-3)
    (result,) = compute("nn.batch_norm(%x, %g, %b, %m, %v, epsilon=0.001f).0", inputs)
    assert_close(result, expected)
    results = compute("nn.batch_norm(%x, %g, %b, %m, %v)", inputs)
    assert_close(results[1], MEAN)
    assert_close(results[2], VARIANCE)
    last = {**inputs, "x": np.moveaxis(X, 1, -1).copy()}
    body = "nn.batch_norm(%x, %g, %b, %m, %v, axis=-1, epsilon=0.001f).0"
    assert_close(spatial_last(compute(body, last)[0]), expected)
    body = "nn.batch_norm(%x, %g, %b, %m, %v, scale=False, center=False, epsilon=0.001f).0"
    plain = [X, np.ones_like(SCALE), np.zeros_like(SHIFT), MEAN, VARIANCE]
    expected = onnx_result("BatchNormalization", plain, epsilon=1e-3)
    assert_close(compute(body, inputs)[0], expected)


def test_other_normalizations() -> None:
    inputs = {"x": X, "g": SCALE, "b": SHIFT}
    (result,) = compute("nn.instance_norm(%x, %g, %b, epsilon=0.001f)", inputs)
    assert_close(result, onnx_result("InstanceNormalization", [X, SCALE, SHIFT], epsilon=1e-3))
    (result,) = compute("nn.group_norm(%x, %g, %b, num_groups=3)", inputs)
    arguments = [X, SCALE, SHIFT]
    expected = onnx_result("GroupNormalization", arguments, opset=21, num_groups=3)
    assert_close(result, expected)
    (result,) = compute("nn.layer_norm(%x, %g, %b, axis=1, scale=False)", inputs)
    centered = X - X.mean(1, keepdims=True)
    expected = centered / np.sqrt(X.var(1, keepdims=True) + 1e-5) + SHIFT[:, None, None]
    assert_close(result, expected)
    (result,) = compute("nn.lrn(%x, size=3, alpha=0.01f, bias=1f)", {"x": X})
    assert_close(result, onnx_result("LRN", [X], size=3, alpha=0.01, bias=1.0))


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


RESIZES = [
    (
        "image.resize2d",
        (1, 2, 4, 5),
        [8, 5],
        'method="linear"',
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    ),
    (
        "image.resize2d",
        (1, 2, 4, 5),
        [7, 9],
        'method="linear", coordinate_transformation_mode="align_corners"',
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    (
        "image.resize2d",
        (1, 2, 4, 5),
        [7, 9],
        'method="nearest_neighbor", coordinate_transformation_mode="asymmetric", '
        'rounding_method="floor"',
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
    ),
    (
        "image.resize2d",
        (1, 2, 4, 5),
        [7, 9],
        'method="cubic", cubic_alpha=-0.75f',
        {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75},
    ),
    (
        "image.resize1d",
        (1, 2, 5),
        [9],
        "",
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    ),
    (
        "image.resize3d",
        (1, 1, 3, 4, 5),
        [6, 4, 7],
        "",
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    ),
    (
        "image.resize",
        (1, 2, 4, 5),
        [8, 5],
        'method="bilinear"',
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    ),
]


@pytest.mark.parametrize(("name", "shape", "size", "attributes", "onnx_attributes"), RESIZES)
def test_resize(
    name: str,
    shape: tuple[int, ...],
    size: list[int],
    attributes: str,
    onnx_attributes: dict[str, Any],
) -> None:
    x = numbers(*shape)
    (result,) = compute(f"{name}(%x, size={size}, {attributes})", {"x": x})
    empty = np.zeros(0, "float32")
    target = np.array([*shape[:2], *size])
    assert_close(result, onnx_result("Resize", [x, empty, empty, target], **onnx_attributes), 1e-4)


def test_upsampling() -> None:
    x = numbers(1, 2, 3, 4)
    (result,) = compute("nn.upsampling(%x, scale_h=2f, scale_w=3f)", {"x": x})
    assert_close(result, x.repeat(2, 2).repeat(3, 3))
    last = {"x": np.moveaxis(x, 1, -1).copy()}
    body = 'nn.upsampling(%x, scale_h=2f, scale_w=3f, layout="NHWC")'
    assert_close(spatial_last(compute(body, last)[0]), x.repeat(2, 2).repeat(3, 3))
    body = 'nn.upsampling(%x, scale_h=2f, scale_w=2f, method="bilinear", align_corners=True)'
    empty, target = np.zeros(0, "float32"), np.array([1, 2, 6, 8])
    expected = onnx_result(
        "Resize",
        [x, empty, empty, target],
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )
    assert_close(compute(body, {"x": x})[0], expected, 1e-4)
    volume = numbers(1, 1, 2, 3, 2)
    body = (
        "nn.upsampling3d(%x, scale_d=2f, scale_h=2f, scale_w=2f, "
        'coordinate_transformation_mode="asymmetric")'
    )
    expected = volume.repeat(2, 2).repeat(2, 3).repeat(2, 4)
    assert_close(compute(body, {"x": volume})[0], expected)


def test_sampling() -> None:
    x, grid = numbers(1, 2, 4, 5), np.tanh(numbers(1, 3, 3, 2, seed=1))
    body = "image.grid_sample(%x, %g)"
    (result,) = compute(body, {"x": x, "g": np.moveaxis(grid, -1, 1).copy()})
    expected = onnx_result("GridSample", [x, grid], align_corners=1, mode="bilinear", opset=16)
    assert_close(result, expected, 1e-4)
    rois = np.array([[0, 0, 0, 3, 3]], "float32")
    body = "vision.roi_align(%x, %r, pooled_size=[2, 2], spatial_scale=1f, sample_ratio=2)"
    (result,) = compute(body, {"x": x, "r": rois})
    expected = onnx_result(
        "RoiAlign",
        [x, rois[:, 1:], np.zeros(1, "int64")],
        opset=16,
        output_height=2,
        output_width=2,
        sampling_ratio=2,
        spatial_scale=1.0,
        coordinate_transformation_mode="output_half_pixel",
    )
    assert_close(result, expected, 1e-4)


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
