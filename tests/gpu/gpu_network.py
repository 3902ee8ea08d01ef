"""The small network that the tests of GPUs run."""

from __future__ import annotations

import onnx
from lowered_models import random
from onnx import helper


def branches(width: int = 4) -> onnx.ModelProto:
    """A stem, `width` branches of two convolutions, and their sum and concatenation."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["stem"], pads=[1] * 4)]
    for i in range(width):
        nodes += [
            helper.make_node("Conv", ["stem", f"w{i}"], [f"a{i}"], pads=[1] * 4),
            helper.make_node("Relu", [f"a{i}"], [f"b{i}"]),
            helper.make_node("MaxPool", [f"b{i}"], [f"c{i}"], kernel_shape=[3, 3], pads=[1] * 4),
        ]
    nodes.append(helper.make_node("Concat", [f"c{i}" for i in range(width)], ["y"], axis=1))
    nodes.append(helper.make_node("Sigmoid", ["c0"], ["z"]))
    weights = {f"w{i}": random(6, 5, 3, 3, seed=i) for i in range(width)}
    weights["w"] = random(5, 3, 3, 3, seed=99)
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", kind, (1, 3, 8, 7))],
        [onnx.ValueInfoProto(name="y"), onnx.ValueInfoProto(name="z")],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MODEL = branches()
