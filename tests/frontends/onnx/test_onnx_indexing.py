"""Gathers, scatters and other choices of elements, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx_models import (
    NodeCase,
    assert_cases_agree,
    case,
    feeds_of,
    joined_model,
    noise,
    run_module,
)

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.network import lower
from hios_tvm.errors import DynamicShapeError, ModelError
from hios_tvm.frontends.onnx import from_onnx

X = noise(3, 4, 5)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def indexed(op: str, x: np.ndarray, i: Any, *rest: np.ndarray, **attributes: Any) -> NodeCase:
    """Indices that are known only when the model runs."""
    updates = {f"u{k}": array for k, array in enumerate(rest)}
    return case(op, {"x": x, "i": np.asarray(i), **updates}, **attributes)


def known(op: str, x: np.ndarray, i: Any, *rest: np.ndarray, **attributes: Any) -> NodeCase:
    """The same for indices that the model holds."""
    updates = {f"u{k}": array for k, array in enumerate(rest)}
    order = ["x", "i", *updates]
    return case(op, {"x": x, **updates}, {"i": np.asarray(i)}, order=order, **attributes)


def both(label: str, *arguments: Any, **attributes: Any) -> dict[str, NodeCase]:
    return {
        label: indexed(*arguments, **attributes),
        f"{label} known": known(*arguments, **attributes),
    }


GATHERS = {
    **both("gather", "Gather", X, ints(0, 2, 1, 0)),
    **both("gather axis", "Gather", X, ints([1, -1], [0, -4]), axis=1),
    **both("gather one", "Gather", X, np.array(-2), axis=-1),
    **both("gather one of 32 bits", "Gather", X, np.array([1], np.int32), axis=-2),
    **both("gather integers", "Gather", np.arange(5), ints(4, 0)),
    **both("gather bools", "Gather", X > 0, ints(2, 0)),
    **both("gather nothing", "Gather", X, np.zeros((0,), np.int64)),
    **both("elements", "GatherElements", X[:, :, 0], ints([0, 1, -1, 2], [2, 2, -3, 0])),
    **both("elements axis", "GatherElements", X[0], ints([4, -5], [0, 1]), axis=1),
    **both("elements 3", "GatherElements", X, np.array([[[1], [-1]]]), axis=1),
    **both("nd", "GatherND", X, ints([0, 1, 4], [-1, -4, 0])),
    **both("nd rows", "GatherND", X, ints([[0, 1]], [[2, -1]])),
    **both("nd slices", "GatherND", X, ints([1], [0], [-1])),
    **both("nd batch", "GatherND", X, ints([1], [0], [-1]), batch_dims=1),
    **both("nd batch 2", "GatherND", X[:2, :2], ints([[1], [0]], [[-1], [4]]), batch_dims=2),
    **both("nd scalar", "GatherND", np.arange(4), ints(3)),
    "compress": known("Compress", X, np.array([False, True, True]), axis=0),
    "compress short": known("Compress", X, np.array([False, True]), axis=-1),
    "compress flat": known("Compress", X, np.arange(9) % 2 == 0),
    "compress nothing": known("Compress", X, np.zeros(3, bool), axis=0),
    **both("reverse", "ReverseSequence", X, ints(1, 3, 0, 2)),
    **both("reverse batch first", "ReverseSequence", X, ints(4, 2, 3), batch_axis=0, time_axis=1),
}


def test_gathers() -> None:
    assert_cases_agree(GATHERS)


ROWS = ints([0, 1], [2, -1])
SCATTERS = {
    **both("elements", "ScatterElements", X[0], ints([1, 0, -1, 2, 3]), noise(1, 5)),
    **both("axis", "ScatterElements", X[0], ints([1, -1], [0, 2]), noise(2, 2), axis=1),
    **both("far axis", "ScatterElements", X, np.array([[[1, 0]]]), noise(1, 1, 2), axis=-1),
    **both("integers", "ScatterElements", np.arange(5), ints(4, 1), ints(-7, -8)),
    **both("of 32 bits", "ScatterElements", noise(4), np.array([-1, 0], np.int32), noise(2)),
    **both("bools", "ScatterElements", noise(4) > 9, ints(2, -4), noise(2) < 9),
    **both("nothing", "ScatterElements", noise(4), np.zeros(0, np.int64), noise(0)),
    **both("nd", "ScatterND", X, ints([0, 1, 4], [-1, -4, 0]), noise(2)),
    **both("nd rows", "ScatterND", X, ROWS, noise(2, 5)),
    **both("nd slices", "ScatterND", X, ints([[1], [-1]]), noise(1, 2, 4, 5)),
    **both("nd scalar", "ScatterND", np.arange(4), ints([3], [1]), ints(9, 8)),
    **both("nd nothing", "ScatterND", X, np.zeros((0, 1), np.int64), noise(0, 4, 5)),
}


def test_scatters() -> None:
    assert_cases_agree(SCATTERS)


def test_duplicates_keep_the_last_update() -> None:
    cases = {
        **both("elements", "ScatterElements", noise(4), ints(2, 2, 0), noise(3)),
        **both("nd", "ScatterND", noise(4, 2), ints([2], [2], [-2]), noise(3, 2)),
    }
    assert_cases_agree(cases)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_reductions_into_elements(reduction: str) -> None:
    x, updates = noise(3, 4), noise(2, 4, seed=1)
    i = ints([0, 1, -1, 2], [0, 2, -1, 2])
    whole = np.arange(8)
    cases = {
        **both("elements", "ScatterElements", x, i, updates, reduction=reduction),
        **both("nd", "ScatterND", x, ints([1], [-2]), updates, reduction=reduction),
        **both("integers", "ScatterND", whole, ints([1], [1]), ints(5, -3), reduction=reduction),
        "double": indexed(
            "ScatterElements", x.astype(float), i, updates.astype(float), reduction=reduction
        ),
    }
    assert_cases_agree(cases, opset=18, rtol=1e-6)


def test_old_scatter() -> None:
    cases = both("scatter", "Scatter", X[0], ints([1, 0, 1, 2, 3]), noise(1, 5), axis=0)
    assert_cases_agree(cases, opset=9)


def hot(x: Any, depth: Any, values: np.ndarray, **attributes: Any) -> NodeCase:
    weights = {"depth": np.asarray(depth), "values": values}
    return case("OneHot", {"x": np.asarray(x)}, weights, **attributes)


ON_OFF = np.array([0, 1], np.float32)
ONE_HOTS = {
    "vector": hot(ints(0, 2, -1, 4, -6, 7), 5, ON_OFF),
    "axis 0": hot(ints([0, 2], [1, -3]), 3, ON_OFF, axis=0),
    "axis 1": hot(ints([0, 2], [1, -3]), 3, ON_OFF, axis=1),
    "float indices": hot(np.array([0.0, 3.0, -1.0], np.float32), np.float32(4), ON_OFF),
    "integer values": hot(ints(1, 0), ints(2), ints(-3, 8)),
    "32 bits": hot(np.array([1, -2], np.int32), np.array([3], np.int32), ON_OFF),
    "values at run time": case(
        "OneHot",
        {"x": ints(1, 2), "values": ON_OFF},
        {"depth": np.array(3)},
        order=["x", "depth", "values"],
    ),
}


def test_one_hots() -> None:
    assert_cases_agree(ONE_HOTS)


def test_one_hots_of_other_types() -> None:
    """Which ONNX Runtime lacks."""
    for index in (np.uint8, np.int8, np.uint64):
        for value in (np.float16, np.uint8, bool, ml_dtypes.bfloat16):
            entry = hot(np.array([1, 0, 2], index), 4, np.array([0, 1], value))
            expected = np.eye(4)[[1, 0, 2]].astype(value)
            module = from_onnx(joined_model({"hot": entry}))
            assert str(module["main"].ret_ty.dtype) == expected.dtype.name


def test_caches() -> None:
    past, update = noise(2, 1, 5, 3), noise(2, 1, 2, 3, seed=1)
    cases = {
        "from the start": case("TensorScatter", {"p": past, "u": update}),
        "linear": case("TensorScatter", {"p": past, "u": update, "w": ints(1, 3)}),
        "circular": case(
            "TensorScatter", {"p": past, "u": update, "w": ints(4, 9)}, mode="circular"
        ),
        "axis": case(
            "TensorScatter", {"p": noise(2, 4, 3), "u": noise(2, 1, 3), "w": ints(0, 3)}, axis=1
        ),
    }
    assert_cases_agree(cases, opset=24, reference=True)


def test_indices_outside_read_no_other_memory() -> None:
    """Kernels clip them, whether or not anybody looks at what they check."""
    cases = {
        "gather": indexed("Gather", noise(4), ints(10**12, -(10**12))),
        "elements": indexed("GatherElements", noise(4), ints(10**12, -(10**12))),
        "nd": indexed("GatherND", noise(4), ints([10**12], [-(10**12)])),
        "scatter": indexed("ScatterND", noise(4), ints([10**12], [-(10**12)]), noise(2)),
    }
    module = lower(from_onnx(joined_model(cases)), host_target())
    outputs = run_module(module, *feeds_of(cases).values())
    x, updates = noise(4), noise(2)
    for result in outputs[:3]:
        np.testing.assert_array_equal(result, x[[3, 0]])
    np.testing.assert_array_equal(outputs[3], [updates[1], x[1], x[2], updates[0]])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (known("Gather", X, ints(3)), "the index 3 is outside of a dimension of 3"),
        (known("ScatterND", X, ints([-4]), noise(1, 4, 5)), "outside of a dimension of 3"),
        (known("ScatterElements", noise(4), ints(4), noise(1)), "outside of a dimension of 4"),
        (indexed("GatherElements", X, ints([1])), "do not fit data"),
        (indexed("GatherND", X, ints([1, 1, 1, 1])), "do not fit"),
        (indexed("ScatterElements", noise(4), ints(1, 2), noise(3)), "its updates"),
        (indexed("ScatterND", X, ints([1]), noise(5, 4)), "do not fit data of shape"),
        (indexed("ReverseSequence", X, ints(1, 2)), "do not fit its input"),
        (known("Compress", X, np.ones(4, bool), axis=0), "longer than a dimension of 3"),
    ],
)
def test_nodes_that_break_a_rule(entry: NodeCase, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_onnx(joined_model({"bad": entry}))


@pytest.mark.parametrize(
    "entry",
    [
        case("NonZero", {"x": X}),
        case("Unique", {"x": X}),
        indexed("Compress", X, np.ones(3, bool), axis=0),
        case("NonMaxSuppression", {"boxes": noise(1, 4, 4), "scores": noise(1, 2, 4)}),
    ],
    ids=lambda entry: entry.node.op_type,
)
def test_sizes_that_depend_on_data(entry: NodeCase) -> None:
    with pytest.raises(DynamicShapeError, match=r"'bad': the sizes of its outputs? are not known"):
        from_onnx(joined_model({"bad": entry}))
