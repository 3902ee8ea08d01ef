"""Results at the edges of what numbers can be: infinities, no elements, half precision."""

from __future__ import annotations

import numpy as np
import pytest
from lowered_models import model_of, random, run_lowered
from onnx import ModelProto, TensorProto, helper

INFINITY = np.float32(np.inf)


def half_model(node: object, **inputs: tuple[int, ...]) -> ModelProto:
    model = model_of([node], inputs)
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize(
    ("operator", "of_nothing"), [("ReduceMax", -INFINITY), ("ReduceMin", INFINITY)]
)
@pytest.mark.parametrize("axis", [1, 2])
def test_extrema_begin_at_infinity(operator: str, of_nothing: np.float32, axis: int) -> None:
    node = helper.make_node(operator, ["x"], ["y"], axes=[axis], keepdims=1)
    data = random(2, 3, 5)
    data[0] = of_nothing
    (result,) = run_lowered(model_of([node], {"x": data.shape}), {"x": data})
    expected = (np.max if operator == "ReduceMax" else np.min)(data, axis=axis, keepdims=True)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("keep", [0, 1])
def test_extrema_of_everything(keep: int) -> None:
    node = helper.make_node("ReduceMax", ["x"], ["y"], keepdims=keep)
    data = random(3, 4)
    (result,) = run_lowered(model_of([node], {"x": data.shape}), {"x": data})
    np.testing.assert_array_equal(result, np.max(data, keepdims=bool(keep)))


def test_windows_of_minus_infinity_stay_infinite() -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    data = np.full((1, 20, 6, 7), -INFINITY)
    (result,) = run_lowered(model_of([node], {"x": data.shape}), {"x": data})
    np.testing.assert_array_equal(result, data)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ],
    ids=lambda node: node.op_type,
)
def test_half_precision_is_summed_in_single_precision(node: object) -> None:
    """A thousand ones and a small rest: in half precision the sum would stop growing at 2048."""
    is_product = node.op_type == "MatMul"
    shapes = ((2, 4096), (4096, 3)) if is_product else ((1, 4096, 2, 1), (3, 4096, 1, 1))
    data, weight = (np.full(shape, 0.9990234, "float16") for shape in shapes)
    model = half_model(node, x=shapes[0], w=shapes[1])
    (result,) = run_lowered(model, {"x": data, "w": weight})
    assert result.dtype == np.float16
    exact = 4096 * float(data.flat[0]) * float(weight.flat[0])
    np.testing.assert_allclose(result.astype("float64"), exact, rtol=5e-4)


X = np.array([[1, np.nan, np.inf, -np.inf, 0, -2.5]], "float32")


@pytest.mark.parametrize(
    ("operator", "left", "right", "expected"),
    [
        ("Sub", "x", "x", np.float32([[0, np.nan, np.nan, np.nan, 0, 0]])),
        ("Equal", "x", "x", np.float32([[1, 0, 1, 1, 1, 1]])),
        ("Mul", "x", "zero", np.float32([[0, np.nan, np.nan, np.nan, 0, -0.0]])),
        ("Div", "zero", "x", np.float32([[0, np.nan, 0, -0.0, np.nan, -0.0]])),
        ("Div", "x", "zero", np.float32([[np.inf, np.nan, np.inf, -np.inf, np.nan, -np.inf]])),
    ],
)
def test_nothing_is_known_of_an_operation_on_floats(
    operator: str, left: str, right: str, expected: np.ndarray
) -> None:
    nodes = [
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node(operator, [left, right], ["result"]),
        helper.make_node("Cast", ["result"], ["y"], to=TensorProto.FLOAT),
    ]
    (result,) = run_lowered(model_of(nodes, {"x": X.shape}), {"x": X})
    np.testing.assert_array_equal(result, expected)
    signed = expected == 0
    np.testing.assert_array_equal(np.signbit(result[signed]), np.signbit(expected[signed]))


def test_what_an_addition_rounds_away_stays_away() -> None:
    """``(x + y) - y`` rounds `x` to a whole number where `y` is 1.5 * 2^23."""
    nodes = [helper.make_node("Add", ["x", "y"], ["a"]), helper.make_node("Sub", ["a", "y"], ["z"])]
    data, large = random(3, 40), np.full((3, 40), 1.5 * 2**23, "float32")
    (result,) = run_lowered(
        model_of(nodes, {"x": data.shape, "y": data.shape}, outputs=["z"]),
        {"x": data, "y": large},
    )
    np.testing.assert_array_equal(result, np.round(data))


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("place", [(0, 0), (1, 1), (0, 2)])
def test_the_maximum_of_a_window_with_nan_is_nan(channels: int, place: tuple[int, int]) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    data = random(1, channels, 4, 4)
    data[0, 1, place[0], place[1]] = np.nan
    (result,) = run_lowered(model_of([node], {"x": data.shape}), {"x": data})
    expected = data.reshape(1, channels, 2, 2, 2, 2).max(axis=(3, 5))
    assert np.isnan(expected).sum() == 1
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("place", [0, 17, 39])
def test_the_extremum_of_nan_is_nan(operator: str, axis: int, place: int) -> None:
    node = helper.make_node(operator, ["x"], ["y"], axes=[axis], keepdims=0)
    data = random(3, 40)
    data[1, place] = np.nan
    (result,) = run_lowered(model_of([node], {"x": data.shape}), {"x": data})
    expected = (np.max if operator == "ReduceMax" else np.min)(data, axis=axis)
    np.testing.assert_array_equal(result, expected)
