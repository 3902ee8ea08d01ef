from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from hios_tvm.backends.network import Network, lower_network
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.measuring.cost_notes import cost_notes
from hios_tvm.schema.costs import CostTable, Measurement


def network_of(first: onnx.NodeProto) -> Network:
    """A kernel of `first`, from ``x`` to ``s``, and a maximum along the last axis of its result."""
    nodes = [first, helper.make_node("ReduceMax", ["s"], ["y"], axes=[2])]
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 50, 8])
    axis = helper.make_tensor("axis", onnx.TensorProto.INT64, [], [1])
    outputs = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph(nodes, "tiny", [value], outputs, [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return lower_network(from_onnx(model), "host")


def costs(network: Network, *times_ms: float) -> CostTable:
    names = [operator.name for operator in network.graph.operators]
    times = dict(zip(names, map(Measurement, times_ms), strict=True))
    return CostTable({"cpu/1": times})


def test_the_share_of_kernels_without_a_rule_is_said() -> None:
    network = network_of(helper.make_node("CumSum", ["x", "axis"], ["s"]))
    (note,) = cost_notes(network, costs(network, 3.0, 1.0))
    kernel = network.graph.operators[0].kernel
    assert note == (
        "75% of the operators' time on cpu/1 is in kernels that no schedule rule knows: " + kernel
    )


def test_nothing_is_said_where_every_kernel_has_a_rule() -> None:
    network = network_of(helper.make_node("Softmax", ["x"], ["s"], axis=1))
    assert cost_notes(network, costs(network, *[1.0] * len(network.graph.operators))) == ()


def test_half_precision_that_is_computed_in_single_is_said() -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, [4, 50])
    graph = helper.make_graph(nodes, "half", [value], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = lower_network(from_onnx(model), "host")
    count = len(network.graph.operators)
    notes = cost_notes(network, costs(network, *[1.0] * count))
    cast = sum(o.kernel.removeprefix("fused_").startswith("cast") for o in network.graph.operators)
    assert notes[-1] == (
        "float16 is computed in single precision on cpu/1, and so is 0% of the bytes of weights in "
        f"memory; {cast / count:.0%} of the operators' time is in conversions"
    )


def test_a_quantized_network_says_what_is_computed_with_integers() -> None:
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["i"], name="product"),
        helper.make_node("Cast", ["i"], ["f"], name="cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Softmax", ["f"], ["s"], name="softmax"),
        helper.make_node("Transpose", ["s"], ["y"], name="transpose", perm=[1, 0]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [4, 8])],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(np.ones((8, 3), np.uint8), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = lower_network(from_onnx(model), "host")
    operators = network.graph.operators
    (product,) = (op for op in operators if "product" in op.nodes)
    softmax = [op for op in operators if "softmax" in op.nodes and "product" not in op.nodes]
    assert 1 <= len(softmax) < len(operators) - 1  # the transposition is in neither share
    notes = cost_notes(network, costs(network, *[1.0 + (op == product) for op in operators]))
    total = len(operators) + 1
    assert notes[-1].startswith(
        f"{2 / total:.0%} of the operators' time on cpu/1 is in products of integers, and "
        f"{len(softmax) / total:.0%} in operators that compute real numbers: "
    )
    assert all(op.name in notes[-1] for op in softmax)
