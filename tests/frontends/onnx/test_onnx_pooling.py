"""Poolings and their inverse, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import Array, NodeCase, assert_cases_agree, case, joined_model, noise

from hios_tvm.errors import ModelError, UnsupportedOperatorError
from hios_tvm.frontends.onnx import from_onnx

IMAGE = noise(2, 3, 7, 6)


def pool(op: str, kernel: list[int], x: Array = IMAGE, **attributes: Any) -> NodeCase:
    return case(op, {"x": x}, kernel_shape=kernel, **attributes)


def geometries(op: str) -> dict[str, NodeCase]:
    return {
        f"{op} plain": pool(op, [2, 3]),
        f"{op} asymmetric pads": pool(op, [3, 3], pads=[0, 1, 2, 1], strides=[2, 1]),
        f"{op} same upper": pool(op, [2, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
        f"{op} same lower": pool(op, [2, 3], auto_pad="SAME_LOWER", strides=[2, 2]),
        f"{op} rounded up": pool(op, [3, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1),
        f"{op} last window in the padding": pool(
            op, [2, 2], noise(1, 1, 5, 5), strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1
        ),
        f"{op} a step beyond the image": pool(
            op, [5, 1], noise(1, 1, 4, 3), strides=[2, 4], pads=[2, 0, 2, 0], ceil_mode=1
        ),
        f"{op} gaps": pool(op, [2, 3], dilations=[3, 2], pads=[1, 2, 1, 2]),
        f"{op} beyond the image": pool(op, [3, 2], noise(1, 2, 1, 6), strides=[3, 1]),
        f"{op} sequence": pool(op, [3], noise(1, 2, 8), strides=[2], pads=[1, 0]),
        f"{op} volume": pool(op, [2, 1, 3], noise(1, 2, 4, 3, 5), pads=[1, 0, 1, 0, 0, 2]),
    }


COUNTED: dict[str, dict[str, Any]] = {
    "symmetric": {"pads": [1, 1, 1, 1]},
    "rounded up": {"pads": [1, 0, 1, 2], "strides": [2, 3], "ceil_mode": 1},
    "gaps": {"pads": [2, 0, 1, 2], "dilations": [2, 1], "strides": [3, 2], "ceil_mode": 1},
}
CROPPED = {
    f"cropped, {mode} {stride}": pool("AveragePool", [1, 2], strides=[stride, 4], auto_pad=mode)
    for mode in ("SAME_UPPER", "SAME_LOWER")
    for stride in (4, 5, 6)
}
AVERAGES = (
    geometries("AveragePool")
    | CROPPED
    | {
        f"counted padding, {label}": pool("AveragePool", [3, 3], count_include_pad=1, **options)
        for label, options in COUNTED.items()
    }
)
MAXIMA = geometries("MaxPool") | {
    "integers": pool("MaxPool", [2, 2], (50 * IMAGE).astype(np.int8), pads=[1, 1, 1, 1]),
    "natural numbers": pool("MaxPool", [2, 2], np.abs(50 * IMAGE).astype(np.uint8), strides=[2, 1]),
    "double": pool("MaxPool", [2, 2], IMAGE.astype(np.float64), pads=[1, 0, 1, 0]),
    "places": pool("MaxPool", [2, 3], outputs=["y", "i"], pads=[1, 1, 0, 1]),
    "places by columns": pool("MaxPool", [2, 3], outputs=["y", "i"], storage_order=1),
    "places of equal numbers": pool("MaxPool", [2, 3], np.ones_like(IMAGE), outputs=["y", "i"]),
    "places in a volume": pool(
        "MaxPool", [2, 1, 2], noise(2, 2, 3, 2, 4), outputs=["y", "i"], storage_order=1
    ),
}
NORMS = geometries("LpPool") | {
    f"power {p}": pool("LpPool", [2, 3], p=p, pads=[1, 0, 0, 1]) for p in (1, 3, 4)
}
WHOLE = {
    f"{op} {rank}": case(op, {"x": noise(2, 3, *(4, 5, 2)[:rank])})
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
    for rank in (1, 2, 3)
    if op != "GlobalLpPool" or rank == 2
}


@pytest.mark.parametrize(
    "cases", [AVERAGES, MAXIMA, NORMS, WHOLE], ids=["averages", "maxima", "norms", "whole"]
)
def test_poolings(cases: dict[str, NodeCase]) -> None:
    assert_cases_agree(cases, opset=21 if cases is WHOLE else 22, atol=1e-5)


def test_maxima_of_infinities_are_infinite() -> None:
    """ONNX Runtime answers with the least finite number."""
    infinite = np.full((1, 1, 4, 4), -np.inf, np.float32)
    cases = {
        "image": pool("MaxPool", [2, 2], infinite),
        "volume": pool("MaxPool", [2, 2, 2], infinite[:, :, None].repeat(2, 2)),
    }
    assert_cases_agree(cases, reference=True)


def test_windows_that_do_not_fit() -> None:
    wrong = {"wrong": pool("MaxPool", [9, 2])}
    with pytest.raises(ModelError, match="a window of 9 does not fit an axis of 7"):
        from_onnx(joined_model(wrong))


def test_automatic_pads_of_windows_with_gaps_are_refused() -> None:
    gaps = {"gaps": pool("MaxPool", [2, 1], auto_pad="SAME_UPPER", dilations=[2, 1])}
    with pytest.raises(UnsupportedOperatorError, match="auto_pad with dilations"):
        from_onnx(joined_model(gaps))


@pytest.mark.parametrize("shape", [None, [1, 1, 5, 6]])
def test_inverse_of_pooling(shape: list[int] | None) -> None:
    """Places are those of the implied shape; ONNX Runtime takes them for those of the output."""
    inputs = {"x": noise(1, 1, 2, 2), "places": np.array([5, 7, 13, 15]).reshape(1, 1, 2, 2)}
    weights = {} if shape is None else {"shape": np.array(shape)}
    unpool = case("MaxUnpool", inputs, weights, kernel_shape=[2, 2], strides=[2, 2])
    assert_cases_agree({"unpool": unpool}, reference=True)
