from __future__ import annotations

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
