from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from hios_tvm.zoo import ModelSize, model_size


def test_counts_by_hand() -> None:
    shapes = {"w": (6, 2, 3, 3), "s": (6,), "b": (6,), "m": (6,), "v": (6,), "d": (6, 3)}
    weights = [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in shapes.items()]
    weights.append(numpy_helper.from_array(np.array([2, 6]), "shape"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("GlobalAveragePool", ["n"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "d"], ["y"]),
    ]
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 4, 8, 8))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3))
    model = helper.make_model(helper.make_graph(nodes, "g", [images], [result], weights))
    assert model_size(model) == ModelSize(
        parameters=6 * 2 * 3 * 3 + 6 + 6 + 6 * 3,
        multiply_adds=(2 * 6 * 4 * 4) * (2 * 3 * 3) + (2 * 3) * 6,
        operators=5,
    )
