from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import assert_lowers_right, lowered, model_of, random
from onnx import NodeProto, TensorProto, helper

from hios_tvm.backends.cpu.targets import parse_target


def node(operator: str, **attributes: object) -> NodeProto:
    return helper.make_node(operator, ["x"], ["y"], **attributes)


def intermediates(model: object) -> list[str]:
    """Whole tensors that the kernels of `model` keep between their blocks."""
    return [line for line in str(lowered(model)).splitlines() if "sblock_alloc_buffer" in line]


sizes = st.integers(1, 5)
lengths = st.sampled_from([1, 2, 7, 15, 16, 17, 31, 64, 67, 131])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(sizes, sizes, lengths, st.sampled_from(["Softmax", "LogSoftmax"]))
def test_any_softmax(a: int, b: int, length: int, operator: str) -> None:
    assert_lowers_right(model_of([node(operator, axis=-1)], {"x": (a, b, length)}))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"]),
    st.tuples(sizes, sizes, lengths),
    st.sampled_from([[-1], [1, 2], [0], [1], [0, 1, 2], [0, 2]]),
    st.integers(0, 1),
)
def test_any_reduction(operator: str, shape: tuple[int, ...], axes: list[int], keep: int) -> None:
    given_axes = {"axes": axes} if operator != "ReduceSum" else {}
    weights = {} if given_axes else {"a": np.array(axes, np.int64)}
    inputs = ["x"] if given_axes else ["x", "a"]
    reduction = helper.make_node(operator, inputs, ["r"], keepdims=keep, **given_axes)
    model = model_of([reduction, helper.make_node("Neg", ["r"], ["y"])], {"x": shape}, weights)
    assert_lowers_right(model, tolerance=2e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(sizes, sizes, lengths, st.integers(1, 2))
def test_any_layer_normalization(a: int, b: int, length: int, last: int) -> None:
    shape = (a, b, length)[3 - last :]
    norm = helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"], axis=3 - last)
    weights = {"g": random(*shape, seed=1), "b": random(*shape, seed=2)}
    assert_lowers_right(model_of([norm], {"x": (a, b, length)}, weights), tolerance=5e-5)


@pytest.mark.parametrize(("channels", "size"), [(4, 1), (1, 3), (3, 3), (17, 1)])
def test_convolutions_with_computed_weights_are_no_rows(channels: int, size: int) -> None:
    """Their reductions look like those of rows, and read pixels of other rows."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[size // 2] * 4)
    inputs = {"x": (3, channels, 7, 4), "w": (4, channels, size, size)}
    assert_lowers_right(model_of([conv], inputs))


def test_group_and_instance_normalization() -> None:
    nodes = [
        helper.make_node("InstanceNormalization", ["x", "g", "b"], ["y"]),
    ]
    weights = {"g": random(6, seed=1), "b": random(6, seed=2)}
    assert_lowers_right(model_of(nodes, {"x": (2, 6, 7, 9)}, weights), tolerance=5e-5)


@pytest.mark.parametrize(
    "operator", ["Softmax", "LogSoftmax", "ReduceMean", "LpNormalization", "ReduceL2"]
)
def test_rows_keep_no_whole_tensor(operator: str) -> None:
    attributes = {"axes": [-1]} if operator.startswith("Reduce") else {"axis": -1}
    assert intermediates(model_of([node(operator, **attributes)], {"x": (3, 40, 100)})) == []


def test_narrower_vectors() -> None:
    model = model_of([node("Softmax", axis=-1)], {"x": (3, 5, 37)})
    assert_lowers_right(model, target=parse_target("portable"))


def test_masked_rows_are_zero_where_they_are_masked() -> None:
    data = random(2, 3, 40)
    data[:, :, 20:] = -np.inf
    assert_lowers_right(model_of([node("Softmax", axis=-1)], {"x": data.shape}), {"x": data})


def test_rows_that_are_masked_as_a_whole_are_zero_without_a_tensor_of_conditions() -> None:
    """The attention of PyTorch's exporter: softmax of nothing but -inf is NaN, and replaced."""
    data = random(2, 3, 40)
    data[1] = -np.inf
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"], axis=-1),
        helper.make_node("IsNaN", ["s"], ["n"]),
        helper.make_node("Where", ["n", "zero", "s"], ["y"]),
    ]
    model = model_of(nodes, {"x": data.shape}, {"zero": np.zeros((), np.float32)})
    assert intermediates(model) == []
    assert_lowers_right(model, {"x": data})


@pytest.mark.parametrize("element", [TensorProto.DOUBLE, TensorProto.INT32])
def test_other_types_go_the_general_way(element: int) -> None:
    model = model_of([node("ReduceMax", axes=[-1])], {"x": (3, 50)})
    model.graph.input[0].type.tensor_type.elem_type = element
    dtype = helper.tensor_dtype_to_np_dtype(element)
    data = (100 * random(3, 50)).astype(dtype)
    assert_lowers_right(model, {"x": data})


def test_rows_that_are_too_long_to_keep() -> None:
    assert_lowers_right(model_of([node("Softmax", axis=-1)], {"x": (1, 70_001)}))
