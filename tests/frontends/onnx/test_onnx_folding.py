"""What is computed while a model is imported: shapes, and operators on weights."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from onnx_models import assert_same_outputs, make_model, node, noise

from hios_tvm.frontends.onnx import from_onnx


def test_shapes_computed_step_by_step_become_static() -> None:
    """As exporters write ``x.view(x.shape[0], -1)`` and ``w.expand(x.shape)``."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "flat", axis=0),
        node("Reshape", "x flat", "r"),
        node("ConstantOfShape", "rank", "ones", value=numpy_helper.from_array(np.array([1]))),
        node("Mul", "ones minus", "negative"),
        node("Equal", "s negative", "open"),
        node("Where", "open ones s", "target"),
        node("Expand", "w target", "e"),
        node("Add", "e x", "y"),
    ]
    weights = {
        "zero": np.array(0),
        "axes": np.array([0]),
        "rest": np.array([-1]),
        "minus": np.array([-1]),
        "rank": np.array([3]),
        "w": noise(1, 3, 1),
    }
    model = make_model(nodes, {"x": ("batch", 3, "length")}, ["r", "y"], weights)
    module = from_onnx(model, shapes={"x": (2, 3, 4)})
    assert_same_outputs(module, model, {"x": noise(2, 3, 4)})
    assert len(module["main"].body.blocks[0].bindings) <= 6


def test_operators_on_weights_are_computed_at_import() -> None:
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    model = make_model(nodes, {"x": (2, 3)}, ["y"], {"w": noise(4, 3)})
    module = from_onnx(model)
    calls = [binding.value.op.name for binding in module["main"].body.blocks[0].bindings]
    assert calls == ["relax.matmul"]
    assert_same_outputs(module, model, {"x": noise(2, 3)})
