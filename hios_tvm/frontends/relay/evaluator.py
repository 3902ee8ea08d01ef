"""Evaluates a Relay program as far as it is known now.

Functions are applied where they are called, tuples and data types taken apart, conditions on
constants decided. Only operators on tensors are left: each becomes a binding of Relax.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import numpy as np
from tvm import relax

from hios_tvm.errors import HiosError, UnsupportedOperatorError
from hios_tvm.frontends.relay import syntax
from hios_tvm.frontends.relay.attributes import Attributes
from hios_tvm.frontends.relay.folding import fold
from hios_tvm.frontends.relay.json_reader import NodeTable
from hios_tvm.frontends.relay.operators.call import OperatorCall
from hios_tvm.frontends.relay.operators.table import OPERATORS
from hios_tvm.frontends.relay.syntax import Position
from hios_tvm.frontends.relay.values import Closure, Data, Operator, Scope, Value, describe
from hios_tvm.frontends.tensors import array_of, constant_of, dtype_of, shape_of
from hios_tvm.schema.dtypes import numpy_dtype

MAX_CALLS_INSIDE_EACH_OTHER = 2000
MAX_OPERATORS = 50_000  # after functions are applied: programs can grow exponentially

Steps: TypeAlias = Generator["Steps", Any, Value]


class Evaluator:
    """Evaluates expressions; nesting of the program is a list here, and not Python's stack."""

    def __init__(self, program: syntax.Program, metadata: NodeTable | None) -> None:
        self.builder = relax.BlockBuilder()
        self._program = program
        self._metadata = metadata
        self._global_scope = Scope()
        self._calls_inside_each_other = 0
        self._operators = 0
        self._rules: dict[type, Callable[[Any, Scope], Steps]] = {
            syntax.Block: self._block,
            syntax.Call: self._call,
            syntax.Conditional: self._conditional,
            syntax.Match: self._match,
            syntax.Projection: self._projection,
            syntax.Tuple: self._tuple,
        }

    def call(self, closure: Closure, arguments: tuple[Value, ...], position: Position) -> Value:
        """Apply a function to values."""
        stack = [self._apply(closure, arguments, position)]
        value: Value | None = None
        while stack:
            try:
                step = stack[-1].send(value)
            except StopIteration as end:
                stack.pop()
                value = end.value
            else:
                stack.append(step)
                value = None
        if value is None:
            raise position.error("the function has no result")
        return value

    def _evaluate(self, expression: syntax.Expression, scope: Scope) -> Steps:
        value = scope.lookup_converted(expression)
        if value is not None:
            return value
        rule = self._rules.get(type(expression))
        value = (yield rule(expression, scope)) if rule else self._leaf(expression, scope)
        scope.converted[id(expression)] = value
        return value

    def _leaf(self, expression: syntax.Expression, scope: Scope) -> Value:
        if isinstance(expression, syntax.Variable):
            return self._variable(expression, scope)
        if isinstance(expression, syntax.Constant):
            return constant_of(expression.value)
        if isinstance(expression, syntax.MetaReference):
            value = self._meta_value(expression)
            if not isinstance(value, syntax.Constant):
                raise expression.position.error(f"a {expression.type_key} is not an expression")
            return constant_of(value.value)
        if isinstance(expression, syntax.Function):
            return Closure(expression, scope)
        if isinstance(expression, syntax.OperatorName):
            if self._program.constructors.get(expression.name) == 0:
                return Data(expression.name, ())
            return Operator(expression.name)
        if isinstance(expression, syntax.GlobalName):
            function = self._program.functions.get(expression.name)
            if function is None:
                raise expression.position.error(f"there is no function @{expression.name}")
            return Closure(function, self._global_scope)
        raise AssertionError(type(expression))

    def _variable(self, variable: syntax.Variable, scope: Scope) -> Value:
        """Look a name up; what `%a.0` means depends on whether there is an `a.0` or an `a`."""
        name, indices = variable.name, []
        value = scope.lookup(name)
        while value is None:
            name, dot, index = name.rpartition(".")
            if not dot or not index.isdecimal():
                raise variable.position.error(f"%{variable.name} is not defined")
            indices.append(int(index))
            value = scope.lookup(name)
        for field in reversed(indices):
            value = _field(value, field, variable.position)
        return value

    def _meta_value(self, reference: syntax.MetaReference) -> syntax.AttributeValue:
        if self._metadata is None:
            raise reference.position.error(
                "the program has no metadata section, so its constants are missing; print it with"
                " astext(show_meta_data=True)"
            )
        return self._metadata.value(self._metadata.metadata(reference))

    def _tuple(self, expression: syntax.Tuple, scope: Scope) -> Steps:
        fields = []
        for field in expression.fields:
            fields.append((yield self._evaluate(field, scope)))
        return tuple(fields)

    def _projection(self, expression: syntax.Projection, scope: Scope) -> Steps:
        value = yield self._evaluate(expression.value, scope)
        return _field(value, expression.index, expression.position)

    def _block(self, block: syntax.Block, scope: Scope) -> Steps:
        scope = Scope(scope)
        for binding in block.bindings:
            if binding.value is None:
                raise binding.position.error("a free variable cannot stand here")
            if isinstance(binding.value, syntax.Function):  # it may call itself
                inner = Scope(scope)
                inner.names[binding.name] = value = Closure(binding.value, inner)
            else:
                value = yield self._evaluate(binding.value, scope)
            if binding.name in scope.names:  # closures keep seeing the value from before
                scope = Scope(scope)
            scope.names[binding.name] = value
        return (yield self._evaluate(block.result, scope))

    def _conditional(self, expression: syntax.Conditional, scope: Scope) -> Steps:
        condition = array_of((yield self._evaluate(expression.condition, scope)))
        if condition is None:
            raise UnsupportedOperatorError(
                f"{expression.position}: `if` on a value that is known only at run time cannot be"
                " imported",
                operators=("if",),
            )
        if condition.size != 1:
            raise expression.position.error("the condition is not a scalar")
        branch = expression.then if condition.reshape(())[()] else expression.otherwise
        return (yield self._evaluate(branch, Scope(scope)))

    def _match(self, expression: syntax.Match, scope: Scope) -> Steps:
        value = yield self._evaluate(expression.value, scope)
        for clause in expression.clauses:
            names = _match(clause.pattern, value)
            if names is not None:
                return (yield self._evaluate(clause.body, Scope(scope, names)))
        raise expression.position.error(f"no clause matches {describe(value)}")

    # --- Calls ---

    def _call(self, call: syntax.Call, scope: Scope) -> Steps:
        function = yield self._evaluate(call.function, scope)
        attributes, expressions = self._call_attributes(call)
        values = []
        for argument in expressions:
            values.append((yield self._evaluate(argument, scope)))
        arguments = tuple(values)
        if isinstance(function, Closure):
            return (yield self._apply(function, arguments, call.position))
        if not isinstance(function, Operator):
            raise call.position.error(f"{describe(function)} cannot be called")
        fields = self._program.constructors.get(function.name)
        if fields is None:
            return self._operator(function.name, arguments, attributes, call.position)
        if fields != len(arguments):
            raise call.position.error(f"{function.name} has {fields} fields")
        return Data(function.name, arguments)

    def _apply(self, closure: Closure, arguments: tuple[Value, ...], position: Position) -> Steps:
        function = closure.function
        if len(function.parameters) != len(arguments):
            raise position.error(
                f"a function of {len(function.parameters)} parameters is called with"
                f" {len(arguments)} arguments"
            )
        if self._calls_inside_each_other == MAX_CALLS_INSIDE_EACH_OTHER:
            raise position.error("the recursion of this function does not end")
        names = {p.name: a for p, a in zip(function.parameters, arguments, strict=True)}
        self._calls_inside_each_other += 1
        value = yield self._evaluate(function.body, Scope(closure.scope, names))
        self._calls_inside_each_other -= 1
        return value

    def _call_attributes(
        self, call: syntax.Call
    ) -> tuple[dict[str, syntax.AttributeValue], tuple[syntax.Expression, ...]]:
        """Attributes by name; they may also be one `meta[relay.attrs...][i]` at the end."""
        attributes = {n: self._attribute(v) for n, v in call.attributes.items()}
        arguments = call.arguments
        last = arguments[-1] if arguments else None
        if isinstance(last, syntax.MetaReference) and last.type_key.startswith("relay.attrs."):
            value = self._meta_value(last)
            attributes.update(value if isinstance(value, dict) else {})
            arguments = arguments[:-1]
        return attributes, arguments

    def _attribute(self, value: syntax.AttributeValue) -> syntax.AttributeValue:
        if isinstance(value, list):
            return [self._attribute(item) for item in value]
        if isinstance(value, syntax.MetaReference):
            return self._meta_value(value)
        return value

    def _operator(
        self,
        name: str,
        arguments: tuple[Value, ...],
        attributes: dict[str, syntax.AttributeValue],
        position: Position,
    ) -> Value:
        self._operators += 1
        if self._operators > MAX_OPERATORS:
            raise position.error(f"the program has more than {MAX_OPERATORS} operators")
        folded = fold(name, arguments, attributes)
        if folded is not None:
            return folded
        call = OperatorCall(
            name=name,
            arguments=arguments,
            attributes=Attributes(name, attributes, position),
            builder=self.builder,
            position=position,
            operator=f"{name} ({position})",
        )
        try:
            result = OPERATORS[name](call)
            if isinstance(result, relax.Expr):
                result = _without_kernel(call.emit(result))
        except HiosError:
            raise
        except Exception as error:  # TVM checks shapes and types, and raises many classes
            found = ", ".join(describe(argument) for argument in arguments)
            reason = re.sub(r".*support_level=\d+\),? ", "", str(error).strip().split("\n")[-1])
            raise call.error(f"cannot be applied to {found} ({reason[:200]})") from error
        call.attributes.check_all_known()
        return result


