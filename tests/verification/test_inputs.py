"""Inputs that suit a model, and that show whether it is right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.schema.graph import Tensor
from hios_tvm.verification.inputs import IntegerRange, random_inputs, telling_draws
from hios_tvm.verification.integer_ranges import integer_ranges

IDS = TensorProto.INT64


def ranges_of(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, tuple[int, ...]]],
    weights: Mapping[str, np.ndarray],
) -> dict[str, IntegerRange]:
    """What the inputs of a model whose last node's output is returned may be."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [onnx.ValueInfoProto(name=nodes[-1].output[0])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return integer_ranges(from_onnx(model))


def table(words: int) -> np.ndarray:
    return np.zeros((words, 4), np.float32)


def test_indices_of_an_embedding_go_through_a_cast() -> None:
    nodes = [
        helper.make_node("Cast", ["ids"], ["small"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "small"], ["y"]),
    ]
    found = ranges_of(nodes, {"ids": (IDS, (2, 50))}, {"table": table(1000)})
    assert found == {"ids": IntegerRange(0, 999)}
    ids = random_inputs([Tensor("ids", (2, 50), "int64")], 0, integers=found)["ids"]
    assert ids.min() >= 0 and 500 < ids.max() < 1000


def test_the_smallest_table_counts_and_masks_are_left_alone() -> None:
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["a"]),
        helper.make_node("Concat", ["ids", "more"], ["both"], axis=1),
        helper.make_node("Reshape", ["both", "shape"], ["flat"]),
        helper.make_node("Slice", ["flat", "start", "end"], ["some"]),
        helper.make_node("Gather", ["few", "some"], ["b"]),
        helper.make_node("Cast", ["mask"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["factor", "b"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["d"], keepdims=0),
        helper.make_node("Add", ["a", "d"], ["y"]),
    ]
    inputs = {name: (IDS, (1, 6)) for name in ("ids", "more")} | {"mask": (IDS, (6, 1))}
    weights = {"words": table(1000), "few": table(7), "shape": np.array([12])}
    weights |= {"start": np.array([2]), "end": np.array([8])}
    found = ranges_of(nodes, inputs, weights)
    assert found == {"ids": IntegerRange(0, 6), "more": IntegerRange(0, 6)}
    mask = random_inputs([Tensor("mask", (1000,), "int64")], 0, integers=found)["mask"]
    assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize(
    ("node", "shape", "high"),
    [
        (helper.make_node("GatherElements", ["table", "i"], ["y"], axis=1), (30, 2), 3),
        (helper.make_node("GatherND", ["table", "i"], ["y"]), (5, 1), 29),
        (helper.make_node("GatherND", ["table", "i"], ["y"]), (5, 2), 3),
    ],
)
def test_other_gathers(node: onnx.NodeProto, shape: tuple[int, ...], high: int) -> None:
    found = ranges_of([node], {"i": (IDS, shape)}, {"table": table(30)})
    assert found == {"i": IntegerRange(0, high)}


def test_sums_with_a_constant_shift_the_range() -> None:
    nodes = [
        helper.make_node("Add", ["i", "two"], ["j"]),
        helper.make_node("Gather", ["table", "j"], ["y"]),
    ]
    found = ranges_of(nodes, {"i": (IDS, (3,))}, {"table": table(30), "two": np.array([2])})
    assert found == {"i": IntegerRange(0, 27)}


def test_divisors_are_never_zero() -> None:
    nodes = [helper.make_node("Div", ["a", "b"], ["y"])]
    found = ranges_of(nodes, {"a": (IDS, (9,)), "b": (IDS, (9,))}, {})
    assert found == {"b": IntegerRange(1)}
    drawn = random_inputs([Tensor("b", (100,), "int64")], 0, integers=found)["b"]
    assert set(np.unique(drawn)) == {1, 2}


def test_random_inputs_depend_on_the_seed_and_respect_the_range() -> None:
    kinds = {"x": "float32", "i": "int64", "b": "bool"}
    specs = [Tensor(name, (100,), dtype) for name, dtype in kinds.items()]
    first, again, other = (random_inputs(specs, seed) for seed in (1, 1, 2))
    for name, dtype in kinds.items():
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).any()
        assert first[name].dtype == dtype
    assert set(np.unique(first["i"])) == {0, 1}
    limited = random_inputs(specs[:2], 0, (3.0, 5.0))
    assert limited["x"].min() >= 3 and limited["x"].max() <= 5
    assert set(np.unique(limited["i"])) == {3, 4, 5}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_floats_of_every_type_are_normal(dtype: str) -> None:
    drawn = random_inputs([Tensor("x", (1000,), dtype)], 0)["x"].astype(np.float64)
    assert abs(drawn.mean()) < 0.2 and 0.8 < drawn.std() < 1.2


@pytest.mark.parametrize(("gain", "scale"), [(1.0, 1), (1e-4, 10), (1e-5, 100)])
def test_inputs_grow_until_the_outputs_depend_on_them(gain: float, scale: int) -> None:
    specs = [Tensor("x", (4,), "float32")]
    draws = telling_draws(specs, {}, lambda draw: {"y": 1 + gain * draw["x"]})
    assert draws.scale == scale
    assert draws.unchanged == ()
    assert np.abs(draws.inputs[0]["x"]).max() > 0.3 * scale


def test_outputs_that_never_change_are_named() -> None:
    specs = [Tensor("x", (4,), "float32")]
    draws = telling_draws(specs, {}, lambda draw: {"y": np.ones(3), "z": draw["x"]})
    assert draws.unchanged == ("y",)
    assert draws.scale == 1
