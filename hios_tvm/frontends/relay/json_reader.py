"""The JSON format of Relay: TVM's node table, as `tvm.ir.save_json` wrote it.

A table is a list of nodes that refer to each other by index. The same format holds the metadata
section of the text format. Tensors are in a list of their own, in base64.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hios_tvm.errors import ModelError
from hios_tvm.frontends.params import read_tensor
from hios_tvm.frontends.relay import syntax
from hios_tvm.frontends.relay.json_fields import is_reference
from hios_tvm.frontends.relay.parser import numpy_dtype
from hios_tvm.frontends.relay.syntax import Position
from hios_tvm.schema.strict_json import check_characters

MAX_NESTING = 100  # of plain data, such as lists in attributes


def parse_json_program(text: str) -> syntax.Program:
    """Read a module or function that `tvm.ir.save_json` wrote.

    Raises
    ------
    RelayError
        If the text is not JSON, or its nodes are not those of a Relay program.
    """
    table = NodeTable(text)
    return _ProgramReader(table).program()


class NodeTable:
    """The nodes of one JSON text; `line` is where the text starts in its file."""

    def __init__(self, text: str, line: int = 1) -> None:
        try:
            content = json.loads(text)
            check_characters(text, content)
        except json.JSONDecodeError as error:
            position = Position(line + error.lineno - 1, error.colno)
            raise position.error(f"this is not JSON: {error.msg}") from None
        except (RecursionError, ValueError) as error:
            raise Position(line, 1).error(f"this JSON cannot be read: {error}") from None
        self._position = Position(line, 1)
        if not isinstance(content, dict) or not isinstance(content.get("nodes"), list):
            raise self._position.error("this JSON is not a node table of TVM")
        self._nodes: list[Any] = content["nodes"]
        tensors = content.get("b64ndarrays", [])
        self._tensors: list[Any] = tensors if isinstance(tensors, list) else []
        self.root = self.index(content.get("root"), self._position)

    def index(self, value: object, position: Position) -> int:
        """Check that `value`, a number or its decimal text, is the index of a node."""
        text = str(value)
        if not (text.isascii() and text.isdigit()) or int(text[:20]) >= len(self._nodes):
            raise position.error(f"{text[:20]!r} is not a node of this table")
        return int(text)

    def type_key(self, index: int) -> str:
        return str(self._node(index)["type_key"])

    def field(self, index: int, *names: str) -> str:
        """A field of a node as text, under the first of `names` that it has."""
        attributes = self._attributes(index)
        for name in names:
            if isinstance(attributes.get(name), str):
                return str(attributes[name])
        raise Position(node=index).error(f"{self.type_key(index)} has no field {names[0]!r}")

    def child(self, index: int, *names: str) -> int:
        return self.index(self.field(index, *names), Position(node=index))

    def items(self, index: int) -> list[int]:
        """The nodes that an array or a map with keys that are nodes lists."""
        data = self._node(index).get("data", [])
        if not isinstance(data, list):
            raise Position(node=index).error(f"{self.type_key(index)} is not a list")
        return [self.index(item, Position(node=index)) for item in data]

    def text(self, index: int) -> str:
        node = self._node(index)
        for name in ("repr_str", "global_key"):
            if isinstance(node.get(name), str):
                return str(node[name])
        value = self._attributes(index).get("value", "")
        return value if isinstance(value, str) else ""

    def tensor(self, index: int) -> np.ndarray:
        """The value of a `relay.Constant`."""
        position = Position(node=index)
        number = self.field(index, "data")
        if not number.isdecimal() or int(number[:20]) >= len(self._tensors):
            raise position.error(f"there is no tensor {number[:20]!r}")
        try:
            data = base64.b64decode(self._tensors[int(number)], validate=True)
            return read_tensor(data)[0]
        except (binascii.Error, TypeError, ValueError, ModelError) as error:
            raise position.error(f"the tensor is damaged: {error}") from error

    def attributes(self, index: int) -> dict[str, syntax.AttributeValue]:
        """The fields of an attributes node, or of the null node."""
        key = self.type_key(index)
        if key == "":
            return {}
        fields = self._attributes(index)
        return {
            name: self._field_value(key, name, value, Position(node=index))
            for name, value in fields.items()
        }

    def value(self, index: int, nesting: int = 0) -> syntax.AttributeValue:
        """A node of plain data as a Python value."""
        if nesting > MAX_NESTING:
            raise Position(node=index).error("lists are nested too deeply")
        match self.type_key(index):
            case "":
                return None
            case "IntImm" | "FloatImm" | "runtime.BoxInt" | "runtime.BoxFloat" | "runtime.BoxBool":
                return _literal(self.text(index))
            case "runtime.String" | "StringImm" | "tir.StringImm":
                return self.text(index)
            case "Array":
                return [self.value(item, nesting + 1) for item in self.items(index)]
            case "relay.Constant":
                return syntax.Constant(self.tensor(index), Position(node=index))
            case "tir.Any" | "Any":
                return None
            case key if key.startswith("relay.attrs."):
                return self.attributes(index)
            case key:
                raise Position(node=index).error(f"{key} cannot be an attribute")

    def metadata(self, reference: syntax.MetaReference) -> int:
        """The node that `meta[type_key][index]` stands for, in a metadata section."""
        keys = self._node(self.root).get("keys", [])
        lists = self.items(self.root)
        if isinstance(keys, list) and reference.type_key in keys[: len(lists)]:
            entries = self.items(lists[keys.index(reference.type_key)])
            if reference.index < len(entries):
                return entries[reference.index]
        raise reference.position.error(
            f"meta[{reference.type_key}][{reference.index}] is not in the metadata section"
        )

    def _attributes(self, index: int) -> Mapping[str, Any]:
        attributes = self._node(index).get("attrs", {})
        return attributes if isinstance(attributes, dict) else {}

    def _node(self, index: int) -> Mapping[str, Any]:
        node = self._nodes[index]
        if not isinstance(node, dict) or not isinstance(node.get("type_key"), str):
            raise Position(node=index).error("this is not a node of TVM")
        return node

    def _field_value(
        self, key: str, name: str, value: object, position: Position
    ) -> syntax.AttributeValue:
        text = str(value)
        if is_reference(key, name, text):
            return self.value(self.index(text, position))
        return _literal(text)


class _ProgramReader:
    """Turns the nodes of a program into syntax trees; a node used twice becomes one object."""

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self._names: dict[int, str] = {}  # of variables; unique, unlike their hints
        self._repeats: dict[str, int] = {}  # how often a name was given again
        self._done: dict[int, syntax.Expression] = {}

    def program(self) -> syntax.Program:
        root = self._table.root
        functions = dict(self._functions(root))
        for name in sorted(functions, key=lambda name: name != "main"):
            for parameter in self._table.items(self._table.child(functions[name], "params")):
                self._name(parameter)
        trees = {name: self._function(index) for name, index in functions.items()}
        return syntax.Program(trees)

    def _functions(self, root: int) -> Iterator[tuple[str, int]]:
        table = self._table
        match table.type_key(root):
            case "relay.Function":
                yield "main", root
            case "IRModule" | "relay.Module":
                data = table.items(table.child(root, "functions"))
                for name, function in zip(data[::2], data[1::2], strict=False):
                    if table.type_key(function) == "relay.Function":
                        yield table.text(table.child(name, "name_hint")), function
            case key:
                raise Position(node=root).error(f"{key or 'nothing'} is not a Relay program")

    def _function(self, index: int) -> syntax.Function:
        function = self._expression(index)
        if not isinstance(function, syntax.Function):
            raise Position(node=index).error("this is not a function")
        return function

    def _expression(self, root: int) -> syntax.Expression:
        stack = [root]
        entered: set[int] = set()
        while stack:
            index = stack[-1]
            if index in self._done:
                stack.pop()
                continue
            missing = [child for child in self._children(index) if child not in self._done]
            if not missing:
                self._done[index] = self._build(index)
                entered.discard(index)
                stack.pop()
            elif index in entered:
                raise Position(node=index).error("this node is a part of itself")
            else:
                entered.add(index)
                stack.extend(reversed(missing))
        return self._done[root]

    def _children(self, index: int) -> list[int]:
        table = self._table
        match table.type_key(index):
            case "relay.Call":
                arguments = table.items(table.child(index, "args"))
                return [table.child(index, "op"), *arguments]
            case "relay.Tuple":
                return table.items(table.child(index, "fields"))
            case "relay.TupleGetItem":
                return [table.child(index, "tuple_value", "tuple")]
            case "relay.Let":
                bindings, result = self._let_chain(index)
                return [*(table.child(let, "value") for let in bindings), result]
            case "relay.If":
                names = ("cond", "true_branch", "false_branch")
                return [table.child(index, name) for name in names]
            case "relay.Function":
                return [table.child(index, "body")]
        return []

    def _let_chain(self, index: int) -> tuple[list[int], int]:
        chain: dict[int, None] = {}
        while self._table.type_key(index) == "relay.Let":
            if index in chain:
                raise Position(node=index).error("this node is a part of itself")
            chain[index] = None
            index = self._table.child(index, "body")
        return list(chain), index

    def _build(self, index: int) -> syntax.Expression:
        table, position = self._table, Position(node=index)
        children = [self._done[child] for child in self._children(index)]
        match table.type_key(index):
            case "relay.Constant":
                return syntax.Constant(table.tensor(index), position)
            case "relay.Var":
                return syntax.Variable(self._name(index), position)
            case "relay.GlobalVar" | "GlobalVar":
                return syntax.GlobalName(table.text(table.child(index, "name_hint")), position)
            case "Op" | "relay.Op":
                return syntax.OperatorName(table.text(index), position)
            case "relay.Call":
                attributes = table.attributes(table.child(index, "attrs"))
                return syntax.Call(children[0], tuple(children[1:]), attributes, position)
            case "relay.Tuple":
                return syntax.Tuple(tuple(children), position)
            case "relay.TupleGetItem":
                number = _literal(table.field(index, "index"))
                if not isinstance(number, int):
                    raise position.error(f"{number!r} is not the index of a field")
                return syntax.Projection(children[0], number, position)
            case "relay.Let":
                return self._block(index, children)
            case "relay.If":
                return syntax.Conditional(children[0], children[1], children[2], position)
            case "relay.Function":
                parameters = table.items(table.child(index, "params"))
                return syntax.Function(
                    tuple(self._parameter(p) for p in parameters), children[0], position
                )
            case key:
                raise position.error(f"{key or 'nothing'} cannot be used in an expression")

    def _block(self, index: int, children: list[syntax.Expression]) -> syntax.Block:
        chain, _ = self._let_chain(index)
        bindings = (
            syntax.Binding(self._name(self._table.child(let, "var")), value, None, value.position)
            for let, value in zip(chain, children[:-1], strict=True)
        )
        return syntax.Block(tuple(bindings), children[-1], Position(node=index))

    def _parameter(self, index: int) -> syntax.Parameter:
        type_ = self._type(self._table.child(index, "type_annotation"))
        return syntax.Parameter(self._name(index), type_, Position(node=index))

    def _name(self, index: int) -> str:
        if index not in self._names:
            table = self._table
            if table.type_key(index) != "relay.Var":
                raise Position(node=index).error("this is not a variable")
            hint = table.text(table.child(table.child(index, "vid"), "name_hint"))
            self._names[index] = self._unique(hint or "v")
        return self._names[index]

    def _unique(self, hint: str) -> str:
        """Number names as Relay's printer does: `data`, `data1`, `data2`."""
        name = hint
        while name in self._repeats:
            self._repeats[hint] += 1
            name = f"{hint}{self._repeats[hint]}"
        self._repeats[name] = 0
        return name

    def _type(self, index: int, nesting: int = 0) -> syntax.Type | None:
        table = self._table
        if nesting > MAX_NESTING:
            raise Position(node=index).error("types are nested too deeply")
        match table.type_key(index):
            case "":
                return None
            case "relay.TensorType":
                shape = table.value(table.child(index, "shape"))
                if not isinstance(shape, list):
                    raise Position(node=index).error("a tensor's shape is not a list")
                dims = tuple(int(d) if isinstance(d, int) and d >= 0 else None for d in shape)
                dtype = numpy_dtype(table.field(index, "dtype"), Position(node=index))
                return syntax.TensorType(dims, str(dtype))
            case "TupleType" | "relay.TupleType":
                fields = [
                    self._type(field, nesting + 1)
                    for field in table.items(table.child(index, "fields"))
                ]
                return syntax.TupleType(tuple(f or syntax.OtherType() for f in fields))
        return syntax.OtherType()


def _literal(text: str) -> syntax.AttributeValue:
    """A scalar as TVM writes it: a number where it is one, else the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
