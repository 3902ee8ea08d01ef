"""Small ONNX models, lowered and run on one device, for the tests of the passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import tvm
from onnx import helper, numpy_helper
from tvm import relax

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.network import lower
from hios_tvm.frontends.onnx import from_onnx

Array = npt.NDArray[Any]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int]],
    weights: Mapping[str, Array] | None = None,
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """A model with float inputs, constant weights and one output, ``y``, unless named."""
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def lowered(model: onnx.ModelProto, target: tvm.target.Target | None = None) -> tvm.IRModule:
    return lower(from_onnx(model), target or host_target())


def kernels(mod: tvm.IRModule) -> list[str]:
    """Names of the kernels that `main` calls, in order."""
    return [
        binding.value.args[0].name_hint
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, tvm.ir.Call)
    ]


def uses_winograd(mod: tvm.IRModule) -> bool:
    """Whether a kernel has the products of Winograd's tiles in a buffer of its own."""
    functions = [mod[name] for name in set(kernels(mod))]
    return any("products = " in function.script() for function in functions)


def run_lowered(
    model: onnx.ModelProto, feeds: Mapping[str, Array], target: tvm.target.Target | None = None
) -> list[Array]:
    target = target or host_target()
    return run_module(lowered(model, target), feeds, target)


def run_module(
    mod: tvm.IRModule, feeds: Mapping[str, Array], target: tvm.target.Target
) -> list[Array]:
    """Run a lowered module."""
    machine = relax.VirtualMachine(tvm.compile(mod, target), tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(array) for array in feeds.values()))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else result
    return [tensor.numpy() for tensor in results]


def run_onnx_runtime(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [np.asarray(output) for output in session.run(None, dict(feeds))]


def assert_lowers_right(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array] | None = None,
    target: tvm.target.Target | None = None,
    tolerance: float = 1e-5,
) -> None:
    """The lowered model computes what ONNX Runtime computes; inputs are random unless given."""
    if feeds is None:
        feeds = {
            value.name: random(*(d.dim_value for d in value.type.tensor_type.shape.dim), seed=seed)
            for seed, value in enumerate(model.graph.input)
        }
    expected = run_onnx_runtime(model, feeds)
    actual = run_lowered(model, feeds, target)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        scale = max(1e-30, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


def convolved(x: Array, weight: Array, stride: int, padding: int, groups: int) -> Array:
    """The convolution of channels-first images, in the type of both."""
    pairs = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pairs), weight.shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    parts = zip(np.split(windows, groups, 1), np.split(weight, groups), strict=True)
    return np.concatenate([np.einsum("nchwyx,ocyx->nohw", a, b) for a, b in parts], 1)
