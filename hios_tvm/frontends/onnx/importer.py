"""The conversion of an ONNX graph, node by node.

Every error names its node. What is known at import is computed at import: shapes, conditions, and
whatever follows from constants. The type of every result is compared with ONNX's own inference.
"""

from __future__ import annotations

import contextlib
import keyword
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

import numpy as np
import tvm
from onnx import IR_VERSION, GraphProto, NodeProto, checker, helper, numpy_helper
from tvm import relax

from hios_tvm.errors import DynamicShapeError, HiosError, ModelError
from hios_tvm.frontends.onnx.attributes import Attributes
from hios_tvm.frontends.onnx.folding import fold
from hios_tvm.frontends.onnx.functions import MAX_NODES, ONNX_DOMAINS
from hios_tvm.frontends.onnx.inference import TensorTypeFact, declared_types, inferred_types
from hios_tvm.frontends.onnx.inputs import ELEMENT_TYPES, model_inputs
from hios_tvm.frontends.onnx.operators import qlinear, quantized
from hios_tvm.frontends.onnx.operators.call import OperatorCall, Value
from hios_tvm.frontends.onnx.operators.table import CONVERTERS
from hios_tvm.frontends.onnx.structure import node_name
from hios_tvm.frontends.tensors import constant_of, dtype_of, shape_of
from hios_tvm.runtime.memory_limit import check_memory
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.node_names import NODE_NAMES, QUANTIZED_NODES, variable_of


class _NamingBuilder(relax.BlockBuilder):
    """Names what it emits after the node that is being converted."""

    hint = ""

    def emit(self, expr: relax.Expr, name_hint: str = "") -> relax.Var:
        return super().emit(expr, name_hint or self.hint)


