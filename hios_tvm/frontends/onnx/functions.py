"""Which operators of ONNX can be imported, and rewriting those that others can express."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, inliner

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx.operators.table import CONVERTERS

__all__ = ["ONNX_DOMAINS", "expand_functions", "subgraphs", "unsupported_operators"]

ONNX_DOMAINS = ("", "ai.onnx")


def expand_functions(model: ModelProto, opset: int, label: str) -> ModelProto:
    """Replace calls of functions by their bodies.

    Functions are those that the model brings along, and operators that have no import of their
    own while the standard defines them by others.

    Returns
    -------
    ModelProto
        `model` itself where it calls no function.

    Raises
    ------
    ModelError
        If a function of the model is not valid.
    """
    if model.functions:
        try:
            model = inliner.inline_local_functions(model)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{label}: cannot expand the model's functions: {error}") from error
    defined = [("", name) for name in sorted(set(_defined_by_others(model.graph, opset)))]
    if not defined:
        return model
    # Some bodies depend on types, those of weights included.
    try:
        typed = onnx.shape_inference.infer_shapes(model)
        typed.graph.value_info.extend(
            helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            for weight in model.graph.initializer
        )
        return inliner.inline_selected_functions(typed, defined, inline_schema_functions=True)
    except (RuntimeError, ValueError):
        return model  # whose operators will be reported as unsupported


def unsupported_operators(graph: GraphProto) -> list[str]:
    """Operators without an import, subgraphs included, each once, as ``domain::name``."""
    return sorted({_full_name(node) for node in _nodes(graph) if not _is_supported(node)})


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of control flow."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _is_supported(node: NodeProto) -> bool:
    domain = "" if node.domain in ONNX_DOMAINS else node.domain
    return (domain, node.op_type) in CONVERTERS


def _full_name(node: NodeProto) -> str:
    if node.domain not in ONNX_DOMAINS:
        return f"{node.domain}::{node.op_type}"
    return str(node.op_type)


def _defined_by_others(graph: GraphProto, opset: int) -> Iterator[str]:
    for node in _nodes(graph):
        if node.domain in ONNX_DOMAINS and not _is_supported(node):
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
