"""Which operators of ONNX can be imported, and rewriting those that others can express."""

from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, inliner

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx.inputs import without_weights
from hios_tvm.frontends.onnx.operators.table import CONVERTERS

ONNX_DOMAINS = ("", "ai.onnx")

DEFINED_DOMAINS = ("", "ai.onnx.preview")
"""Domains whose operators may be functions."""


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
    if not model.functions and not any(_defined_by_others(model.graph, opset)):
        return model
    light = ModelProto()
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.ir_version = model.ir_version
    light.graph.CopyFrom(without_weights(model.graph))
    if light.functions:
        try:
            light = inliner.inline_local_functions(light, convert_version=True)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{label}: cannot expand the model's functions: {error}") from error
    return _with_weights_of(model, _expand_standard(light, opset))


def _expand_standard(model: ModelProto, opset: int) -> ModelProto:
    """Functions of ONNX itself; some of their bodies depend on types, some call others."""
    previous: set[tuple[str, str]] = set()
    names = set(_defined_by_others(model.graph, opset))
    while names and names != previous:
        try:
            typed = onnx.shape_inference.infer_shapes(model)
            typed.graph.value_info.extend(
                helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
                for weight in model.graph.initializer
            )
            typed.graph.value_info.add(name="")  # inputs that are left out need a type too
            model = inliner.inline_selected_functions(
                typed, sorted(names), inline_schema_functions=True
            )
        except (RuntimeError, ValueError):
            return model  # whose operators will be reported as unsupported
        del model.graph.value_info[:]
        previous, names = names, set(_defined_by_others(model.graph, opset))
    return model


def _with_weights_of(model: ModelProto, light: ModelProto) -> ModelProto:
    """Restore the weights that `without_weights` removed."""
    del light.graph.input[:]
    light.graph.input.extend(model.graph.input)
    del light.graph.initializer[:]
    light.graph.initializer.extend(model.graph.initializer)
    light.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    return light


def unsupported_operators(graph: GraphProto) -> list[str]:
    """Operators without an import, subgraphs included, each once, as ``domain::name``."""
    return sorted(
        {
            node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}::{node.op_type}"
            for node in _nodes(graph)
            if not _is_supported(node)
        }
    )


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of control flow."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _is_supported(node: NodeProto) -> bool:
    domain = "" if node.domain in ONNX_DOMAINS else node.domain
    return (domain, node.op_type) in CONVERTERS


def _defined_by_others(graph: GraphProto, opset: int) -> Iterator[tuple[str, str]]:
    """Operators of ONNX, as domain and name, that have no import and that others define."""
    for node in _nodes(graph):
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        if _is_supported(node) or domain not in DEFINED_DOMAINS:
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, opset if not domain else 1, domain)
        except onnx.defs.SchemaError:
            continue
        if schema.has_function or schema.has_context_dependent_function:
            yield domain, node.op_type


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for subgraph in subgraphs(node):
            yield from _nodes(subgraph)
