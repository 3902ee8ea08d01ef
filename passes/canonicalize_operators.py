"""A pass that gives operators their names and turns weights into parameters.

It runs after lowering: `main` is one dataflow block of `R.call_tir` bindings, tuple projections and
the output tuple. Everything that follows (the operator graph, schedules, programs) refers to
operators by the names given here.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule

from hios_tvm.errors import CompileError
from hios_tvm.passes.dataflow import bindings

NUM_INPUT = "num_input"

ConstantNames = Mapping[GenericConst, str]


def name_constants(
    mod: IRModule, known: ConstantNames = MappingProxyType({})
) -> dict[GenericConst, str]:
    """Return a name for each distinct constant of `main`: the `known` one, or a new number."""
    names: dict[GenericConst, str] = {}
    for constant in _constants(mod["main"]):
        names[constant] = known.get(constant) or f"weight_{len(names.keys() | known.keys())}"
    return names


def collect_weights(mod: IRModule) -> dict[str, np.ndarray]:
    """Return the constants of `main` under the names that `CanonicalizeOperators` gives them."""
    return {name: constant.value.numpy() for constant, name in name_constants(mod).items()}


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeOperators")
class CanonicalizeOperators:
    """Name each binding after its kernel and make each constant a parameter behind the inputs.

    The attribute ``num_input`` of `main` counts the parameters that are inputs, as in TVM's
    `relax.transform.LiftTransformParams`. `known` constants have their names already.
    """

    def __init__(self, known: ConstantNames = MappingProxyType({})) -> None:
        self.known = known

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        main = mod["main"]
        inputs = [
            relax.Var(_identifier(param.name, f"input_{i}"), param.ty)
            for i, param in enumerate(main.params)
        ]
        substitute: dict[relax.Expr, relax.Expr] = dict(zip(main.params, inputs, strict=True))
        weights = []
        for constant, name in name_constants(mod, self.known).items():
            weight = relax.Var(name, constant.ty)
            weights.append(weight)
            substitute[constant] = weight

        others = {gvar: function for gvar, function in mod.functions.items() if function != main}
        builder = relax.BlockBuilder(IRModule(others, attrs=mod.attrs))
        attrs = {**main.attrs, NUM_INPUT: len(inputs)}
        with builder.function("main", [*inputs, *weights], attrs=attrs):
            with builder.dataflow():
                for binding in bindings(main):
                    value = _substituted(binding.value, substitute)
                    if not isinstance(value, relax.Var):  # else a second name for the same value
                        value = builder.emit(value, _operator_name(value))
                    substitute[binding.var] = value
                result = _substituted(main.body.body, substitute)
                output = builder.emit_output(result, "output")
            builder.emit_func_output(output)
        return builder.finalize()


def _constants(function: relax.Function) -> Iterator[GenericConst]:
    """Yield each distinct constant once, in the order of first use."""
    constants: dict[GenericConst, None] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, GenericConst):
            constants.setdefault(expr)
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                visit(field)
        elif isinstance(expr, relax.Call):
            for arg in expr.args:
                visit(arg)

    for binding in bindings(function):
        visit(binding.value)
    visit(function.body.body)
    yield from constants


def _substituted(expr: relax.Expr, substitute: dict[relax.Expr, relax.Expr]) -> relax.Expr:
    if isinstance(expr, relax.Var | GenericConst):
        return substitute[expr]
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_substituted(field, substitute) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_substituted(expr.tuple_value, substitute), expr.index)
    if isinstance(expr, relax.Call) and expr.op == tvm.ir.Op.get("relax.call_tir"):
        callee, args, *rest = expr.args
        return relax.Call(
            expr.op,
            [callee, _substituted(args, substitute), *rest],
            expr.attrs,
            expr.ty_args,
        )
    raise CompileError(
        f"after lowering, main still holds {expr!s:.200}; only R.call_tir can be scheduled"
    )


def _operator_name(value: relax.Expr) -> str:
    if isinstance(value, relax.Call):
        return str(value.args[0].name_hint)
    return "item" if isinstance(value, relax.TupleGetItem) else "tuple"


def _identifier(name: str, otherwise: str) -> str:
    return name if name.isidentifier() else otherwise