def _without_kernel(tensor: relax.Expr) -> relax.Expr:
    """Return a tensor, one without elements as a constant: there is nothing to compute."""
    if isinstance(tensor.ty, relax.TensorType) and 0 in shape_of(tensor):
        return constant_of(np.empty(shape_of(tensor), numpy_dtype(dtype_of(tensor))))
    return tensor


def _field(value: Value, index: int, position: Position) -> Value:
    if not isinstance(value, tuple):
        raise position.error(f"{describe(value)} has no fields")
    if not 0 <= index < len(value):
        raise position.error(f"{describe(value)} has no field {index}")
    return value[index]


def _match(pattern: syntax.Pattern, value: Value) -> dict[str, Value] | None:
    """Names that a pattern gives to the parts of a value; None if it does not match."""
    if pattern.variable is not None:
        return {pattern.variable: value}
    if pattern.constructor is not None:
        if not isinstance(value, Data) or value.constructor != pattern.constructor:
            return None
        fields = value.fields
    else:
        fields = value if isinstance(value, tuple) else ()
    if len(fields) != len(pattern.fields):
        return None
    names: dict[str, Value] = {}
    for part, field in zip(pattern.fields, fields, strict=True):
        inner = _match(part, field)
        if inner is None:
            return None
        names.update(inner)
    return names
