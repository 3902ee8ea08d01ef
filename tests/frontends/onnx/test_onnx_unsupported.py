"""Operators and attributes that cannot be imported, and how errors name them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import make_model, node, noise

from hios_tvm.errors import ModelError, UnsupportedOperatorError
from hios_tvm.frontends.onnx import from_onnx


@pytest.mark.parametrize(
    "wrong",
    [
        node("BatchNormalization", "x s s s s", "y m v", training_mode=1),
        node("Relu", "x", "y", training_mode=1),
        node("Transpose", "x", "y", perm=[0, 1, 2, 3], training_mode=1),
    ],
    ids=lambda wrong: wrong.op_type,
)
def test_attributes_that_nothing_handles_are_unsupported(wrong: onnx.NodeProto) -> None:
    model = make_model([wrong], {"x": (1, 3, 8, 8)}, ["y"], {"s": noise(3)})
    with pytest.raises(UnsupportedOperatorError, match=r"'y': .*training"):
        from_onnx(model)


def test_types_that_cannot_be_compiled_are_unsupported() -> None:
    cast = node("Cast", "x", "y", to=TensorProto.FLOAT8E4M3FN)
    with pytest.raises(UnsupportedOperatorError, match=r"Cast 'y': .*type FLOAT8E4M3FN cannot be"):
        from_onnx(make_model([cast], {"x": (2,)}, ["y"]))


def test_dropout_in_training_mode_is_an_error() -> None:
    nodes = [node("Dropout", "x ratio training", "y", name="drop")]
    weights = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    with pytest.raises(ModelError, match=r"Dropout 'drop': .* it is in training mode"):
        from_onnx(make_model(nodes, {"x": (2,)}, ["y"], weights))


def test_all_unsupported_operators_are_named_at_once() -> None:
    body = helper.make_graph(
        [helper.make_node("RegexFullMatch", ["s"], ["o"])],
        "body",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, ())],
    )
    nodes = [
        node("If", "c", "i", then_branch=body, else_branch=body),
        helper.make_node("Foo", ["s"], ["f"], domain="acme"),
        helper.make_node("Attention", ["s", "s", "s"], ["t"], domain="com.acme"),
        node("StringSplit", "s", "p q"),
        node("StringSplit", "s", "u v"),
    ]
    model = make_model(
        nodes, {"s": (2, "n")}, ["f", "t", "p"], {"c": np.array(True)}, domains=["acme", "com.acme"]
    )
    with pytest.raises(UnsupportedOperatorError, match="no value either: s: n") as caught:
        from_onnx(model)
    assert caught.value.operators == (
        "RegexFullMatch",
        "StringSplit",
        "acme::Foo",
        "com.acme::Attention",
    )
    assert "RegexFullMatch, StringSplit, acme::Foo, com.acme::Attention" in str(caught.value)


def test_errors_name_the_node(capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [node("Relu", "x", "r"), node("Conv", "r w", "y", name="block/conv")]
    model = make_model(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"w": noise(4, 5, 3, 3)})
    with pytest.raises(ModelError, match="tiny: cannot import Conv 'block/conv': "):
        from_onnx(model)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (node("MaxPool", "x", "y"), "MaxPool 'y': Required attribute 'kernel_shape' is missing"),
        (node("If", "c", "y"), "If 'y': Required attribute 'else_branch' is missing"),
        (node("Gemm", "x", "y"), r"Gemm 'y': .* input size 1 not in range \[min=2, max=3\]"),
        (node("Add", "x five", "y"), "Add 'y': In relax.add, the first input shape at dim 3 is 8 "),
    ],
    ids=lambda value: getattr(value, "op_type", None),
)
def test_errors_say_what_is_wrong_with_the_node(bad: onnx.NodeProto, message: str) -> None:
    weights = {"c": np.array(True), "five": noise(5)}
    with pytest.raises(ModelError, match=f"tiny: cannot import {message}"):
        from_onnx(make_model([bad], {"x": (1, 3, 8, 8)}, ["y"], weights))
