"""Code for 64-bit Arm, run by an emulator where one is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hios_tvm.backends.network import lower_network
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime.devices import HOST

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("check_arm", SCRIPTS / "check_arm.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if missing := module.missing_tools():
        pytest.skip(f"not installed: {', '.join(missing)}")
    return module


def test_kernels_for_arm_compute_what_onnx_runtime_does(script: ModuleType) -> None:
    """Convolutions, a transposition, attention, a normalisation and vectors of exp and erf."""
    rng = np.random.default_rng(0)
    shapes = {
        "stem": (12, 3, 3, 3),
        "depthwise": (12, 1, 3, 3),
        "scale": (12,),
        "bias": (12,),
        "dense": (12, 20),
    }
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    weights["pixels"] = np.array([1, 12, 72])
    weights["half"] = np.array(0.5, np.float32)
    weights["root"] = np.array(2**-0.5, np.float32)
    weights["inverse_root"] = np.array(12**-0.5, np.float32)
    weights["one"] = np.array(1.0, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c0"], ["c1"]),
        helper.make_node("Mul", ["c0", "c1"], ["c2"]),
        helper.make_node("Conv", ["c2", "depthwise"], ["c3"], group=12, strides=[2, 2]),
        helper.make_node("Reshape", ["c3", "pixels"], ["f"]),
        helper.make_node("Transpose", ["f"], ["t"], perm=[0, 2, 1]),
        helper.make_node("LayerNormalization", ["t", "scale", "bias"], ["n"]),
        helper.make_node("Transpose", ["n"], ["k"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["n", "k"], ["scores"]),
        helper.make_node("Mul", ["scores", "inverse_root"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "n"], ["a"]),
        helper.make_node("MatMul", ["a", "dense"], ["d"]),
        helper.make_node("Mul", ["d", "root"], ["e0"]),
        helper.make_node("Erf", ["e0"], ["e1"]),
        helper.make_node("Add", ["e1", "one"], ["e2"]),
        helper.make_node("Mul", ["d", "e2"], ["e3"]),
        helper.make_node("Mul", ["e3", "half"], ["gelu"]),
        helper.make_node("Tanh", ["gelu"], ["y"]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "several",
        [helper.make_tensor_value_info("x", floats, (1, 3, 17, 19))],
        [helper.make_tensor_value_info("y", floats, (1, 72, 20))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    network = lower_network(from_onnx(model), script.TARGET)
    inputs = {"x": rng.standard_normal((1, 3, 17, 19), np.float32)}
    outputs = script.emulated_outputs(network.lowered[HOST], network.weights, inputs)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    assert outputs.keys() == {"y"}
    np.testing.assert_allclose(outputs["y"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
