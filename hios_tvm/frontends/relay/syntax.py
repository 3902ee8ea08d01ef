"""The syntax tree of a Relay program.

The text parser and the JSON reader both produce it. In the text each expression is written once;
in JSON a node that several expressions use is one object here, so that sharing survives.
Nodes compare by identity: a deep tree has no recursive `==`, `hash` or `repr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from hios_tvm.errors import RelayError


@dataclass(frozen=True, slots=True)
class Position:
    """Where something stands: line and column of a text, or a node of the JSON table."""

    line: int | None = None
    column: int | None = None
    node: int | None = None

    def __str__(self) -> str:
        if self.line is not None:
            return f"line {self.line}, column {self.column}"
        return "the program" if self.node is None else f"node {self.node}"

    def error(self, message: str) -> RelayError:
        return RelayError(f"{self}: {message}", line=self.line, column=self.column)


# --- Types ---


@dataclass(frozen=True, slots=True)
class TensorType:
    shape: tuple[int | None, ...]  # None: known only at run time
    dtype: str


@dataclass(frozen=True, slots=True)
class TupleType:
    fields: tuple[Type, ...]


@dataclass(frozen=True, slots=True)
class OtherType:
    """A function, a data type or a type variable: values follow from the program itself."""


Type: TypeAlias = TensorType | TupleType | OtherType


# --- Expressions ---


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    value: np.ndarray
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class MetaReference:
    """`meta[type_key][index]`: a node of the metadata section."""

    type_key: str
    index: int
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    name: str
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class GlobalName:
    name: str
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class OperatorName:
    """An operator, or a constructor of a data type."""

    name: str
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class Tuple:
    fields: tuple[Expression, ...]
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    value: Expression
    index: int
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    function: Expression
    arguments: tuple[Expression, ...]
    attributes: Mapping[str, AttributeValue]
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    name: str
    type: Type | None
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    parameters: tuple[Parameter, ...]
    body: Expression
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """`let name = value;`; without a value, a free variable: an input of the program."""

    name: str
    value: Expression | None
    type: Type | None
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Bindings one after another, then the result."""

    bindings: tuple[Binding, ...]
    result: Expression
    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class Conditional:
    condition: Expression
    then: Expression
    otherwise: Expression
    position: Position


@dataclass(frozen=True, slots=True)
class Pattern:
    """A variable, a constructor with fields, or (neither name) a tuple; `_` is a variable."""

    variable: str | None = None
    constructor: str | None = None
    fields: tuple[Pattern, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Clause:
    pattern: Pattern
    body: Expression


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    value: Expression
    clauses: tuple[Clause, ...]
    position: Position


Expression: TypeAlias = (
    Constant
    | MetaReference
    | Variable
    | GlobalName
    | OperatorName
    | Tuple
    | Projection
    | Call
    | Function
    | Block
    | Conditional
    | Match
)


def children(expression: Expression) -> tuple[Expression, ...]:
    """The expressions that an expression consists of."""
    match expression:
        case Tuple(fields=fields):
            return fields
        case Projection(value=value):
            return (value,)
        case Call(function=function, arguments=arguments):
            return (function, *arguments)
        case Function(body=body):
            return (body,)
        case Block(bindings=bindings, result=result):
            return (*(binding.value for binding in bindings if binding.value), result)
        case Conditional(condition=condition, then=then, otherwise=otherwise):
            return (condition, then, otherwise)
        case Match(value=value, clauses=clauses):
            return (value, *(clause.body for clause in clauses))
    return ()


# Literals and lists as Python values; constants that an attribute refers to as arrays.
AttributeValue: TypeAlias = object


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Functions by name, and the constructors of all data types with their number of fields."""

    functions: Mapping[str, Function]
    constructors: Mapping[str, int] = field(default_factory=dict)
