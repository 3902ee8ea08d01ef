"""Which operators of ONNX can be imported, and rewriting those that others can express."""

from collections.abc import Iterable, Iterator

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, helper, inliner
from onnx.checker import ValidationError

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx.inputs import without_weights
from hios_tvm.frontends.onnx.operators.table import CONVERTERS
from hios_tvm.runtime.memory_limit import check_memory

MAX_NODES = 100_000
"""Operators of a model, with its loops unrolled and its functions expanded."""

MAX_CALLS_INSIDE_EACH_OTHER = 100

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
    _check_calls(model, label)
    light = ModelProto()
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.ir_version = model.ir_version
    light.graph.CopyFrom(without_weights(model.graph))
    if light.functions:
        try:
            light = inliner.inline_local_functions(light, convert_version=True)
        except (RuntimeError, ValueError, ValidationError) as error:
            raise ModelError(f"{label}: cannot expand the model's functions: {error}") from error
    return _with_weights_of(model, _expand_standard(light, opset))


def _check_calls(model: ModelProto, label: str) -> None:
    """Refuse functions that call themselves, and those that expand to too much.

    A function that calls another one twice, and so on, is small in the file only.
    """
    bodies = {(f.domain, f.name): list(_nodes(f)) for f in model.functions}
    sizes: dict[tuple[str, str], tuple[int, int]] = {}  # operators and bytes

    def size_of(
        nodes: Iterable[NodeProto], callers: tuple[tuple[str, str], ...]
    ) -> tuple[int, int]:
        count = nbytes = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            if called not in bodies:
                size = 1, node.ByteSize()
            elif called in callers or len(callers) == MAX_CALLS_INSIDE_EACH_OTHER:
                raise ModelError(
                    f"{label}: the function {node.op_type!r} calls itself, or functions call each "
                    f"other more than {MAX_CALLS_INSIDE_EACH_OTHER} deep"
                )
            else:
                if called not in sizes:
                    sizes[called] = size_of(bodies[called], (*callers, called))
                size = sizes[called]
            count, nbytes = count + size[0], nbytes + size[1]
        return count, nbytes

    count, nbytes = size_of(_nodes(model.graph), ())
    if count > MAX_NODES:
        raise ModelError(
            f"{label}: its functions expand to {count:.3g} operators, more than {MAX_NODES}"
        )
    check_memory(nbytes, f"{label} with its functions expanded")


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
        except (RuntimeError, ValueError, ValidationError):
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


def _nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for subgraph in subgraphs(node):
            yield from _nodes(subgraph)
