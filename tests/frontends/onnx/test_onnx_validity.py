"""Models that break a rule of the standard."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import make_model, node, noise

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx import from_onnx


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([node("Relu", "z", "y")], ["y"], "Relu 'y' reads 'z', which nothing computes before it"),
        ([node("Relu", "x", "y"), node("Neg", "x", "y")], ["y"], "Neg 'y' computes 'y', which"),
        ([node("Relu", "x", "x")], ["x"], "Relu 'x' computes 'x', which exists already"),
        ([node("Relu", "x", "y")], ["z"], "nothing computes the output 'z'"),
        ([node("Relu", "x", "y")], [], "the graph has no output"),
        ([node("Relu", "x", ""), node("Relu", "x", "y")], ["y"], "has no output"),
        ([node("Relu", "b", "y"), node("Neg", "x", "b")], ["y"], "reads 'b', which nothing"),
    ],
)
def test_graphs_that_break_a_rule(
    nodes: list[onnx.NodeProto], outputs: list[str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        from_onnx(make_model(nodes, {"x": (2,)}, outputs))


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"opset": 999}, "uses opset 999; this onnx package knows 1 to"),
        ({"opset": 0}, "uses opset 0"),
        ({"ir_version": 2}, "has IR version 2, at least 3 is needed"),
    ],
)
def test_versions_out_of_range(versions: dict[str, int], message: str) -> None:
    model = make_model([node("Relu", "x", "y")], {"x": (2,)}, ["y"])
    if "opset" in versions:
        model.opset_import[0].version = versions["opset"]
    else:
        model.ir_version = versions["ir_version"]
    with pytest.raises(ModelError, match=message):
        from_onnx(model)


def test_model_without_opset() -> None:
    model = make_model([node("Relu", "x", "y")], {"x": (2,)}, ["y"])
    del model.opset_import[:]
    with pytest.raises(ModelError, match="does not say which opset it uses"):
        from_onnx(model)


@pytest.mark.parametrize("kind", ["sequence", "STRING", "FLOAT8E4M3FN", "COMPLEX64", "UNDEFINED"])
def test_inputs_that_are_no_numeric_tensors(kind: str) -> None:
    model = make_model([node("Identity", "x", "y")], {"x": (2,)}, ["y"])
    if kind == "sequence":
        element = helper.make_tensor_type_proto(TensorProto.FLOAT, (2,))
        model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(element))
    else:
        model.graph.input[0].type.tensor_type.elem_type = getattr(TensorProto, kind)
    with pytest.raises(ModelError, match=f"input 'x' (is no tensor|holds {kind}, which)"):
        from_onnx(model)


def test_weights_of_the_wrong_size() -> None:
    model = make_model([node("Add", "x w", "y")], {"x": (2,)}, ["y"], {"w": noise(2)})
    model.graph.initializer[0].dims[:] = [3]
    with pytest.raises(ModelError, match="cannot import initializer 'w'"):
        from_onnx(model)


def test_weights_of_a_type_that_cannot_be_compiled() -> None:
    model = make_model([node("Identity", "w", "y")], {"x": (2,)}, ["y"])
    weight = helper.make_tensor("w", TensorProto.FLOAT8E5M2, (2,), [1.0, 2.0])
    model.graph.initializer.append(weight)
    with pytest.raises(ModelError, match="initializer 'w': elements of type float8_e5m2 cannot"):
        from_onnx(model)
