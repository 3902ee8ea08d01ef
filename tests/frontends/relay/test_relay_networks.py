"""Poolings, normalizations and resizing against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_reference import onnx_result, spatial_last
from relay_programs import assert_close, compute, numbers

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


def test_pooling_of_regions() -> None:
    x = numbers(1, 2, 6, 6)
    rois = np.array([[0, 0, 0, 3, 3], [0, 1, 2, 5, 5]], "float32")
    body = "vision.roi_pool(%x, %r, pooled_size=[2, 2], spatial_scale=1f)"
    (result,) = compute(body, {"x": x, "r": rois})
    assert_close(result, onnx_result("MaxRoiPool", [x, rois], pooled_shape=[2, 2]))


def test_crop_and_resize() -> None:
    """Boxes are fractions of the image; these corners fall on pixels."""
    x = numbers(2, 1, 5, 5)
    boxes = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 1]], "float32")
    body = "image.crop_and_resize(%x, %b, %i, crop_size=[3, 3])"
    (result,) = compute(body, {"x": x, "b": boxes, "i": np.array([1, 0], "int32")})
    whole = x[1, :, ::2, ::2]
    rows = x[0, :, 1:4, 2:5]
    assert_close(result, np.stack((whole, rows)))


def test_affine_grid() -> None:
    theta = np.array([[[1, 0, 0.5], [0, 2, 0]]], "float32")
    (result,) = compute("image.affine_grid(%t, target_shape=[3, 5])", {"t": theta})
    y, x = np.meshgrid(np.linspace(-1, 1, 3), np.linspace(-1, 1, 5), indexing="ij")
    assert_close(result, np.stack((x + 0.5, 2 * y))[None].astype("float32"))


def test_deformable_convolution_without_offsets_is_a_convolution() -> None:
    x, w = numbers(1, 2, 5, 5), numbers(3, 2, 3, 3, seed=1)
    offsets = np.zeros((1, 18, 5, 5), "float32")
    body = "nn.deformable_conv2d(%x, %o, %w, padding=[1, 1, 1, 1], channels=3, kernel_size=[3, 3])"
    (result,) = compute(body, {"x": x, "o": offsets, "w": w})
    assert_close(result, onnx_result("Conv", [x, w], pads=[1] * 4))
