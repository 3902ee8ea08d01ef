"""The rules of ONNX graphs that everything behind them relies on."""

from collections.abc import Iterable, Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx.functions import ONNX_DOMAINS, subgraphs


def default_opset(model: ModelProto, label: str) -> int:
    """Version of ONNX's own operators that `model` uses.

    Raises
    ------
    ModelError
        If `model` is of no supported version.
    """
    if model.ir_version < 3:
        raise ModelError(
            f"{label} has IR version {model.ir_version}, at least 3 is needed; export it again"
        )
    versions = [entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS]
    if not versions:
        raise ModelError(f"{label} does not say which opset it uses; export it again")
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= versions[0] <= newest:
        raise ModelError(
            f"{label} uses opset {versions[0]}; this onnx package knows 1 to {newest}: "
            "export it with one of these"
        )
    return int(versions[0])


def node_name(node: NodeProto) -> str:
    """Return what a node is called in operator graphs and messages: its name, or an output's."""
    return str(node.name or next(filter(None, node.output), node.op_type))


def check_names(model: ModelProto, label: str) -> None:
    """All names are text; protobuf hands damaged ones on as bytes.

    Raises
    ------
    ModelError
        With the first damaged name.
    """
    for name in _names(model):
        if isinstance(name, bytes):
            raise ModelError(f"{label} is damaged: the name {name!r} is not valid UTF-8")


def _names(model: ModelProto) -> Iterator[str | bytes]:
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
        yield from function.attribute
        yield from _names_of_nodes(function.node)
    yield from _names_of_graph(model.graph)


def _names_of_graph(graph: GraphProto) -> Iterator[str | bytes]:
    yield from (entry.name for entry in (*graph.input, *graph.output, *graph.initializer))
    yield from _names_of_nodes(graph.node)


def _names_of_nodes(nodes: Iterable[NodeProto]) -> Iterator[str | bytes]:
    for node in nodes:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
        for subgraph in subgraphs(node):
            yield from _names_of_graph(subgraph)


def check_structure(
    graph: GraphProto, label: str, outer_names: frozenset[str] = frozenset()
) -> None:
    """Every tensor is computed once, before it is read.

    Parameters
    ----------
    graph : GraphProto
    label : str
        The model's name in messages.
    outer_names : frozenset of str
        Tensors of the graphs around, for a subgraph.

    Raises
    ------
    ModelError
        Naming the node and the tensor.
    """
    inputs = [value.name for value in graph.input]
    if not graph.output:
        raise ModelError(f"{label}: the graph has no output")
    if len(set(inputs)) < len(inputs):
        raise ModelError(f"{label}: two inputs have the same name")
    known = {*outer_names, *inputs, *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        place = f"{node.op_type} {node.name or next(iter(node.output), '')!r}"
        if not any(node.output):
            raise ModelError(f"{label}: {place} has no output")
        for name in filter(None, node.input):
            if name not in known:
                raise ModelError(
                    f"{label}: {place} reads {name!r}, which nothing computes before it"
                )
        for subgraph in subgraphs(node):
            check_structure(subgraph, label, frozenset(known))
        for name in filter(None, node.output):
            if name in known:
                raise ModelError(f"{label}: {place} computes {name!r}, which exists already")
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            raise ModelError(f"{label}: nothing computes the output {value.name!r}")
