"""The text format of Relay: a program's text in, its syntax tree out.

The grammar is in ``relay.lark``. Lark builds the tree while it parses (LALR, no recursion), so
that neither long nor deeply nested programs need stack, and the time is linear in the length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from lark import Lark, Token, Transformer, UnexpectedInput, v_args

from hios_tvm.frontends.relay import syntax
from hios_tvm.frontends.relay.scanner import Source, scan
from hios_tvm.frontends.relay.syntax import Position

SUPPORTED_VERSIONS = ("0.0.4", "0.0.5")

Attribute: TypeAlias = "tuple[str, syntax.AttributeValue, Position]"


def parse_program(text: str) -> tuple[syntax.Program, Source]:
    """Parse a Relay text; the metadata section is returned unread.

    Raises
    ------
    RelayError
        With line and column, if the text is not a Relay program.
    """
    source = scan(text)
    try:
        # Lark calls the tree builder on each reduction, so this is the finished program.
        program: Any = _lark().parse(source.program)
    except UnexpectedInput as error:
        raise _syntax_error(error, source.program) from None
    return program, source


def numpy_dtype(name: str, position: Position) -> np.dtype[Any]:
    """Return the NumPy type of a Relay element type, such as ``float32`` or ``uint1``."""
    if name in ("bool", "uint1"):
        return np.dtype(np.bool_)
    if name == "bfloat16":
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if not re.fullmatch(r"float(16|32|64)|u?int(8|16|32|64)", name):
        raise position.error(f"the element type {name!r} is not supported")
    return np.dtype(name)


@cache
def _lark() -> Lark:
    grammar = resources.files(__package__).joinpath("relay.lark").read_text(encoding="utf-8")
    return Lark(
        grammar, start="program", parser="lalr", lexer="contextual", transformer=_TreeBuilder()
    )


def _syntax_error(error: UnexpectedInput, program: str) -> Exception:
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        lines = program.rstrip().split("\n")
        return Position(len(lines), len(lines[-1]) + 1).error("the program ends too early")
    line, column = int(error.line), int(error.column)
    text = program.split("\n")[line - 1][column - 1 : column + 29].strip()
    return Position(line, column).error(f"this is not Relay: {text!r}")


_MAX_DIGITS = 20  # of whole numbers: those of 64 bits have no more


def _at(token: Token) -> Position:
    return Position(token.line, token.column)


def _string(token: Token) -> str:
    escapes = {"n": "\n", "t": "\t"}
    return re.sub(r"\\(.)", lambda m: escapes.get(m[1], m[1]), token[1:-1], flags=re.DOTALL)


def _number(token: Token) -> tuple[float, str]:
    """Value and element type of a literal such as ``-2e-05f`` or ``3i64``."""
    digits = token.lstrip("-")
    sign = -1 if (len(token) - len(digits)) % 2 else 1
    suffix = re.fullmatch(r"(inf|nan|[\d.]+(?:[eE][+-]?\d+)?)([fiu]?)(\d*)", digits)
    if suffix is None:
        raise _at(token).error(f"{str(token)!r} is not a number")
    value, kind, width = suffix.groups()
    if token.type == "INT":
        dtype = {"": "int", "i": "int", "u": "uint"}[kind] + (width or "32")
        if len(value) > _MAX_DIGITS:
            raise _at(token).error(f"a number of {len(value)} digits is too large")
        return sign * int(value), dtype
    return sign * float(value), "float" + (width or "32")


def _integer(token: Token) -> int:
    return int(_number(token)[0])


def _array(token: Token) -> np.ndarray:
    value, dtype = _number(token)
    if dtype == "int32" and not -(2**31) <= value < 2**31:
        dtype = "int64"  # as Relay reads numbers without a suffix
    element = numpy_dtype(dtype, _at(token))
    if element.kind in "iu" and not np.iinfo(element).min <= value <= np.iinfo(element).max:
        raise _at(token).error(f"{token} is out of the range of {dtype}")
    with np.errstate(over="ignore"):
        return np.array(value, element)


def _attributes(items: list[Attribute]) -> Mapping[str, syntax.AttributeValue]:
    values: dict[str, syntax.AttributeValue] = {}
    for name, value, position in items:
        if name in values:
            raise position.error(f"the attribute {name!r} is given twice")
        values[name] = value
    return values


def _infix(name: str) -> Any:
    def build(_: _TreeBuilder, left: Any, right: Any) -> syntax.Call:
        operator = syntax.OperatorName(name, left.position)
        return syntax.Call(operator, (left, right), {}, left.position)

    return v_args(inline=True)(build)


def _main_of(expression: syntax.Expression) -> syntax.Function:
    """The text of a function or an expression instead of a module: free variables are inputs."""
    if isinstance(expression, syntax.Function):
        return expression
    bindings = expression.bindings if isinstance(expression, syntax.Block) else ()
    inputs = tuple(syntax.Parameter(b.name, b.type, b.position) for b in bindings if not b.value)
    if isinstance(expression, syntax.Block):
        bound = tuple(binding for binding in bindings if binding.value)
        expression = syntax.Block(bound, expression.result, expression.position)
    return syntax.Function(inputs, expression, expression.position)


class _TreeBuilder(Transformer[Token, Any]):
    """One method for each rule of the grammar; `children` are what the rule's parts gave."""

    def ignored(self, children: list[Any]) -> None:
        return None

    external_function = ignored  # a call of it is reported as an unknown function
    virtual_device = ignored  # devices are chosen anew
    extern_type = type_parameters = ignored

    def listed(self, children: list[Any]) -> list[Any]:
        return children

    arguments = list_value = types = listed

    # --- Definitions ---

    def program(self, children: list[Any]) -> syntax.Program:
        result = children[-1]
        if isinstance(result, syntax.Program):
            return result
        return syntax.Program({"main": _main_of(result)})

    def version(self, children: list[Token]) -> None:
        (token,) = children
        version = _string(token) if token.type == "STRING" else token[1:]
        if version not in SUPPORTED_VERSIONS:
            known = " and ".join(SUPPORTED_VERSIONS)
            raise _at(token).error(f"text format {version!r}; versions {known} can be read")

    def definitions(self, children: list[Any]) -> syntax.Program:
        functions: dict[str, syntax.Function] = {}
        constructors: dict[str, int] = {}
        for definition in children:
            if isinstance(definition, dict):
                constructors.update(definition)
            elif definition is not None:
                name, function = definition
                if name in functions:
                    raise function.position.error(f"@{name} is defined twice")
                functions[name] = function
        return syntax.Program(functions, constructors)

    def global_function(self, children: list[Any]) -> tuple[str, syntax.Function]:
        return children[0][1:], children[1]

    def type_definition(self, children: list[Any]) -> dict[str, int]:
        return children[-1] if isinstance(children[-1], dict) else {}

    def constructors(self, children: list[tuple[str, int]]) -> dict[str, int]:
        return dict(children)

    def constructor(self, children: list[Any]) -> tuple[str, int]:
        return str(children[0]), len(children[1]) if len(children) > 1 else 0

    def function(self, children: list[Any]) -> syntax.Function:
        body = children[-1]
        parameters = next((c for c in children if isinstance(c, tuple)), ())
        return syntax.Function(parameters, body, body.position)

    def parameters(self, children: list[Any]) -> tuple[syntax.Parameter, ...]:
        return tuple(child for child in children if isinstance(child, syntax.Parameter))

    def parameter(self, children: list[Any]) -> syntax.Parameter:
        return syntax.Parameter(children[0][1:], _type_in(children), _at(children[0]))

    # --- Expressions ---

    def block(self, children: list[Any]) -> syntax.Expression:
        result: syntax.Expression = children[-1]
        bindings = tuple(children[:-1])
        return syntax.Block(bindings, result, bindings[0].position) if bindings else result

    def let(self, children: list[Any]) -> syntax.Binding:
        name = children[0]
        return syntax.Binding(name[1:], children[-1], _type_in(children), _at(name))

    def free_variable(self, children: list[Any]) -> syntax.Binding:
        return syntax.Binding(children[0][1:], None, _type_in(children), _at(children[0]))

    less = _infix("less")
    greater = _infix("greater")
    less_equal = _infix("less_equal")
    greater_equal = _infix("greater_equal")
    equal = _infix("equal")
    not_equal = _infix("not_equal")
    add = _infix("add")
    subtract = _infix("subtract")
    multiply = _infix("multiply")
    divide = _infix("divide")

    def call(self, children: list[Any]) -> syntax.Call:
        function = children[0]
        parts = children[1] if len(children) > 1 else []
        arguments = tuple(part for part in parts if not isinstance(part, tuple))
        attributes = _attributes([part for part in parts if isinstance(part, tuple)])
        return syntax.Call(function, arguments, attributes, function.position)

    def projection(self, children: list[Any]) -> syntax.Projection:
        return syntax.Projection(children[0], _integer(children[1]), children[0].position)

    def variable(self, children: list[Token]) -> syntax.Variable:
        return syntax.Variable(children[0][1:], _at(children[0]))

    def global_name(self, children: list[Token]) -> syntax.GlobalName:
        return syntax.GlobalName(children[0][1:], _at(children[0]))

    def operator(self, children: list[Token]) -> syntax.OperatorName:
        return syntax.OperatorName(str(children[0]), _at(children[0]))

    def meta(self, children: list[Token]) -> syntax.MetaReference:
        type_key, index = re.findall(r"\[([^\]]+)\]", children[0])
        if len(index) > _MAX_DIGITS:
            raise _at(children[0]).error(f"no constant has an index of {len(index)} digits")
        return syntax.MetaReference(type_key, int(index), _at(children[0]))

    def integer_constant(self, children: list[Token]) -> syntax.Constant:
        return syntax.Constant(_array(children[0]), _at(children[0]))

    float_constant = integer_constant

    def bool_constant(self, children: list[Token]) -> syntax.Constant:
        return syntax.Constant(np.array(children[0] == "True"), _at(children[0]))

    def unit(self, children: list[Token]) -> syntax.Tuple:
        return syntax.Tuple((), _at(children[0]))

    def tuple_expression(self, children: list[Any]) -> syntax.Tuple:
        return syntax.Tuple(tuple(children), children[0].position)

    def closure(self, children: list[syntax.Function]) -> syntax.Function:
        return children[0]

    def conditional(self, children: list[Any]) -> syntax.Conditional:
        condition, then, otherwise = children
        return syntax.Conditional(condition, then, otherwise, condition.position)

    def match_expression(self, children: list[Any]) -> syntax.Match:
        parts = [child for child in children if not isinstance(child, Token)]
        clauses = parts[1] if len(parts) > 1 else ()
        return syntax.Match(parts[0], clauses, parts[0].position)

    def clauses(self, children: list[syntax.Clause]) -> tuple[syntax.Clause, ...]:
        return tuple(children)

    def clause(self, children: list[Any]) -> syntax.Clause:
        return syntax.Clause(*children)

    def pattern_variable(self, children: list[Any]) -> syntax.Pattern:
        return syntax.Pattern(variable=children[0][1:])

    def pattern_constructor(self, children: list[Any]) -> syntax.Pattern:
        name, *fields = children
        if name == "_":
            return syntax.Pattern(variable="_")
        return syntax.Pattern(constructor=str(name), fields=tuple(fields))

    def pattern_tuple(self, children: list[Any]) -> syntax.Pattern:
        return syntax.Pattern(fields=tuple(children))

    # --- Attributes ---

    def attributes(self, children: list[Attribute]) -> Mapping[str, syntax.AttributeValue]:
        return _attributes(children)

    def attribute(self, children: list[Any]) -> Attribute:
        name, value = children
        return str(name), value, _at(name)

    def integer_value(self, children: list[Token]) -> int:
        return _integer(children[0])

    def float_value(self, children: list[Token]) -> float:
        return float(_number(children[0])[0])

    def bool_value(self, children: list[Token]) -> bool:
        return str(children[0]) == "True"

    def string_value(self, children: list[Token]) -> str:
        return _string(children[0])

    def name_value(self, children: list[Token]) -> str | None:
        return None if children[0] in ("None", "nullptr") else str(children[0])

    def map_value(self, children: list[Any]) -> Mapping[str, syntax.AttributeValue]:
        return children[0] if children else {}

    # --- Types ---

    def tensor_type(self, children: list[Any]) -> syntax.TensorType:
        shape, dtype = children
        return syntax.TensorType(shape, str(numpy_dtype(dtype, _at(dtype))))

    def named_type(self, children: list[Token]) -> syntax.Type:
        if re.fullmatch(r"bool|(float|bfloat|int|uint)\d+", children[0]):
            return syntax.TensorType((), str(numpy_dtype(children[0], _at(children[0]))))
        return syntax.OtherType()

    def other_type(self, children: list[Any]) -> syntax.OtherType:
        return syntax.OtherType()

    def tuple_type(self, children: list[Any]) -> syntax.TupleType:
        return syntax.TupleType(tuple(children[0]) if children else ())

    def shape(self, children: list[Token]) -> tuple[int | None, ...]:
        for child in children:
            if child.type == "INT" and _integer(child) < 0:
                raise _at(child).error(f"{child} is not a dimension")
        return tuple(_integer(c) if c.type == "INT" else None for c in children)


def _type_in(children: list[Any]) -> syntax.Type | None:
    kinds = (syntax.TensorType, syntax.TupleType, syntax.OtherType)
    return next((child for child in children if isinstance(child, kinds)), None)
