"""Parameters and multiply-adds of an ONNX model."""

from dataclasses import dataclass
from math import prod

import onnx


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a network as publications report them.

    Attributes
    ----------
    parameters : int
        Numbers that training learns: without the running statistics of batch norms.
    multiply_adds : int
        Of convolutions and matrix products, for the batch in the model.
    operators : int
        Nodes of the ONNX graph.
    """

    parameters: int
    multiply_adds: int
    operators: int


def model_size(model: onnx.ModelProto) -> ModelSize:
    """Count what `model` holds and computes; its shapes must be static.

    Examples
    --------
    >>> from hios_tvm.zoo import build
    >>> model_size(build("squeezenet1_1")).parameters
    1235496
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = weights | {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in [*graph.input, *graph.output, *graph.value_info]
    }
    learned = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            learned.difference_update(node.input[3:5])
    return ModelSize(
        parameters=sum(prod(weights[name]) for name in learned),
        multiply_adds=sum(_multiply_adds(node, shapes) for node in graph.node),
        operators=len(graph.node),
    )


def _multiply_adds(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Elements of the output times the length of the sum behind each."""
    if node.op_type == "Conv":
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else -1]
    return 0
