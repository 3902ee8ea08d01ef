"""Quantized tensors of ONNX models: where they are, and models that are cut at them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

if TYPE_CHECKING:
    import onnx

_RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_MOVES = (*_RESHAPES, "DequantizeLinear")
_FUSED = ("Add", "Clip", "QLinearAdd", "Relu")
"""What kernels of products do with their results, so that these are never in memory."""

_DYNAMIC = "DynamicQuantizeLinear"
_ZERO_OF_QGEMM = 8  # position of an input; QGemm without it returns floats


def quantized_tensors(node: onnx.NodeProto) -> list[str]:
    """Return the tensors of steps, and zero points, that a node writes."""
    if node.op_type == _DYNAMIC:
        return [name for name in (node.output[0], *node.output[2:]) if name]
    is_quantized = node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear")
    is_quantized |= node.op_type == "QGemm" and len(node.input) > _ZERO_OF_QGEMM
    return [name for name in node.output if name] if is_quantized else []


def quantized_in_memory(graph: onnx.GraphProto, computed: Collection[str]) -> list[str]:
    """Return the quantized tensors that kernels pass on, in order; those of `computed` only.

    Of dynamic quantization, they come with their scales and zero points. Left out are results that
    are only added to something, which kernels of products do themselves: a model that is cut at
    the others has the kernels of the whole.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    inner: set[str] = set()
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
        inner.update(_of_subgraphs(node))

    def is_passed_on(name: str) -> bool:
        return any(
            is_passed_on(node.output[0]) if node.op_type in _MOVES else node.op_type not in _FUSED
            for node in readers.get(name, ())
        )

    found: list[str] = []
    for node in graph.node:
        quantized = quantized_tensors(node)
        if quantized and quantized[0] in computed and is_passed_on(quantized[0]):
            found += [name for name in node.output if name and name not in inner]
    return found


def _of_subgraphs(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that nodes of subgraphs read; some are tensors of the graph around them."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _of_subgraphs(inner)
            yield from (value.name for value in graph.output)


def given(name: str) -> str:
    """Return what the input is called that stands for a quantized tensor."""
    return f"{name} (given)"


def cut_at(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a model whose nodes read inputs in place of some tensors, which it returns too.

    `values` has arrays of their types and shapes by name.
    """
    import onnx

    cut = with_outputs(model, list(values))
    for node in cut.graph.node:
        for i, name in enumerate(node.input):
            if name in values:
                node.input[i] = given(name)
    for name, array in values.items():
        element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        cut.graph.input.append(
            onnx.helper.make_tensor_value_info(given(name), element, array.shape)
        )
    return cut


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy that returns more tensors."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return copy


def output_steps(graph: onnx.GraphProto) -> dict[str, float]:
    """Return what neighbouring values of quantized outputs differ by.

    1 for tensors of steps, and the scale for those that are dequantized with one.
    """
    writers = {name: node for node in graph.node for name in node.output}
    weights = {weight.name: weight for weight in graph.initializer}
    found = {}
    for value in graph.output:
        name, node = value.name, writers.get(value.name)
        while node is not None and node.op_type in _RESHAPES:
            name, node = node.input[0], writers.get(node.input[0])
        if node is None:
            continue
        if name in quantized_tensors(node):
            found[value.name] = 1.0
        elif node.op_type == "DequantizeLinear" and node.input[1] in weights:
            scale = numpy_helper.to_array(weights[node.input[1]])
            if scale.size == 1:
                found[value.name] = abs(float(scale.item()))
    return found
