"""Functions of the model, and operators that the standard defines by functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx_models import assert_same_outputs, make_model, node, noise, run_module

from hios_tvm.frontends.onnx import from_onnx


def test_functions_of_the_model_are_expanded() -> None:
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Add", ["r", "a"], ["b"])]
    version = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "relu_add", ["a"], ["b"], body, version)
    nodes = [
        helper.make_node("relu_add", ["x"], ["t"], domain="mine"),
        helper.make_node("relu_add", ["t"], ["y"], domain="mine"),
    ]
    model = make_model(nodes, {"x": (4,)}, ["y"], domains=["mine"], functions=[function])
    x = noise(4)
    once = np.maximum(x, 0) + x
    outputs = run_module(from_onnx(model), x)
    np.testing.assert_allclose(outputs[0], np.maximum(once, 0) + once, rtol=1e-6)


def test_functions_of_several_domains_and_versions_and_inside_others() -> None:
    def function(domain: str, name: str, *body: onnx.NodeProto, opset: int = 17) -> Any:
        imports = [helper.make_opsetid(d, v) for d, v in (("", opset), ("a", 1), ("b", 1))]
        return helper.make_function(domain, name, ["p"], ["q"], list(body), imports)

    inner = helper.make_node("Relu", ["p"], ["q"], domain="b")  # not ONNX's own
    functions = [
        function("a", "outer", inner),
        function("b", "Relu", helper.make_node("Neg", ["p"], ["q"])),
        function("a", "old", helper.make_node("Clip", ["p"], ["q"], min=0.0), opset=6),
    ]
    nodes = [
        helper.make_node("outer", ["x"], ["t"], domain="a"),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Sub", ["t", "r"], ["s"]),
        helper.make_node("old", ["s"], ["y"], domain="a"),
    ]
    model = make_model(nodes, {"x": (4,)}, ["y"], domains=["a", "b"], functions=functions)
    x = noise(4)
    expected = np.maximum(-x - np.maximum(x, 0), 0)
    np.testing.assert_allclose(run_module(from_onnx(model), x)[0], expected)


def test_functions_with_attributes_weights_and_branches() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17, "a": 1]>
    g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}, bool yes = {1}>
    {
        y = If (yes) <
            then_branch = t () => (float[4] s) { s = a.scaled <by = 3.0> (x, w) },
            else_branch = e () => (float[4] s) { s = Neg (x) }>
    }
    <domain: "a", opset_import: ["": 17]>
    scaled <by: float = 2.0> (p, w) => (q)
    {
        k = Constant <value_float: float = @by> ()
        m = Mul (p, k)
        q = Mul (m, w)
    }
    """
    model = onnx.parser.parse_model(text)
    assert_same_outputs(from_onnx(model), model, {"x": noise(4)})


def test_operators_that_the_standard_defines_by_others_are_expanded() -> None:
    model = make_model([node("Celu", "x", "y", alpha=1.5)], {"x": (2, 5)}, ["y"])
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 5)})
