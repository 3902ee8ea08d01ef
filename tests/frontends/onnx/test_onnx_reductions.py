"""Reductions, softmax, positions, sorting and running sums, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import NodeCase, assert_cases_agree, case, joined_model, noise

from hios_tvm.errors import DynamicShapeError, ModelError
from hios_tvm.frontends.onnx import from_onnx

INF = np.inf
X = np.abs(noise(2, 3, 4)) + np.float32(0.5)
INFINITE = np.array([[INF, 1], [-INF, 2], [-INF, -INF]], np.float32)
REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
KEEPING = ("Sum", "Mean", "Max", "Min", "Prod")  # these reduce over no axes by doing nothing


def axes(*values: int) -> dict[str, np.ndarray]:
    return {"axes": np.array(values, np.int64)}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    op = f"Reduce{name}"
    cases = {
        "middle": case(op, {"x": X}, axes(-2)),
        "several": case(op, {"x": X}, axes(2, 0), keepdims=0),
        "all": case(op, {"x": X}),
        "double": case(op, {"x": X.astype("float64")}, axes(0)),
    }
    if name != "LogSum":
        cases["infinite"] = case(op, {"x": INFINITE}, axes(1))
    if name in KEEPING:
        cases["no axes"] = case(op, {"x": X}, noop_with_empty_axes=1)
    if name not in ("LogSum", "LogSumExp"):
        whole = np.array([[-4, -1, 0, 2, -3], [1, 2, 3, 4, 5]], np.int32)
        cases["integers"] = case(op, {"x": whole}, axes(1))
    assert_cases_agree(cases, opset=18, rtol=1e-5)


def test_axes_of_older_opsets_are_an_attribute() -> None:
    cases = {name: case(f"Reduce{name}", {"x": X}, axes=[-1, 0]) for name in REDUCTIONS}
    assert_cases_agree(cases, opset=11, rtol=1e-5)


def test_reductions_of_nothing() -> None:
    x = np.zeros((2, 0, 3), np.float32)
    cases = {
        name: case(f"Reduce{name}", {"x": x}, axes(1))
        for name in ("Sum", "Prod", "Max", "Min", "LogSumExp", "L2")
    }
    assert_cases_agree(cases, opset=20, reference=True)


def test_the_largest_truth_value() -> None:
    x = np.array([[True, False], [False, False]])
    assert_cases_agree({"max": case("ReduceMax", {"x": x}, axes(1))}, opset=20, reference=True)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_of_old_opsets_takes_all_dimensions_from_the_axis_on(op: str, opset: int) -> None:
    x = noise(2, 3, 4)
    cases: dict[str, NodeCase] = {str(a): case(op, {"x": x}, axis=a) for a in (0, 1, -1)}
    cases["default"] = case(op, {"x": x})
    cases["minus infinity"] = case(op, {"x": np.array([[-INF, 1, 2], [3, 3, -INF]], np.float32)})
    assert_cases_agree(cases, opset=opset, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_positions_of_extremes(op: str) -> None:
    x = np.random.default_rng(0).integers(0, 4, (3, 5, 4))
    cases = {}
    for dtype in ("float32", "int32", "uint8"):
        for last in (0, 1):
            data = {"x": x.astype(dtype)}
            options = {"axis": 1, "select_last_index": last, "keepdims": last}
            cases[f"{dtype} {last}"] = case(op, data, **options)
    for sign in (-1, 1):
        cases[f"{sign} infinite"] = case(op, {"x": np.full((2, 3), sign * INF, np.float32)}, axis=1)
    assert_cases_agree(cases, opset=13)


def test_the_largest_elements() -> None:
    """Of equal ones, the first."""
    x = np.random.default_rng(0).integers(0, 4, (3, 8))
    count = {"k": np.array([5])}
    cases = {
        f"{dtype} {largest}": case(
            "TopK", {"x": x.astype(dtype)}, count, largest=largest, outputs=["v", "i"]
        )
        for dtype in ("float32", "float64", "int32", "int64")
        for largest in (0, 1)
    }
    assert_cases_agree(cases)
    with pytest.raises(ModelError, match="no 9 elements along an axis of 8"):
        from_onnx(
            joined_model(
                {"t": case("TopK", {"x": noise(8)}, {"k": np.array([9])}, outputs=["v", "i"])}
            )
        )


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_sums(exclusive: int, reverse: int) -> None:
    options = {"exclusive": exclusive, "reverse": reverse}
    axis = {"axis": np.array(-1, np.int32)}
    cases = {
        dtype: case("CumSum", {"x": (X[0] * 9).astype(dtype)}, axis, **options)
        for dtype in ("float32", "int64")
    }
    assert_cases_agree(cases, rtol=1e-6)


def test_axes_that_are_known_only_at_run_time_are_refused() -> None:
    computed = case("ReduceSum", {"x": X, "axes": np.array([1])})
    with pytest.raises(DynamicShapeError, match="its axes are not known"):
        from_onnx(joined_model({"sum": computed}))
