"""Resizing, against ONNX Runtime and ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_models import (
    Array,
    NodeCase,
    assert_cases_agree,
    case,
    joined_model,
    make_model,
    noise,
    run_onnx_runtime,
)

from hios_tvm import onnx_backend
from hios_tvm.errors import ModelError, UnsupportedOperatorError
from hios_tvm.frontends.onnx import from_onnx

IMAGE = noise(2, 3, 5, 4)
COORDINATES = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
]


def by_scales(scales: list[float], x: Array = IMAGE, **attributes: Any) -> NodeCase:
    weights = {"scales": np.array(scales, np.float32)}
    return case("Resize", {"x": x}, weights, order=["x", "", "scales"], **attributes)


def by_sizes(sizes: list[int], x: Array = IMAGE, **attributes: Any) -> NodeCase:
    weights = {"sizes": np.array(sizes)}
    return case("Resize", {"x": x}, weights, order=["x", "", "", "sizes"], **attributes)


def crop(roi: list[float], sizes: list[int], **attributes: Any) -> NodeCase:
    weights = {"roi": np.array(roi, np.float32), "sizes": np.array(sizes)}
    mode = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    order = ["x", "roi", "", "sizes"]
    return case("Resize", {"x": IMAGE}, weights, order=order, **mode, **attributes)


NEAREST = {
    f"{coordinates} {rounding}": by_sizes(
        [2, 3, 9, 3], coordinate_transformation_mode=coordinates, nearest_mode=rounding
    )
    for coordinates in (*COORDINATES, "tf_half_pixel_for_nn")
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
} | {
    "twice": by_scales([1, 1, 2, 2], coordinate_transformation_mode="asymmetric"),
    "all axes": by_sizes([3, 5, 4, 6]),
    "integers": by_scales([1, 1, 1.7, 0.6], np.arange(60, dtype=np.int32).reshape(1, 3, 5, 4)),
    "not larger": by_sizes([7, 8], axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    "not smaller": by_sizes([7, 8], axes=[3, 2], keep_aspect_ratio_policy="not_smaller"),
}
INTERPOLATED = {
    f"{mode} {coordinates} {sizes}": by_sizes(
        [2, 3, *sizes], mode=mode, coordinate_transformation_mode=coordinates
    )
    for mode in ("linear", "cubic")
    for coordinates in COORDINATES
    for sizes in ([10, 3], [1, 7])
} | {
    "sizes that are not whole": by_scales([1, 1, 1.7, 0.6], mode="linear"),
    "symmetric": by_scales(
        [1, 1, 1.7, 0.6], mode="linear", coordinate_transformation_mode="half_pixel_symmetric"
    ),
    "axes": by_scales([2.5, 0.5], mode="linear", axes=[3, 2]),
    "sequence": by_sizes([2, 3, 9], noise(2, 3, 4), mode="linear"),
    "volume": by_sizes([1, 2, 5, 3, 4], noise(1, 2, 3, 4, 2), mode="linear"),
    "bytes": by_sizes([1, 1, 4, 7], np.abs(99 * noise(1, 1, 4, 4)).astype(np.uint8), mode="linear"),
    "sharper": by_sizes([2, 3, 8, 3], mode="cubic", cubic_coeff_a=-0.5),
    "cubic inside": by_sizes([2, 3, 8, 3], mode="cubic", exclude_outside=1),
    "crop": crop([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.6], [2, 3, 4, 6], mode="linear"),
    "beyond": crop(
        [0, 0, -0.4, 0.3, 1, 1, 0.9, 1.5], [2, 3, 7, 6], mode="linear", extrapolation_value=-2.5
    ),
    "one place": crop([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.6], [2, 3, 1, 1], mode="linear"),
}
SMOOTHED = {
    f"{mode} {sizes}": by_sizes([2, 3, *sizes], mode=mode, antialias=1, exclude_outside=1)
    for mode in ("linear", "cubic")
    for sizes in ([2, 2], [9, 1], [3, 4])
}


@pytest.mark.parametrize(
    "cases", [NEAREST, INTERPOLATED, SMOOTHED], ids=["nearest", "interpolated", "smoothed"]
)
def test_resizing(cases: dict[str, NodeCase]) -> None:
    assert_cases_agree(cases, opset=19, atol=2e-6)


def test_corners_are_those_of_the_exact_size() -> None:
    """ONNX Runtime takes the last of the whole elements for the corner."""
    corners = {"coordinate_transformation_mode": "align_corners", "mode": "linear"}
    cases = {"corners": by_scales([1, 1, 0.6, 0.7], noise(1, 1, 4, 4), **corners)}
    assert_cases_agree(cases, opset=19, atol=1e-6, reference=True)


def test_axes_that_are_no_image() -> None:
    cases = {"linear": by_sizes([3, 5, 5, 4], mode="linear")}
    assert_cases_agree(cases, opset=19, atol=1e-6, reference=True)


@pytest.mark.parametrize(("op", "opset"), [("Resize", 10), ("Upsample", 9), ("Upsample", 7)])
def test_versions_without_modes(op: str, opset: int) -> None:
    scales = {"larger": [1, 1, 2, 2.5]} | ({"smaller": [1, 1, 0.75, 1.7]} if op == "Resize" else {})
    cases = {}
    for label, factors in scales.items():
        for mode in ("nearest", "linear"):
            if opset == 7:
                node = case(op, {"x": IMAGE}, scales=factors, mode=mode)
            else:
                node = case(op, {"x": IMAGE}, {"s": np.array(factors, np.float32)}, mode=mode)
            cases[f"{label} {mode}"] = node
    assert_cases_agree(cases, opset=opset, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (by_scales([2, 2]), r"scales \[2.0, 2.0\] do not fit 4 axes"),
        (by_scales([1, 1, -1, 2]), "are not all positive"),
        (case("Resize", {"x": IMAGE}), "neither scales nor sizes"),
        (crop([0, 1], [2, 3, 4, 4]), r"roi \[0.0, 1.0\] does not fit 4 axes"),
        (by_sizes([2, 3, 4, 4], nearest_mode="up"), "nearest_mode is 'up'; it can be"),
    ],
)
def test_resizes_that_break_a_rule(wrong: NodeCase, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_onnx(joined_model({"wrong": wrong}, opset=19))


def test_cubic_resizing_of_integers_is_unsupported() -> None:
    wrong = by_sizes([1, 1, 4, 4], np.ones((1, 1, 2, 2), np.uint8), mode="cubic")
    with pytest.raises(UnsupportedOperatorError, match="cast its input to float32"):
        from_onnx(joined_model({"wrong": wrong}, opset=19))


def test_a_padded_image_is_resized_in_one_kernel() -> None:
    """Places from a table and those of the image must be of one type of integer."""
    weights = {"pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]), "scales": np.array([1, 1, 2.4, 0.6])}
    weights["scales"] = weights["scales"].astype(np.float32)
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("Resize", ["p", "", "scales"], ["y"], mode="nearest"),
    ]
    model = make_model(nodes, {"x": IMAGE.shape}, ["y"], weights)
    (expected,) = run_onnx_runtime(model, {"x": IMAGE})
    np.testing.assert_allclose(onnx_backend.run_model(model, [IMAGE])[0], expected, rtol=1e-6)
