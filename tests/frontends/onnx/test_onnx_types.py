"""Types that a model declares for its tensors."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import assert_same_outputs, make_model, node, noise

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx import from_onnx


def typed(name: str, element: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def test_stale_types_of_inner_tensors_are_ignored() -> None:
    model = make_model([node("Relu", "x", "r"), node("Neg", "r", "y")], {"x": (2, 3)}, ["y"])
    model.graph.value_info.append(typed("r", TensorProto.DOUBLE, 7, 7, 7))
    assert_same_outputs(from_onnx(model), model_without_types(model), {"x": noise(2, 3)})


def model_without_types(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


@pytest.mark.parametrize("sizes", [("n", "m"), ("n", 3), (2, "?"), (-1, 3)])
def test_outputs_may_be_declared_with_open_dimensions(sizes: tuple[int | str, ...]) -> None:
    model = make_model([node("Relu", "x", "y")], {"x": (2, 3)}, ["y"])
    model.graph.output[0].CopyFrom(typed("y", TensorProto.FLOAT, *sizes))
    assert len(from_onnx(model)["main"].params) == 1


@pytest.mark.parametrize(
    ("element", "sizes"), [(TensorProto.FLOAT, (2, 4)), (TensorProto.DOUBLE, (2, 3))]
)
def test_outputs_that_are_declared_wrongly(element: int, sizes: tuple[int, ...]) -> None:
    model = make_model([node("Relu", "x", "y")], {"x": (2, 3)}, ["y"])
    model.graph.output[0].CopyFrom(typed("y", element, *sizes))
    with pytest.raises(ModelError, match=r"output 'y' is declared as .* compute float32 \[2, 3\]"):
        from_onnx(model)


def test_what_onnx_cannot_infer_is_imported_all_the_same() -> None:
    """Its inference stops at operators that it does not know."""
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["m"], domain="com.microsoft", transB=1),
        node("Relu", "m", "y"),
    ]
    model = make_model(nodes, {"x": (2, 3)}, ["y"], {"w": noise(4, 3)}, domains=["com.microsoft"])
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 3)})
