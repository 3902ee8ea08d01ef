"""Activations of half precision in the memory of GPUs, where that changes no result."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_models import run_emulated
from lowered_models import lowered, model_of, random
from onnx import ModelProto, helper
from tvm import relax
from tvm.target import Target

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.cuda.backend import CudaBackend
from hios_tvm.backends.cuda.targets import cuda_target
from hios_tvm.backends.network import lower_network
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.dataflow import bindings
from hios_tvm.schema.node_names import nodes_of


def network(last: str = "Add") -> ModelProto:
    """Three convolutions; ``b`` is read by the second one and by an addition."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "u"], ["e"]),
        helper.make_node(last, ["e", "b"] if last == "Add" else ["e"], ["y"]),
    ]
    weights = {
        "w": random(16, 16, 3, 3, seed=7),
        "v": random(24, 16, 3, 3, seed=8),
        "u": random(16, 24, 1, 1, seed=9),
    }
    return model_of(nodes, {"x": (1, 16, 8, 8)}, weights)


def halves(model: ModelProto, target: Target) -> list[tuple[int, ...]]:
    """Nodes of the tensors that are of half precision."""
    found = [binding.var for binding in bindings(lowered(model, target)["main"])]
    tensors = [var for var in found if isinstance(var.ty, relax.TensorType)]
    return [tuple(nodes_of(var.name)) for var in tensors if str(var.ty.dtype) == "float16"]


def test_what_products_alone_read_is_of_half_precision() -> None:
    target = cuda_target("sm_90", host_target(), "fp16")
    laid_out, first, second = (0,), (0, 1), (2, 3)
    assert halves(network("Relu"), target) == [laid_out, first, second]
    assert halves(network("Add"), target) == [laid_out, second]  # the addition reads `first`
    pooled = helper.make_node("GlobalMaxPool", ["d"], ["z"])
    model = network("Relu")
    model.graph.node.append(pooled)
    model.graph.output.append(helper.make_tensor_value_info("z", 1, (1, 24, 1, 1)))
    assert halves(model, target) == [laid_out, first]


@pytest.mark.parametrize("shown", ["b", "d"])
def test_outputs_are_of_single_precision(shown: str) -> None:
    model = network("Relu")
    model.graph.output.append(helper.make_tensor_value_info(shown, 1, None))
    target = cuda_target("sm_90", host_target(), "fp16")
    assert ((0, 1) in halves(model, target)) == (shown != "b")
    assert ((2, 3) in halves(model, target)) == (shown != "d")


def test_other_precisions_and_other_devices_keep_single_precision() -> None:
    for precision in ("fp32", "tf32"):
        assert not halves(network(), cuda_target("sm_90", host_target(), precision))
    few = model_of(
        [
            helper.make_node("Conv", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "v"], ["y"]),
        ],
        {"x": (1, 16, 8, 8)},
        {"w": random(16, 16, 1, 1, seed=7), "v": random(4, 16, 1, 1, seed=8)},
    )
    target = cuda_target("sm_90", host_target(), "fp16")
    assert (0, 1) not in halves(few, target)  # four columns are no work for tensor cores
    graph = lower_network(from_onnx(network()), target, host_target()).graph
    computed = [graph.tensor[name] for operator in graph.operators for name in operator.outputs]
    assert {tensor.dtype for tensor in computed} == {"float32"}


def test_results_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = network(), {"x": random(1, 16, 8, 8)}
    (half,) = run_emulated(model, feeds, "fp16")
    monkeypatch.setattr(CudaBackend, "own_passes", lambda self, target: [])
    (single,) = run_emulated(model, feeds, "fp16")
    np.testing.assert_array_equal(half, single)
