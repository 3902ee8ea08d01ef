"""What a module imported from ONNX holds: one function, its names, its constants."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from onnx import TensorProto
from onnx_models import (
    assert_same_outputs,
    input_shapes,
    make_model,
    node,
    noise,
    run_module,
    run_onnx_runtime,
    tensor_names,
)
from tvm import relax

from hios_tvm import zoo
from hios_tvm.frontends.onnx import from_onnx


def test_one_dataflow_function_with_constants() -> None:
    weights = {"w": noise(4, 3), "b": noise(4)}
    model = make_model([node("Gemm", "x w b", "y", transB=1)], {"x": (2, 3)}, ["y"], weights)
    module = from_onnx(model)
    assert [var.name_hint for var in module.get_global_vars()] == ["main"]
    main = module["main"]
    assert input_shapes(module) == [(2, 3)]
    (block,) = main.body.blocks
    assert isinstance(block, relax.DataflowBlock)
    assert isinstance(main.ret_ty, relax.TensorType)
    relax.transform.LegalizeOps()(module)
    assert_same_outputs(module, model, {"x": noise(2, 3)})


def test_names_that_are_no_identifiers_are_kept() -> None:
    model = make_model(
        [node("Sum", "input:0 1 lambda R", "sum/out"), node("Mul", "a.b a_b", "2")],
        {name: (3,) for name in ("input:0", "1", "a.b", "a_b", "lambda", "R")},
        ["2", "sum/out"],
    )
    module = from_onnx(model)
    assert tensor_names(module, "input_names") == ["input:0", "1", "a.b", "a_b", "lambda", "R"]
    assert tensor_names(module, "output_names") == ["2", "sum/out"]
    variables = [var.name for var in module["main"].params]
    assert len(set(variables)) == len(variables)
    assert isinstance(module["main"].ret_ty, relax.TupleType)
    feeds = {name: noise(3, seed=i) for i, name in enumerate(tensor_names(module, "input_names"))}
    assert_same_outputs(module, model, feeds)
    parsed = tvm.script.from_source(module.script(show_meta=True))
    tvm.ir.assert_structural_equal(parsed, module)


def test_inputs_without_use_stay() -> None:
    model = make_model([node("Relu", "x", "y")], {"unused": (2,), "x": (3,)}, ["y"])
    module = from_onnx(model)
    assert tensor_names(module, "input_names") == ["unused", "x"]
    assert_same_outputs(module, model, {"unused": noise(2), "x": noise(3)})


def test_outputs_may_be_inputs_constants_shapes_and_repeated() -> None:
    model = make_model(
        [node("Relu", "x", "y"), node("Shape", "x", "s"), node("Identity", "x", "same")],
        {"x": (2, 3)},
        ["y", "s", "same", "w", "x", "y"],
        {"w": noise(2)},
    )
    module = from_onnx(model)
    assert tensor_names(module, "output_names") == ["y", "s", "same", "w", "x", "y"]
    x = noise(2, 3)
    outputs = run_module(module, x)
    expected = [np.maximum(x, 0), np.array([2, 3]), x, noise(2), x, np.maximum(x, 0)]
    for actual, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_initializers_listed_as_inputs_are_weights() -> None:
    weights = {"w": noise(4, 3)}
    model = make_model(
        [node("MatMul", "w x", "y")], {"w": (4, 3), "x": (3, 2)}, ["y"], weights, ir_version=3
    )
    module = from_onnx(model)
    assert tensor_names(module, "input_names") == ["x"]
    np.testing.assert_allclose(
        run_module(module, noise(3, 2))[0], weights["w"] @ noise(3, 2), rtol=1e-5
    )


def test_node_names_may_repeat() -> None:
    nodes = [node("Relu", "x", "a", name="n"), node("Neg", "a", "y", name="n")]
    model = make_model(nodes, {"x": (4,)}, ["y"])
    (output,) = run_module(from_onnx(model), noise(4))
    np.testing.assert_array_equal(output, -np.maximum(noise(4), 0))


def test_dtypes_are_kept() -> None:
    model = make_model(
        [node("Cast", "x", "y", to=TensorProto.INT32)],
        {"x": (3,)},
        ["y"],
        element=TensorProto.DOUBLE,
    )
    assert_same_outputs(from_onnx(model), model, {"x": np.array([1.5, -2.5, 3.0])})


def test_the_model_in_memory_stays_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    model = zoo.build("squeezenet1_1", height=32, width=32)
    before = model.SerializeToString()
    from_onnx(model)
    assert model.SerializeToString() == before
    assert capfd.readouterr() == ("", "")


def test_agrees_with_onnx_runtime_on_the_name_of_every_output() -> None:
    model = make_model([node("Split", "x", "a b", axis=0)], {"x": (4,)}, ["b", "a"])
    outputs = run_module(from_onnx(model), noise(4))
    for actual, expected in zip(outputs, run_onnx_runtime(model, {"x": noise(4)}), strict=True):
        np.testing.assert_array_equal(actual, expected)
