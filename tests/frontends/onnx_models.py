"""Small ONNX models and two ways of running them, for the tests of the ONNX frontend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import tvm
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tvm import relax

from hios_tvm import onnx_backend

Array = npt.NDArray[Any]
Shape = Sequence[int | str | None] | None


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node whose inputs and outputs are named in one text each: ``node("Add", "x w", "y")``."""
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    weights: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    domains: Sequence[str] = (),
    element: int = onnx.TensorProto.FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=ir_version, functions=list(functions)
    )


def run_module(module: tvm.IRModule, *arrays: Array) -> list[Array]:
    """Outputs of TVM's default pipeline and virtual machine."""
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(array) for array in arrays))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else result
    return [tensor.numpy() for tensor in results]


def run_onnx_runtime(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [np.asarray(output) for output in session.run(None, dict(feeds))]


def assert_same_outputs(
    module: tvm.IRModule, model: onnx.ModelProto, feeds: Mapping[str, Array]
) -> None:
    """`module` computes what ONNX Runtime computes from `model`."""
    expected = run_onnx_runtime(model, feeds)
    actual = run_module(module, *feeds.values())
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        scale = max(1e-30, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale)


def tensor_names(module: tvm.IRModule, which: str) -> list[str]:
    """The model's names of its inputs (``"input_names"``) or outputs (``"output_names"``)."""
    return [str(name) for name in module["main"].attrs[which]]


def input_shapes(module: tvm.IRModule) -> list[tuple[int, ...]]:
    return [tuple(int(size) for size in var.ty.shape.values) for var in module["main"].params]


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


# --- Many nodes in one model, which costs one compilation


@dataclass(frozen=True)
class NodeCase:
    """A node, the inputs that it gets when the model runs, and those that the model holds."""

    node: onnx.NodeProto
    inputs: Mapping[str, Array]
    weights: Mapping[str, Array] = field(default_factory=dict)


def case(
    op: str,
    inputs: Mapping[str, Array],
    weights: Mapping[str, Array] | None = None,
    **attributes: Any,
) -> NodeCase:
    """A node of one output, whose inputs are in the order of `inputs`, then `weights`."""
    weights = weights or {}
    outputs = attributes.pop("outputs", ["y"])
    order = attributes.pop("order", [*inputs, *weights])
    return NodeCase(helper.make_node(op, order, outputs, **attributes), inputs, weights)


def joined_model(cases: Mapping[str, NodeCase], *, opset: int = 17) -> onnx.ModelProto:
    """All nodes side by side; tensors are named after their case."""

    def full(label: str, name: str) -> str:
        return f"{label}/{name}" if name else ""

    nodes, inputs, outputs, weights = [], [], [], []
    for label, entry in cases.items():
        renamed = onnx.NodeProto()
        renamed.CopyFrom(entry.node)
        renamed.name = label
        renamed.input[:] = [full(label, name) for name in entry.node.input]
        renamed.output[:] = [full(label, name) for name in entry.node.output]
        nodes.append(renamed)
        for name, array in entry.inputs.items():
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(full(label, name), element, array.shape))
        weights += [
            numpy_helper.from_array(array, full(label, name))
            for name, array in entry.weights.items()
        ]
        outputs += [onnx.ValueInfoProto(name=name) for name in renamed.output if name]
    graph = helper.make_graph(nodes, "cases", inputs, outputs, weights)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def feeds_of(cases: Mapping[str, NodeCase]) -> dict[str, Array]:
    return {
        f"{label}/{name}": array
        for label, entry in cases.items()
        for name, array in entry.inputs.items()
    }


def assert_cases_agree(
    cases: Mapping[str, NodeCase],
    *,
    opset: int = 17,
    rtol: float = 0,
    atol: float = 0,
    reference: bool = False,
) -> None:
    """The compiled nodes give the types, shapes and elements of ONNX Runtime, or of ONNX's
    reference.
    """
    model, feeds = joined_model(cases, opset=opset), feeds_of(cases)
    if reference:
        expected = ReferenceEvaluator(model).run(None, feeds)
    else:
        expected = run_onnx_runtime(model, feeds)
    shapes = {name: array.shape for name, array in feeds.items()}
    actual = onnx_backend.prepare(model, shapes=shapes).run(feeds)
    for value, ours, theirs in zip(model.graph.output, actual, expected, strict=True):
        theirs = np.asarray(theirs)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), value.name
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=value.name)
