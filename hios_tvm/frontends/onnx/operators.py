"""Which operators of ONNX can be imported, and rewriting those that others can express."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto, inliner
from tvm.relax.frontend.onnx import onnx_frontend

from hios_tvm.errors import ModelError

__all__ = ["expand_functions", "subgraphs", "unsupported_operators"]

ONNX_DOMAINS = ("", "ai.onnx")

MICROSOFT_OPERATORS = frozenset(
    {
        "Attention",
        "BiasGelu",
        "DequantizeLinear",
        "EmbedLayerNormalization",
        "FastGelu",
        "Gelu",
        "MatMulInteger16",
        "QuantizeLinear",
        "SkipLayerNormalization",
    }
)
"""Of ONNX Runtime's domain. TVM looks operators up by name alone; these it knows with this
meaning, whereas `Attention` of ONNX itself is another operator."""

OPERATORS = frozenset(
    name for name in onnx_frontend._get_convert_map() if onnx.defs.has(name) and name != "Attention"
) | {"If"}  # where the condition is known at import


def expand_functions(model: ModelProto, opset: int, label: str) -> ModelProto:
    """Replace calls of functions by their bodies.

    Functions are those that the model brings along, and operators that have no import of their
    own while the standard defines them by others.

    Returns
    -------
    ModelProto
        `model` itself where it calls no function.
    """
    called = {("", name) for name in _operators_defined_by_others(model.graph, opset)}
    called |= {(function.domain, function.name) for function in model.functions}
    if not called:
        return model
    try:
        return inliner.inline_selected_functions(
            model, sorted(called), inline_schema_functions=True
        )
    except (RuntimeError, ValueError) as error:
        names = ", ".join(name for _, name in sorted(called))
        raise ModelError(f"{label}: cannot expand the functions {names}: {error}") from error


def unsupported_operators(graph: GraphProto) -> list[str]:
    """Operators without an import, subgraphs included, each once, as ``domain::name``."""
    names = {
        node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}::{node.op_type}"
        for node in _nodes(graph)
        if not _is_supported(node)
    }
    return sorted(names)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of control flow."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _is_supported(node: NodeProto) -> bool:
    if node.domain == "com.microsoft":
        return node.op_type in MICROSOFT_OPERATORS
    return node.domain in ONNX_DOMAINS and node.op_type in OPERATORS


def _operators_defined_by_others(graph: GraphProto, opset: int) -> Iterator[str]:
    for node in _nodes(graph):
        if node.domain in ONNX_DOMAINS and node.op_type not in OPERATORS:
            try:
                schema = onnx.defs.get_schema(node.op_type, opset)
            except onnx.defs.SchemaError:
                continue
            if schema.has_function or schema.has_context_dependent_function:
                yield node.op_type


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for subgraph in subgraphs(node):
            yield from _nodes(subgraph)
