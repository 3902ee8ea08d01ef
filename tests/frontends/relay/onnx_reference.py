"""Results of single ONNX operators, from ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import helper


def onnx_result(operator: str, inputs: list[np.ndarray], opset: int = 19, **attributes: Any) -> Any:
    """The first output of one ONNX operator."""
    arrays = {f"x{i}": x for i, x in enumerate(inputs) if x.size}  # an empty one is left out
    names = [f"x{i}" if x.size else "" for i, x in enumerate(inputs)]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in arrays.items()
    ]
    node = helper.make_node(operator, names, ["y"], **attributes)
    result = helper.make_tensor_value_info("y", values[0].type.tensor_type.elem_type, None)
    graph = helper.make_graph([node], "graph", values, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, arrays)[0]


def spatial_last(array: np.ndarray) -> np.ndarray:
    """Channels-last data with the channels moved in front of the spatial axes."""
    return np.moveaxis(array, -1, 1)
