"""Shapes of inputs that a caller fills in."""

from __future__ import annotations

import pytest
from onnx_models import input_shapes, make_model, node

from hios_tvm.errors import DynamicShapeError, UsageError
from hios_tvm.frontends.onnx import from_onnx


def test_shapes_are_filled_in_by_symbol() -> None:
    model = make_model([node("Add", "a b", "y")], {"a": ("n", 3), "b": ("n", "c")}, ["y"])
    assert input_shapes(from_onnx(model, shapes={"b": (5, 3)})) == [(5, 3), (5, 3)]


def test_all_dimensions_without_a_value_are_named_at_once() -> None:
    model = make_model(
        [node("Add", "a b", "y"), node("Relu", "c", "z")],
        {"a": ("n", 3), "b": ("n", None), "c": None},
        ["y", "z"],
    )
    with pytest.raises(DynamicShapeError, match="--shape b:1,1 --shape c:1,3,224,224") as caught:
        from_onnx(model)
    assert caught.value.dimensions == ("a: n", "b: n", "b: dimension 1", "c: number of dimensions")
    assert all(dimension in str(caught.value) for dimension in caught.value.dimensions)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z": (1,)}, "has no input 'z'; it has a, b"),
        ({"a": (1, 2, 3)}, r"input 'a' of tiny has 2 dimensions, .* has 3"),
        ({"a": (1, 4)}, "dimension 1 of input 'a' of tiny is 3, not 4"),
        ({"a": (2, 3), "b": (4, 3)}, "dimension 'n' of tiny cannot be 2 and 4"),
        ({"a": (-1, 3)}, "a dimension is negative"),
    ],
)
def test_shapes_that_do_not_fit(given: dict[str, tuple[int, ...]], message: str) -> None:
    model = make_model([node("Add", "a b", "y")], {"a": ("n", 3), "b": ("n", 3)}, ["y"])
    with pytest.raises(UsageError, match=message):
        from_onnx(model, shapes=given)


def test_shapes_that_depend_on_data_are_refused() -> None:
    nodes = [node("NonZero", "x", "indices"), node("Relu", "x", "y")]
    model = make_model(nodes, {"x": (4,)}, ["y", "indices"])
    with pytest.raises(DynamicShapeError, match="NonZero 'indices': the sizes of its outputs"):
        from_onnx(model)
