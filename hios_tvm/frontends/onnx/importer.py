"""TVM's ONNX importer, bent to the contract of the frontends.

TVM's own entry point renames inputs, prints, warns, and reports errors without saying which node
they come from. This importer converts node by node, so that every error names its node, and what
is known at import is computed at import: shapes, conditions, and whatever follows from constants.
"""

from __future__ import annotations

import contextlib
import io
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from types import SimpleNamespace

import numpy as np
import tvm
from onnx import IR_VERSION, GraphProto, NodeProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from hios_tvm.errors import DynamicShapeError, HiosError, ModelError, UnsupportedOperatorError
from hios_tvm.frontends.onnx.converters import CONVERTERS
from hios_tvm.frontends.onnx.inputs import ELEMENT_TYPES, model_inputs
from hios_tvm.frontends.onnx.operators import ONNX_DOMAINS
from hios_tvm.frontends.onnx.transposed import with_explicit_pads

__all__ = ["OnnxImporter"]

MAX_FOLDED_ELEMENTS = 1 << 20
"""Constants up to this size are computed with at import: shapes, indices, small weights."""

MAX_MOVED_ELEMENTS = 1 << 28
"""The same for operators that only arrange values: weights, however they were written."""

MOVING_OPERATORS = frozenset(
    {"Cast", "Concat", "ConstantOfShape", "DequantizeLinear", "Identity", "Reshape", "Slice"}
    | {"Squeeze", "Transpose", "Unsqueeze"}
)


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
        self._converter = ONNXGraphImporter(shape_dict={}, dtype_dict={}, sanitize=False)
        self._converter.opset = opset
        self._nodes: dict[str, relax.Expr] = self._converter._nodes  # results by tensor name
        self._opset = opset
        self._label = label
        self._dynamic: list[str] = []

    def import_graph(
        self, graph: GraphProto, shapes: Mapping[str, tuple[int, ...]]
    ) -> tvm.IRModule:
        """Convert `graph`, whose operators are all supported.

        Parameters
        ----------
        graph : GraphProto
        shapes : mapping of input name to shape

        Raises
        ------
        ModelError
            Naming the node or tensor that cannot be converted.
        """
        self._parse_initializers(graph)
        inputs = self._declare_inputs(graph, shapes)
        builder = self._converter.bb
        with builder.function("main", params=inputs):
            try:
                with builder.dataflow():
                    self._convert_nodes(graph)
                    outputs = [self._output(value.name) for value in graph.output]
            except ModelError:
                builder._end_block()  # a builder with an open block complains when it is deleted
                raise
            builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
        names = {
            "input_names": [value.name for value in model_inputs(graph)],
            "output_names": [value.name for value in graph.output],
        }
        module = builder.get()
        module["main"] = module["main"].with_attrs(names)
        module = relax.transform.DeadCodeElimination(["main"])(module)
        self._check_static(module["main"])
        return module

    def _parse_initializers(self, graph: GraphProto) -> None:
        if graph.sparse_initializer:
            raise ModelError(f"{self._label} has sparse weights; export it with dense ones")
        for tensor in graph.initializer:
            with self._context(f"initializer {tensor.name!r}"):
                self._nodes[tensor.name] = _constant(numpy_helper.to_array(tensor))

    def _declare_inputs(
        self, graph: GraphProto, shapes: Mapping[str, tuple[int, ...]]
    ) -> list[relax.Var]:
        """One parameter for each input, named after it as far as identifiers allow."""
        variables = []
        for value in model_inputs(graph):
            with self._context(f"input {value.name!r}"):
                dtype = str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
                name = self._converter._name_supply.fresh_name(_identifier(value.name))
                variable = relax.Var(str(name), relax.TensorType(shapes[value.name], dtype))
                self._nodes[value.name] = variable
                variables.append(variable)
        return variables

    def _convert_nodes(self, graph: GraphProto) -> None:
        for node in graph.node:
            with self._context(_describe(node), node):
                if node.op_type == "If":
                    self._take_branch(node)
                elif not self._fold(node):
                    self._convert(node)
                    self._note_results(node)

    def _convert(self, node: NodeProto) -> None:
        """Emit a node's operators, by a converter of our own or of TVM."""
        if node.op_type == "ConvTranspose":
            shapes = [_sizes(self._nodes[name]) for name in node.input[:2]]
            node = with_explicit_pads(node, *shapes)
        if node.op_type not in CONVERTERS:
            self._converter._construct_nodes(SimpleNamespace(node=[node]))
            return
        inputs = [self._nodes[name] if name else None for name in node.input]
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        results = CONVERTERS[node.op_type](inputs, attributes)
        for name, result in zip(node.output, results, strict=False):
            self._nodes[name] = self._converter.bb.normalize(result)

    def _take_branch(self, node: NodeProto) -> None:
        """Convert the branch of an If that will run: its condition must be known."""
        condition = self._nodes[node.input[0]]
        if not isinstance(condition, tvm.ir.GenericConst):
            raise UnsupportedOperatorError(
                f"{self._label}: the condition of {_describe(node)} is not known before the model "
                "runs; export the model without control flow",
                operators=("If",),
            )
        chosen = "then_branch" if condition.value.numpy().all() else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == chosen)
        self._parse_initializers(branch)
        self._convert_nodes(branch)
        for output, value in zip(node.output, branch.output, strict=True):
            self._nodes[output] = self._nodes[value.name]

    def _fold(self, node: NodeProto) -> bool:
        """Compute a node on constants with ONNX's reference implementation, where that is small.

        TVM's converters do this for some operators only, and without it shapes that exporters
        compute step by step would not be known.
        """
        names = list(dict.fromkeys(name for name in node.input if name))
        values = [self._nodes[name] for name in names]
        if node.domain not in ONNX_DOMAINS:
            return False
        if not all(isinstance(value, tvm.ir.GenericConst) for value in values):
            return False
        arrays = [value.value.numpy() for value in values]
        size = sum(array.size for array in arrays)
        if node.op_type == "ConstantOfShape":
            size = prod(arrays[0].tolist())
        limit = MAX_MOVED_ELEMENTS if node.op_type in MOVING_OPERATORS else MAX_FOLDED_ELEMENTS
        if size > limit or not (names or node.op_type == "Constant"):
            return False
        version = [helper.make_opsetid("", self._opset)]
        function = helper.make_function("hios", "fold", names, node.output, [node], version)
        try:
            with np.errstate(all="ignore"):
                feeds = dict(zip(names, arrays, strict=True))
                results = ReferenceEvaluator(function).run(None, feeds, attributes={})
            constants = [_constant(np.asarray(result)) for result in results]
        except Exception:  # what it cannot compute, TVM may still convert
            return False
        self._nodes.update(zip(node.output, constants, strict=True))
        return True

    def _note_results(self, node: NodeProto) -> None:
        """Make known shapes constants, as which all operators take them; note unknown ones."""
        for name in filter(None, node.output):
            value = self._nodes[name]
            if isinstance(value, relax.ShapeExpr) and _is_static(value.values):
                sizes = [int(size) for size in value.values]
                self._nodes[name] = _constant(np.asarray(sizes, np.int64))
            elif isinstance(value, relax.Expr) and not _has_static_type(value.ty):
                self._dynamic.append(f"{_describe(node)}: {name}")

    def _output(self, name: str) -> relax.Var:
        with self._context(f"output {name!r}"):
            return self._converter.bb.emit_output(self._nodes[name])

    def _check_static(self, function: relax.Function) -> None:
        """Refuse what is left of shapes that depend on data."""
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        if all(_has_static_type(binding.var.ty) for binding in bindings):
            return
        results = tuple(self._dynamic) or tuple(binding.var.name for binding in bindings)
        raise DynamicShapeError(
            f"{self._label}: these shapes depend on data: {', '.join(results)}; "
            "only models with static shapes can be compiled",
            dimensions=results,
        )

    @contextlib.contextmanager
    def _context(self, place: str, node: NodeProto | None = None) -> Iterator[None]:
        """Say in every error where it comes from; TVM prints what it also raises."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except HiosError:
            raise
        except Exception as error:
            reason = (node and _broken_rule(node, self._opset)) or _readable(error)
            raise ModelError(f"{self._label}: cannot import {place}: {reason}") from error


def _sizes(value: relax.Expr) -> list[int]:
    return [int(size) for size in value.ty.shape.values]


def _broken_rule(node: NodeProto, opset: int) -> str:
    """What the standard has against a node, if anything: a better reason than TVM's."""
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


def _constant(array: np.ndarray) -> tvm.ir.GenericConst:
    """A constant of the array's own dtype; given an array, `relax.const` makes int64 int32."""
    if helper.np_dtype_to_tensor_dtype(array.dtype) not in ELEMENT_TYPES:
        raise ValueError(f"elements of type {array.dtype} cannot be compiled")
    return relax.const(tvm.runtime.tensor(np.ascontiguousarray(array).reshape(array.shape)))


def _describe(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}"


def _identifier(name: str) -> str:
    """A name that may stand in TVMScript, where R, I and T mean its own modules."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", name)
    if name.isidentifier() and not keyword.iskeyword(name) and name not in ("R", "I", "T"):
        return name
    return f"input_{name}"


def _is_static(shape: Iterable[object]) -> bool:
    return all(isinstance(size, int | tvm.tirx.IntImm) for size in shape)


def _has_static_type(kind: relax.Type) -> bool:
    if isinstance(kind, relax.TupleType):
        return all(_has_static_type(field) for field in kind.fields)
    if isinstance(kind, relax.TensorType):
        return isinstance(kind.shape, relax.ShapeExpr) and _is_static(kind.shape.values)
    return True