class OnnxImporter:
    """Converts one graph.

    Parameters
    ----------
    opset : int
        Version of the default domain.
    label : str
        The model's name in messages.
    """

    def __init__(self, opset: int, label: str) -> None:
        self._builder = _NamingBuilder()
        self._node_names: list[str] = []
        self._quantized: list[str] = []
        self._values: MutableMapping[str, Value] = ChainMap()  # results by tensor name
        self._weights: dict[int, tuple[GraphProto, dict[str, Value]]] = {}
        self._converted = 0
        self._opset = opset
        self._label = label

    def import_graph(
        self, graph: GraphProto, shapes: Mapping[str, tuple[int, ...]]
    ) -> tvm.IRModule:
        """Convert `graph`, whose operators are all in the table.

        Parameters
        ----------
        graph : GraphProto
        shapes : mapping of input name to shape

        Raises
        ------
        ModelError
            Naming the node or tensor that cannot be converted, or whose type is not what ONNX
            infers or the model declares.
        """
        self._values.update(self._weights_of(graph))
        inputs = self._declare_inputs(graph, shapes)
        builder = self._builder
        with builder.function("main", params=inputs):
            try:
                with builder.dataflow():
                    self._convert_nodes(graph.node)
                    self._check_declared(graph)
                    results = self._results(graph)
                    outputs = []
                    for name, value in results:
                        with self._context(f"output {name!r}"):
                            hint = value.name if isinstance(value, relax.Var) else ""
                            outputs.append(builder.emit_output(value, hint))
            except HiosError:
                builder._end_block()  # a builder with an open block complains when it is deleted
                raise
            builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
        names = {
            "input_names": [value.name for value in model_inputs(graph)],
            "output_names": [name for name, _ in results],
            NODE_NAMES: self._node_names,
            QUANTIZED_NODES: self._quantized,
        }
        module = builder.get()
        module["main"] = module["main"].with_attrs(names)
        module = relax.transform.CanonicalizeBindings()(module)  # outputs have names of their own
        return relax.transform.DeadCodeElimination(["main"])(module)

    def _weights_of(self, graph: GraphProto) -> dict[str, Value]:
        """Initializers by name; those of a loop's body are the same in all iterations."""
        if id(graph) in self._weights:
            return self._weights[id(graph)][1]
        if graph.sparse_initializer:
            raise ModelError(f"{self._label} has sparse weights; export it with dense ones")
        weights: dict[str, Value] = {}
        for tensor in graph.initializer:
            with self._context(f"initializer {tensor.name!r}"):
                weights[tensor.name] = _constant(numpy_helper.to_array(tensor))
        self._weights[id(graph)] = graph, weights  # keeps the graph, and so its id
        return weights

    def _declare_inputs(
        self, graph: GraphProto, shapes: Mapping[str, tuple[int, ...]]
    ) -> list[relax.Var]:
        """One parameter for each input, named after it as far as identifiers allow."""
        variables: list[relax.Var] = []
        taken: set[str] = set()
        for value in model_inputs(graph):
            with self._context(f"input {value.name!r}"):
                dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
                name = _identifier(value.name, taken)
                variable = relax.Var(name, relax.TensorType(shapes[value.name], dtype))
                self._values[value.name] = variable
                variables.append(variable)
        return variables

    def _convert_nodes(self, nodes: Sequence[NodeProto]) -> None:
        for node in nodes:
            self._count_node()
            with self._context(_describe(node), node):
                inputs = {name: self._values[name] for name in node.input if name}
                types = inferred_types(node, inputs, self._opset)
                self._check_sizes(node, types)
                if not (self._is_empty(node, types) or self._fold(node, inputs, types)):
                    self._convert(node)
                self._check_types(node, types)

    def _count_node(self) -> None:
        """Bound what loops inside of each other, or functions, make of a small file."""
        self._converted += 1
        if self._converted > MAX_NODES:
            raise ModelError(
                f"{self._label}: its loops and functions expand to more than {MAX_NODES} operators"
            )

    def _check_sizes(self, node: NodeProto, types: Mapping[str, TensorTypeFact]) -> None:
        """Compare what a node will compute with the memory that is free."""
        place = f"{self._label}: the result of {_describe(node)}"
        check_memory(sum(fact.nbytes for fact in types.values()), place)

    def _convert(self, node: NodeProto) -> None:
        """Bind what a node computes."""
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        self._builder.hint = variable_of([len(self._node_names)])
        self._node_names.append(node_name(node))
        if node.op_type in quantized.OPERATORS or node.op_type in qlinear.OPERATORS:
            self._quantized.append(self._node_names[-1])
        attributes = Attributes(node)
        call = OperatorCall(
            name=node.op_type,
            builder=self._builder,
            version=self._opset,
            arguments=tuple(self._values[name] if name else None for name in node.input),
            attributes=attributes,
            is_used=tuple(bool(name) for name in node.output),
            operator=_describe(node),
            model=self._label,
            import_graph=self._import_subgraph,
        )
        results = CONVERTERS[domain, node.op_type](call)
        if attributes.unread:
            names = ", ".join(attributes.unread)
            raise call.unsupported(f"the attributes {names} are not known; export it without them")
        outputs = results if isinstance(results, list) else [results]
        for name, output in zip(node.output, outputs, strict=False):
            if name:
                self._values[name] = self._bound(output)
        missing = [name for name in node.output[len(outputs) :] if name]
        if missing:
            raise call.unsupported(f"nothing computes its outputs {', '.join(missing)}")

    def _bound(self, value: Value) -> Value:
        if isinstance(value, tuple):
            return tuple(self._bound(part) for part in value)
        if value is None or isinstance(value, (relax.Var, tvm.ir.GenericConst)):
            return value
        variable = self._builder.emit(value)
        if _has_static_type(variable) and 0 in shape_of(variable):
            return constant_of(np.zeros(shape_of(variable), numpy_dtype(dtype_of(variable))))
        return variable

    def _is_empty(self, node: NodeProto, types: Mapping[str, TensorTypeFact]) -> bool:
        """Bind outputs without elements, for which there is nothing to compute."""
        facts = [types.get(name) for name in node.output if name]
        arrays = [None if fact is None else fact.empty() for fact in facts]
        empty = [array for array in arrays if array is not None]
        if len(empty) < len(arrays):
            return False
        self._bind(node, empty)
        return True

    def _import_subgraph(self, graph: GraphProto, arguments: Sequence[Value]) -> list[Value]:
        """Convert the body of control flow in a scope of its own; return its outputs."""
        if len(arguments) != len(graph.input):
            raise ValueError(f"its body has {len(graph.input)} inputs, {len(arguments)} are given")
        outer = self._values
        names = (value.name for value in graph.input)
        self._values = ChainMap(dict(zip(names, arguments, strict=True)), outer)
        try:
            self._values.update(self._weights_of(graph))
            self._convert_nodes(graph.node)
            return [self._values[value.name] for value in graph.output]
        finally:
            self._values = outer

    def _fold(
        self, node: NodeProto, inputs: Mapping[str, Value], types: Mapping[str, TensorTypeFact]
    ) -> bool:
        """Bind the results of a node on constants, if they can be computed now."""
        if node.domain not in ONNX_DOMAINS or quantized.stays_quantized(node, inputs):
            return False
        elements = sum(fact.elements or 0 for fact in types.values())
        results = fold(node, inputs, self._opset, elements)
        if results is None:
            return False
        self._bind(node, results)
        return True

    def _bind(self, node: NodeProto, arrays: Sequence[np.ndarray]) -> None:
        names = (name for name in node.output if name)
        self._values.update(zip(names, map(_constant, arrays), strict=True))

    def _check_types(self, node: NodeProto, types: Mapping[str, TensorTypeFact]) -> None:
        """Compare a node's results with what ONNX infers.

        Raises
        ------
        DynamicShapeError
            If a shape is not known.
        ModelError
            If a type differs: the model is not valid, or the converter is wrong.
        """
        for name in filter(None, node.output):
            value = self._values[name]
            if not isinstance(value, relax.Expr):
                continue
            if not _has_static_type(value):
                raise DynamicShapeError(
                    f"{self._label}: the shape of {name!r}, which {_describe(node)} computes, "
                    "depends on data; only models with static shapes can be compiled",
                    dimensions=(f"{_describe(node)}: {name}",),
                )
            fact = types.get(name)
            if fact is not None and fact.contradicts(dtype_of(value), shape_of(value)):
                raise ValueError(
                    f"{name!r} is imported as {_type_text(value)}, ONNX infers {fact}; "
                    "please report this model"
                )

    def _check_declared(self, graph: GraphProto) -> None:
        for name, fact in declared_types(graph).items():
            value = self._values[name]
            if isinstance(value, relax.Expr) and fact.contradicts(dtype_of(value), shape_of(value)):
                raise ModelError(
                    f"{self._label}: output {name!r} is declared as {fact}, its operators compute "
                    f"{_type_text(value)}; correct the declaration, or export the model again"
                )

    def _results(self, graph: GraphProto) -> list[tuple[str, relax.Expr]]:
        """Outputs with their names; those of a sequence's elements end in their position."""
        results: list[tuple[str, relax.Expr]] = []
        for name in (value.name for value in graph.output):
            value = self._values[name]
            parts = [(name, value)]
            if isinstance(value, tuple):
                parts = [(f"{name}/{i}", part) for i, part in enumerate(value)]
            for part_name, part in parts:
                if not isinstance(part, relax.Expr):
                    raise ModelError(f"{self._label}: output {part_name!r} has no value")
                results.append((part_name, part))
        if not results:
            raise ModelError(f"{self._label}: all its outputs are empty sequences")
        return results

    @contextlib.contextmanager
    def _context(self, place: str, node: NodeProto | None = None) -> Iterator[None]:
        """Name the model and the place in every error."""
        try:
            yield
        except HiosError:
            raise
        except Exception as error:
            reason = (node and _broken_rule(node, self._opset)) or _readable(error)
            raise ModelError(f"{self._label}: cannot import {place}: {reason}") from error


