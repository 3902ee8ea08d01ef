"""The syntax tree of a Relay program in, a Relax module out.

What is left of the program after evaluation are operators on tensors of static shapes, which are
the bindings of one dataflow block.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

from hios_tvm.errors import DynamicShapeError, HiosError, UnsupportedOperatorError
from hios_tvm.frontends.relay import syntax
from hios_tvm.frontends.relay.evaluator import Evaluator
from hios_tvm.frontends.relay.json_reader import NodeTable
from hios_tvm.frontends.relay.operators.table import OPERATORS
from hios_tvm.frontends.relay.syntax import Position
from hios_tvm.frontends.relay.values import Closure, Scope, Value, describe, tensors_in
from hios_tvm.frontends.tensors import constant_of

MAX_INPUT_ELEMENTS = 1 << 40


def convert_program(
    program: syntax.Program, params: Mapping[str, np.ndarray], metadata: NodeTable | None = None
) -> tvm.IRModule:
    """Convert a Relay program; `params` become constants, all other parameters are inputs.

    Raises
    ------
    UnsupportedOperatorError
        With all operators that cannot be imported, and where each is used.
    DynamicShapeError
        If an input has a dimension without a value.
    RelayError
        If the program breaks a rule of Relay.
    """
    main = _main_function(program)
    _check_operators(program, main)
    evaluator = Evaluator(program, metadata)
    inputs, arguments = _bind_parameters(main, params)
    failure: HiosError | None = None
    result: list[relax.Expr] = []
    names: list[str] = []
    builder = evaluator.builder
    with builder.function("main", list(inputs.values())):
        with builder.dataflow():
            try:
                value = evaluator.call(Closure(main, Scope()), arguments, main.position)
                result, names = _outputs(value, main.position)
            except HiosError as error:
                failure = error  # raised when the builder has left its blocks in order
            single = names == ["output"]
            output = builder.emit_output(result[0] if single else relax.Tuple(result))
        builder.emit_func_output(output)
    if failure is not None:
        raise failure
    mod = builder.get()
    attributes = {"input_names": list(inputs), "output_names": names}
    mod["main"] = mod["main"].with_attrs(attributes)
    return relax.transform.DeadCodeElimination()(mod)


def _main_function(program: syntax.Program) -> syntax.Function:
    functions = program.functions
    if "main" in functions:
        return functions["main"]
    if len(functions) == 1:
        return next(iter(functions.values()))
    found = ", ".join(f"@{name}" for name in functions) or "no function"
    raise Position().error(f"the program has {found}, and not the function @main")


# --- Parameters and results ---


def _bind_parameters(
    main: syntax.Function, params: Mapping[str, np.ndarray]
) -> tuple[dict[str, relax.Var], tuple[Value, ...]]:
    """Return the inputs by their names in the program, and a value for each parameter."""
    inputs: dict[str, relax.Var] = {}
    dynamic: list[str] = []

    def value_of(name: str, type_: syntax.Type | None, position: Position) -> Value:
        given = _given(name, params)
        if given is not None:
            return _parameter_constant(name, given, type_, position)
        if isinstance(type_, syntax.TupleType):
            return tuple(
                value_of(f"{name}.{i}", field, position) for i, field in enumerate(type_.fields)
            )
        if not isinstance(type_, syntax.TensorType):
            raise position.error(f"the input %{name} must have the type of a tensor")
        if name in inputs:
            raise position.error(f"there are two inputs %{name}")
        unknown = [i for i, dimension in enumerate(type_.shape) if dimension is None]
        dynamic.extend(f"{name}: {i}" for i in unknown)
        shape = [dimension or 0 for dimension in type_.shape]
        if 0 in type_.shape:
            raise position.error(f"the input %{name} has the shape {shape}, so it has no elements")
        if math.prod(max(size, 1) for size in shape) > MAX_INPUT_ELEMENTS:
            raise position.error(f"the input %{name} cannot have the shape {shape}")
        inputs[name] = relax.Var(name, relax.TensorType(shape, type_.dtype))
        return inputs[name]

    if params and not any(_given(p.name, params) is not None for p in main.parameters):
        raise main.position.error(
            f"none of the {len(params)} parameters that are given ({next(iter(params))!r}, ...) is"
            " a parameter of @main"
        )
    values = tuple(value_of(p.name, p.type, p.position) for p in main.parameters)
    if dynamic:
        raise DynamicShapeError(
            f"dimensions without a value (input: axis): {', '.join(dynamic)}; print the program"
            " after giving its inputs static shapes",
            dimensions=tuple(dynamic),
        )
    return inputs, values


def _given(name: str, params: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The value of a parameter; Relay printed a `v` before names that start with no letter."""
    if name not in params and name.startswith("v") and not name[1:2].isalpha():
        name = name[1:]
    return params.get(name)


def _parameter_constant(
    name: str, array: np.ndarray, type_: syntax.Type | None, position: Position
) -> GenericConst:
    if isinstance(type_, syntax.TensorType):
        fits = len(type_.shape) == array.ndim and all(
            want in (None, have) for want, have in zip(type_.shape, array.shape, strict=True)
        )
        if not fits or str(array.dtype) != type_.dtype:
            shape = [dimension if dimension is not None else "?" for dimension in type_.shape]
            raise position.error(
                f"the parameter %{name} is {type_.dtype}{shape}, and the value given for it"
                f" {array.dtype}{list(array.shape)}"
            )
    return constant_of(array)


def _outputs(value: Value, position: Position) -> tuple[list[relax.Expr], list[str]]:
    tensors = tensors_in(value)
    if tensors is None:
        raise position.error(f"the result of the program is {describe(value)}, and not a tensor")
    if not isinstance(value, tuple):
        return tensors, ["output"]
    if not tensors:
        raise position.error("the program has no result")
    return tensors, [f"output_{i}" for i in range(len(tensors))]


# --- Operators that cannot be imported ---


def _check_operators(program: syntax.Program, main: syntax.Function) -> None:
    """Raise one error with all unknown operators of all functions that `main` reaches."""
    places: dict[str, list[Position]] = {}
    for operator in _operators_in(program, main):
        if operator.name not in OPERATORS and operator.name not in program.constructors:
            places.setdefault(operator.name, []).append(operator.position)
    if places:
        described = "; ".join(
            f"{name} ({', '.join(str(position) for position in dict.fromkeys(positions))})"
            for name, positions in places.items()
        )
        raise UnsupportedOperatorError(
            f"no import for the Relay operators {described}", operators=tuple(places)
        )


def _operators_in(program: syntax.Program, main: syntax.Function) -> Iterator[syntax.OperatorName]:
    seen: set[int] = set()
    rest: list[syntax.Expression] = [main]
    while rest:
        expression = rest.pop()
        if id(expression) in seen:
            continue
        seen.add(id(expression))
        if isinstance(expression, syntax.OperatorName):
            yield expression
        elif isinstance(expression, syntax.GlobalName):
            if expression.name in program.functions:
                rest.append(program.functions[expression.name])
        else:
            rest.extend(reversed(list(syntax.children(expression))))
