"""Convolutions and their transposes, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import (
    NodeCase,
    assert_cases_agree,
    assert_same_outputs,
    case,
    joined_model,
    make_model,
    node,
    noise,
)

from hios_tvm.errors import ModelError, UnsupportedOperatorError
from hios_tvm.frontends.onnx import from_onnx

IMAGE = (2, 4, 7, 6)


def conv(
    weight: tuple[int, ...], x: tuple[int, ...] = IMAGE, *, bias: bool = False, **attributes: Any
) -> NodeCase:
    weights = {"w": noise(*weight, seed=1)}
    if bias:
        weights["b"] = noise(weight[0], seed=2)
    return case("Conv", {"x": noise(*x)}, weights, **attributes)


def transposed(
    weight: tuple[int, ...], x: tuple[int, ...] = IMAGE, *, bias: int = 0, **attributes: Any
) -> NodeCase:
    weights = {"w": noise(*weight, seed=1)}
    if bias:
        weights["b"] = noise(bias, seed=2)
    return case("ConvTranspose", {"x": noise(*x)}, weights, **attributes)


CONVOLUTIONS = {
    "plain": conv((3, 4, 3, 2)),
    "bias": conv((3, 4, 3, 2), bias=True, kernel_shape=[3, 2]),
    "asymmetric pads": conv((3, 4, 3, 3), pads=[0, 1, 2, 3], strides=[2, 1]),
    "same upper": conv((3, 4, 2, 4), auto_pad="SAME_UPPER", strides=[2, 3]),
    "same lower": conv((3, 4, 2, 4), auto_pad="SAME_LOWER", strides=[2, 3]),
    "valid": conv((3, 4, 2, 2), auto_pad="VALID"),
    "strides beyond the kernel": conv((3, 4, 1, 1), auto_pad="SAME_LOWER", strides=[5, 4]),
    "groups and gaps": conv((6, 2, 3, 2), group=2, dilations=[2, 3], pads=[2, 2, 2, 2]),
    "each channel": conv((4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    "sequence": conv((3, 4, 3), (1, 4, 9), pads=[2, 0], strides=[2]),
    "volume": conv((3, 4, 2, 3, 1), (1, 4, 4, 5, 3), pads=[1, 0, 0, 0, 1, 1], bias=True),
    "computed weight": case("Conv", {"x": noise(*IMAGE), "w": noise(3, 4, 3, 2, seed=1)}),
}

TRANSPOSED = {
    "plain": transposed((4, 3, 3, 2), strides=[2, 3]),
    "bias": transposed((4, 3, 3, 2), bias=3, strides=[2, 3], pads=[1, 0, 0, 1]),
    "more behind": transposed((4, 3, 2, 2), strides=[3, 2], output_padding=[2, 1]),
    "more behind and pads": transposed(
        (4, 3, 3, 3), strides=[3, 2], output_padding=[1, 1], pads=[1, 1, 0, 2]
    ),
    "gaps": transposed((4, 3, 2, 3), strides=[2, 1], dilations=[2, 3]),
    "groups": transposed((4, 2, 2, 3), bias=4, strides=[2, 2], group=2),
    "pads beyond the window": transposed((4, 3, 1, 2), strides=[2, 2], pads=[1, 2, 2, 0]),
    "same upper": transposed((4, 3, 4, 2), strides=[2, 3], auto_pad="SAME_UPPER"),
    "same lower": transposed((4, 3, 4, 2), strides=[2, 3], auto_pad="SAME_LOWER"),
    "sequence": transposed((4, 3, 3), (1, 4, 5), strides=[2], pads=[1, 0]),
    "volume": transposed((4, 3, 2, 1, 2), (1, 4, 3, 4, 2), strides=[2, 1, 2], dilations=[1, 2, 1]),
    "computed weight": case(
        "ConvTranspose",
        {"x": noise(*IMAGE), "w": noise(4, 3, 3, 2, seed=1)},
        strides=[2, 1],
        dilations=[1, 2],
    ),
} | {
    f"{sizes} {mode}": transposed(
        (4, 2, 3, 4), (1, 4, 6, 5), strides=[2, 3], output_shape=sizes, auto_pad=mode
    )
    for mode in ("NOTSET", "SAME_UPPER", "SAME_LOWER")
    for sizes in ([11, 14], [12, 14])
}


@pytest.mark.parametrize("cases", [CONVOLUTIONS, TRANSPOSED], ids=["ordinary", "transposed"])
def test_convolutions(cases: dict[str, NodeCase]) -> None:
    assert_cases_agree(cases, atol=1e-5)


def test_convolutions_of_double_precision() -> None:
    """ONNX Runtime has them in single precision only."""
    double = {
        label: case("Conv", {"x": noise(1, 2, 5, 6).astype(dtype)}, {"w": w.astype(dtype)})
        for label, dtype, w in (
            ("float64", np.float64, noise(3, 2, 2, 3)),
            ("float16", np.float16, noise(3, 2, 2, 3)),
        )
    }
    assert_cases_agree(double, atol=4e-3, reference=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (conv((3, 3, 3, 2)), "3 x 3 channels in 1 groups does not fit 4 input channels"),
        (conv((3, 4, 3)), "3 dimensions does not fit an input of 4"),
        (conv((3, 4, 3, 2), kernel_shape=[3, 3]), "kernel_shape is not the shape of the weight"),
        (conv((3, 4, 3, 2), pads=[1, 1]), r"pads \[1, 1\] does not fit 2 spatial axes"),
        (conv((3, 4, 9, 2)), "a window of 9 does not fit an axis of 7"),
        (conv((3, 4, 9, 2), strides=[3, 1]), "is larger than the padded image"),
        (transposed((3, 3, 3, 2)), "3 input channels in 1 groups does not fit 4"),
        (transposed((4, 3, 1, 1), pads=[4, 0, 4, 0]), "leaves nothing along spatial axis 0"),
    ],
)
def test_shapes_that_do_not_fit(wrong: NodeCase, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_onnx(joined_model({"wrong": wrong}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (conv((1, 1, 1, 1, 1, 1), (1, 1, 2, 2, 2, 2)), "4 spatial axes"),
        (
            transposed((4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2], output_padding=[1, 1]),
            "give pads instead",
        ),
    ],
)
def test_what_cannot_be_imported(wrong: NodeCase, message: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=message):
        from_onnx(joined_model({"wrong": wrong}))


# --- Sums of windows, and windows at moved places ---


def test_sums_of_windows() -> None:
    extents = {"image": np.array([6, 5]), "block": np.array([2, 3])}
    options = {"strides": [2, 1], "dilations": [2, 1], "pads": [1, 0, 2, 1]}
    cases = {
        "image": case("Col2Im", {"x": noise(2, 12, 16)}, extents, **options),
        "plain": case("Col2Im", {"x": noise(1, 6, 15)}, extents),
    }
    assert_cases_agree(cases, opset=18, atol=1e-5, reference=True)


def test_windows_at_moved_places() -> None:
    inputs = {"x": noise(2, 4, 6, 5), "w": noise(2, 2, 2, 3, seed=1)}
    moved = {"offset": 2 * noise(2, 24, 3, 3, seed=2)}
    options = {"group": 2, "offset_group": 2, "strides": [2, 1]}
    cases = {
        "moved": case("DeformConv", inputs | moved, **options),
        "bias and mask": case(
            "DeformConv",
            inputs | moved | {"b": noise(2, seed=3), "mask": noise(2, 12, 3, 3, seed=4)},
            **options,
        ),
    }
    assert_cases_agree(cases, opset=22, atol=1e-5)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("output_shape", [[11, 14], [12, 14]])
def test_transposed_convolution_of_a_given_size(auto_pad: str, output_shape: list[int]) -> None:
    attributes = {"output_shape": output_shape, "auto_pad": auto_pad, "strides": [2, 3]}
    nodes = [node("ConvTranspose", "x w", "y", **attributes)]
    model = make_model(nodes, {"x": (1, 3, 6, 5)}, ["y"], {"w": noise(3, 2, 3, 4)})
    assert_same_outputs(from_onnx(model), model, {"x": noise(1, 3, 6, 5)})
