"""What an expression of a Relay program stands for while it is converted.

Functions, tuples and data types exist only now: the converter applies, takes apart and matches
them, so that nothing but operators on tensors reaches Relax.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from tvm import relax

from hios_tvm.frontends.relay import syntax
from hios_tvm.frontends.tensors import dtype_of, shape_of


@dataclass(frozen=True, slots=True, eq=False)
class Closure:
    function: syntax.Function
    scope: Scope


@dataclass(frozen=True, slots=True)
class Operator:
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A constructor applied to its fields."""

    constructor: str
    fields: tuple[Value, ...]


Value: TypeAlias = "relax.Expr | tuple[Value, ...] | Closure | Operator | Data"


@dataclass(slots=True, eq=False)
class Scope:
    """Names and already converted expressions, with those of the scopes around."""

    parent: Scope | None = None
    names: dict[str, Value] = field(default_factory=dict)
    converted: dict[int, Value] = field(default_factory=dict)  # by the identity of expressions

    def chain(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def lookup(self, name: str) -> Value | None:
        return next((scope.names[name] for scope in self.chain() if name in scope.names), None)

    def lookup_converted(self, expression: syntax.Expression) -> Value | None:
        key = id(expression)
        return next((s.converted[key] for s in self.chain() if key in s.converted), None)


def tensors_in(value: Value) -> list[relax.Expr] | None:
    """All tensors of a value in order, without its tuples; None where it has other parts."""
    found: list[relax.Expr] = []
    rest: list[Value] = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, tuple):
            rest.extend(reversed(part))
        elif isinstance(part, relax.Expr):
            found.append(part)
        else:
            return None
    return found


def describe(value: Value) -> str:
    """Say in a few words what a value is, for messages."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, Closure):
        return "a function"
    if isinstance(value, Operator):
        return f"the operator {value.name}"
    if isinstance(value, Data):
        return f"{value.constructor} of a data type"
    return f"a tensor of {dtype_of(value)} with shape {list(shape_of(value))}"
