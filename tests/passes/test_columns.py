from __future__ import annotations

import numpy as np
import pytest
from lowered_models import assert_lowers_right, kernels, lowered, model_of, random, run_lowered
from onnx import ModelProto, NodeProto, helper
from tvm import te, topi

from hios_tvm.backends.cpu.targets import parse_target
from hios_tvm.passes.cpu_rules.columns import Columns
from hios_tvm.passes.schedule_kernels import NO_RULE


def node(operator: str, **attributes: object) -> NodeProto:
    return helper.make_node(operator, ["x"], ["y"], **attributes)


def have_rules(model: ModelProto) -> bool:
    mod = lowered(model)
    return not any(NO_RULE in mod[name].attrs for name in kernels(mod))


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        ("Softmax", (2, 5, 3, 19)),
        ("Softmax", (1, 2, 1, 131)),
        ("LogSoftmax", (3, 700, 7)),
    ],
)
def test_softmax(operator: str, shape: tuple[int, ...]) -> None:
    model = model_of([node(operator, axis=1)], {"x": shape})
    assert have_rules(model)
    assert_lowers_right(model)


@pytest.mark.parametrize(
    ("operator", "shape", "axes", "keep"),
    [
        ("ReduceMean", (2, 1300, 19), [1], 0),
        ("ReduceMax", (3, 4, 5, 100), [0, 2], 1),
        ("ReduceMin", (7, 33), [0], 0),
        ("ReduceL2", (2, 700, 3, 80), [1, 2], 1),
        ("ReduceLogSumExp", (2, 9, 40), [1], 0),
    ],
)
def test_reductions(operator: str, shape: tuple[int, ...], axes: list[int], keep: int) -> None:
    model = model_of([node(operator, axes=axes, keepdims=keep)], {"x": shape})
    assert have_rules(model)
    assert_lowers_right(model)


def test_what_is_multiplied_before_the_sum_is_not_stored() -> None:
    """Attention between two groups of channels, as in ResNeSt."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["p"]),
        helper.make_node("ReduceSum", ["p", "axes"], ["y"], keepdims=0),
    ]
    inputs = {"x": (1, 2, 6, 7, 9), "w": (1, 2, 6, 1, 1)}
    model = model_of(nodes, inputs, {"axes": np.array([1], np.int64)})
    assert have_rules(model)
    assert_lowers_right(model)
    assert "sblock_alloc_buffer" not in str(lowered(model))


def test_code_without_avx512() -> None:
    model = model_of([node("Softmax", axis=1)], {"x": (2, 9, 37)})
    assert_lowers_right(model, target=parse_target("portable"))


def test_nan_stays_in_its_column() -> None:
    x = random(2, 5, 40)
    x[1, 3, 7] = np.nan
    (y,) = run_lowered(model_of([node("Softmax", axis=1)], {"x": x.shape}), {"x": x})
    expected = np.zeros(x.shape, bool)
    expected[1, :, 7] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


def test_results_of_other_columns_are_none_of_the_rule() -> None:
    a = te.placeholder((5, 48), name="a")
    totals = topi.sum(a, 0)
    mirrored = te.compute((5, 48), lambda i, j: a[i, j] * totals[47 - j])
    own = te.compute((5, 48), lambda i, j: a[i, j] * totals[j])
    assert Columns(16, 32).apply(te.create_prim_func([a, mirrored])) is None
    assert Columns(16, 32).apply(te.create_prim_func([a, topi.sum(a, 1)])) is None
    assert Columns(16, 32).apply(te.create_prim_func([a, own])) is not None


def test_long_rows_are_summed_in_pieces() -> None:
    """Sums of 4096 such terms, one for each lane of four vectors, are wrong by 4e-5."""
    x = np.full((1, 1 << 18), 1.1, np.float32)
    model = model_of([node("ReduceSum", keepdims=0)], {"x": x.shape})
    model.opset_import[0].version = 13
    assert have_rules(model)
    (y,) = run_lowered(model, {"x": x})
    np.testing.assert_allclose(y, x.sum(dtype="float64"), rtol=4e-6)
