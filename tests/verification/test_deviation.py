"""Outputs against references, and the search for the first operator that differs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hios_tvm.errors import UsageError
from hios_tvm.verify import deviations, first_difference, onnxruntime_outputs, random_inputs


def chain(operators: list[str]) -> onnx.ModelProto:
    names = ["x", *(f"t{i}" for i in range(len(operators)))]
    nodes = [
        helper.make_node(operator, [names[i]], [names[i + 1]])
        for i, operator in enumerate(operators)
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("wrong", [None, "Sin", "Sigmoid", "Relu", "Tanh"])
def test_bisection_finds_the_first_wrong_operator(wrong: str | None) -> None:
    """Everything behind the wrong operator differs too; the first one is the answer."""
    model = chain(["Sin", "Relu", "Sigmoid", "Tanh", "Exp"])
    inputs = {"x": np.array([0.1, 0.5, 1.0, 1.5], dtype=np.float32)}

    def run(cut: onnx.ModelProto, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = onnxruntime_outputs(cut, given)
        broken = any(node.op_type == wrong for node in cut.graph.node)
        return {name: array + broken for name, array in outputs.items()}

    found = first_difference(model, inputs, run)
    expected = wrong and (wrong, next(n.output[0] for n in model.graph.node if n.op_type == wrong))
    assert found == expected


def test_deviation_is_relative_to_the_largest_magnitude() -> None:
    reference = {"y": np.array([0.0, 10.0])}
    (deviation,) = deviations({"y": np.array([0.001, 10.0])}, reference)
    assert deviation.max_error == pytest.approx(1e-4)
    assert deviation.within(1e-4 + 1e-12)
    assert not deviation.within(9e-5)


def test_nan_never_counts_as_equal_unless_the_reference_has_it() -> None:
    finite, broken = np.array([1.0, 2.0]), np.array([1.0, np.nan])
    assert not deviations({"y": broken}, {"y": finite})[0].within(1e9)
    assert not deviations({"y": finite}, {"y": broken})[0].within(1e9)
    assert deviations({"y": broken}, {"y": broken})[0].within(0.0)
    infinite = np.array([1.0, np.inf])
    assert deviations({"y": infinite}, {"y": infinite})[0].within(0.0)
    assert not deviations({"y": finite}, {"y": infinite})[0].within(1e9)


def test_other_names_and_shapes_are_no_comparison() -> None:
    with pytest.raises(UsageError, match="the reference holds"):
        deviations({"y": np.zeros(2)}, {"z": np.zeros(2)})
    with pytest.raises(UsageError, match="has shape"):
        deviations({"y": np.zeros(2)}, {"y": np.zeros(3)})


def test_random_inputs_depend_on_the_seed_and_respect_the_range() -> None:
    specs = [("x", (100,), "float32"), ("i", (100,), "int64"), ("b", (100,), "bool")]
    first, again, other = (random_inputs(specs, seed) for seed in (1, 1, 2))
    for name, _, dtype in specs:
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).any()
        assert first[name].dtype == dtype
    assert set(np.unique(first["i"])) == {0, 1}
    limited = random_inputs(specs[:2], 0, (3.0, 5.0))
    assert limited["x"].min() >= 3 and limited["x"].max() <= 5
    assert set(np.unique(limited["i"])) == {3, 4, 5}
