from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from lowered_models import Array, assert_lowers_right, lowered, model_of, run_lowered
from onnx import helper
from tvm.script import ir as I
from tvm.script import tirx as T
from tvm.tirx import Let

from hios_tvm.backends.cpu.targets import parse_target
from hios_tvm.passes.tir_trees import nodes_of
from hios_tvm.passes.vector_math import VectorMath

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "Exp": np.exp,
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "Tanh": np.tanh,
    "Erf": np.vectorize(math.erf),
}
SMALLEST = 2e-38  # below, results may be zero


def numbers() -> Array:
    magnitudes = np.concatenate([np.logspace(-30, 2, 20_000), np.linspace(0, 100, 20_000)])
    return np.concatenate([magnitudes, -magnitudes]).astype(np.float32)


def run(operator: str, data: Array, target: str = "host") -> Array:
    model = model_of([helper.make_node(operator, ["x"], ["y"])], {"x": data.shape})
    (result,) = run_lowered(model, {"x": data}, parse_target(target))
    return result


@pytest.mark.parametrize("target", ["host", "portable"])
@pytest.mark.parametrize("operator", FUNCTIONS)
def test_results_are_within_a_few_units_in_the_last_place(operator: str, target: str) -> None:
    data = numbers()
    with np.errstate(over="ignore"):
        exact = FUNCTIONS[operator](data.astype(np.float64)).astype(np.float32)
        result = run(operator, data, target)
        finite = np.isfinite(exact) & (np.abs(exact) > SMALLEST)
    np.testing.assert_array_max_ulp(result[finite], exact[finite], maxulp=6)
    assert np.all(np.abs(result[np.abs(exact) <= SMALLEST]) <= SMALLEST)
    np.testing.assert_array_equal(result[np.isinf(exact)], exact[np.isinf(exact)])


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_infinities_and_what_is_no_number(operator: str) -> None:
    data = np.array([np.inf, -np.inf, np.nan, 0.0], np.float32)
    expected = {"Exp": [np.inf, 0, np.nan, 1], "Sigmoid": [1, 0, np.nan, 0.5]}
    odd = [1, -1, np.nan, 0]
    np.testing.assert_array_equal(run(operator, data), expected.get(operator, odd))


def test_functions_of_functions() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Exp", ["b"], ["y"]),
    ]
    data = np.linspace(-3, 3, 100, dtype=np.float32)
    model = model_of(nodes, {"x": data.shape})
    (result,) = run_lowered(model, {"x": data})
    np.testing.assert_allclose(result, np.exp(np.tanh(np.exp(data))), rtol=1e-6)


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_kernels_call_no_library(operator: str) -> None:
    mod = lowered(model_of([helper.make_node(operator, ["x"], ["y"])], {"x": (64,)}))
    text = str(mod)
    assert not [name for name in ("T.exp(", "T.sigmoid(", "T.tanh(", "T.erf(") if name in text]


def test_double_precision_stays() -> None:
    model = model_of([helper.make_node("Exp", ["x"], ["y"])], {"x": (64,)})
    model.graph.input[0].type.tensor_type.elem_type = 11
    data = np.linspace(-5, 5, 64)
    (result,) = run_lowered(model, {"x": data})
    np.testing.assert_allclose(result, np.exp(data), rtol=1e-13)


@pytest.mark.parametrize("operator", ["Selu", "Elu", "Celu", "Mish", "HardSwish", "Gelu"])
def test_one_number_for_all_lanes(operator: str) -> None:
    """The activation of a single element is added to vectors."""
    nodes = [helper.make_node(operator, ["t"], ["s"]), helper.make_node("Add", ["s", "x"], ["y"])]
    model = model_of(nodes, {"t": (1, 1, 1, 1), "x": (7, 16, 3, 7)})
    model.opset_import[0].version = 20
    assert_lowers_right(model)


@pytest.mark.parametrize("operator", ["Atan", "Round"])
def test_functions_without_vectors_stand_beside(operator: str) -> None:
    """They keep their loop from becoming vectors."""
    nodes = [
        helper.make_node(operator, ["x"], ["a"]),
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Mul", ["a", "t"], ["y"]),
    ]
    assert_lowers_right(model_of(nodes, {"x": (45, 9)}))


def test_one_argument_for_all_lanes_stays() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(x: T.Buffer((1,), "float32"), y: T.Buffer((8,), "float32")):
            for lane in T.vectorized(8):
                y[lane] = T.exp(x[0])

    tvm.ir.assert_structural_equal(VectorMath()(Before), Before)


def test_loops_that_call_functions_of_c_stay() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
            for lane in T.vectorized(8):
                y[lane] = T.exp(x[lane]) + T.call_pure_extern("float32", "cbrtf", x[lane])

    tvm.ir.assert_structural_equal(VectorMath()(Before), Before)


def test_each_value_has_a_name() -> None:
    """A nest of names around the result, none of them in the value of another."""

    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
            for i in range(8):
                y[i] = T.sigmoid(x[i])

    value = VectorMath()(Before)["main"].body.body.value
    names = 0
    while isinstance(value, Let):
        assert nodes_of(value.value, Let) == []
        value = value.body
        names += 1
    assert names > 1
    assert nodes_of(value, Let) == []