def _broken_rule(node: NodeProto, opset: int) -> str:
    """The rule of the standard that a node breaks, if any: a clearer message than TVM's."""
    context = checker.C.CheckerContext()
    context.ir_version = IR_VERSION
    context.opset_imports = {"": opset}
    try:
        checker.check_node(node, context)
    except checker.ValidationError as error:
        return str(error).splitlines()[0]
    except UnicodeDecodeError:
        return "a name or text in it is not valid UTF-8"
    return ""


def _readable(error: Exception) -> str:
    """The first line, with operators and numbers as people write them and not as TVM does."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    line = re.sub(r'ir\.Op\(.*?name="([^"]*)".*support_level=\d+\)', r"\1", line)
    return re.sub(r"T\.int64\((-?\d+)\)", r"\1", line)


def _constant(array: np.ndarray) -> relax.Expr:
    if helper.np_dtype_to_tensor_dtype(array.dtype) not in ELEMENT_TYPES:
        raise ValueError(f"elements of type {array.dtype} cannot be compiled")
    return constant_of(array)


def _describe(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}"


def _identifier(name: str, taken: set[str]) -> str:
    """A new name that may stand in TVMScript, where R, I and T mean its own modules."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", name)
    if not name.isidentifier() or keyword.iskeyword(name) or name in ("R", "I", "T"):
        name = f"input_{name}"
    candidates = (name, *(f"{name}_{i}" for i in range(1, len(taken) + 1)))
    chosen = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(chosen)
    return chosen


def _has_static_type(value: relax.Expr) -> bool:
    shape = getattr(value.ty, "shape", None)
    return isinstance(shape, relax.ShapeExpr) and all(
        isinstance(size, int | tvm.tirx.IntImm) for size in shape.values
    )


def _type_text(value: relax.Expr) -> str:
    return f"{dtype_of(value)} {list(shape_of(value))}"
