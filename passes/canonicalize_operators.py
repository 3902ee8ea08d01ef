"""A pass that gives operators their names and turns weights into parameters.

An operator is called as the most important of the nodes that it came from, as far as identifiers
allow, and as its kernel where no node is known. Several that came from one node have their kernels'
names behind the node's.

Calls that prepare weights (`PREPARES_WEIGHT`) are no operators: what they compute is a parameter,
too, and an attribute says of what.

It runs after lowering: `main` is one dataflow block of `R.call_tir` bindings, tuple projections and
the output tuple. Everything that follows (the operator graph, schedules, programs) refers to
operators by the names given here.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule

from hios_tvm.errors import CompileError
from hios_tvm.passes.dataflow import bindings, operator_name
from hios_tvm.passes.schedule_kernels import PREPARES_WEIGHT
from hios_tvm.schema.manifest import PreparedWeight
from hios_tvm.schema.node_names import NODE_NAMES, OPERATOR_NODES, nodes_of

NUM_INPUT = "num_input"

_PREPARED = "prepared_weights"

ConstantNames = Mapping[GenericConst, str]


def name_constants(
    mod: IRModule, known: ConstantNames = MappingProxyType({})
) -> dict[GenericConst, str]:
    """Return a name for each distinct constant of `main`: the `known` one, or a new number."""
    names: dict[GenericConst, str] = {}
    for constant in _constants(_values(mod["main"])):
        names[constant] = known.get(constant) or f"weight_{len(names.keys() | known.keys())}"
    return names


def collect_weights(mod: IRModule) -> dict[str, np.ndarray]:
    """Return the constants of `main` under the names that `CanonicalizeOperators` gives them."""
    return {name: constant.value.numpy() for constant, name in name_constants(mod).items()}


def prepared_weights(mod: IRModule) -> tuple[PreparedWeight, ...]:
    """Return the weights of a canonical module that are computed when an artifact is loaded."""
    prepared = (mod["main"].attrs or {}).get(_PREPARED, {})
    return tuple(PreparedWeight(name, *map(str, made)) for name, made in prepared.items())


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeOperators")
class CanonicalizeOperators:
    """Name each binding, and make each constant a parameter behind the inputs.

    The attribute ``num_input`` of `main` counts the parameters that are inputs, as in TVM's
    `relax.transform.LiftTransformParams`; ``operator_nodes`` has the nodes of each operator, and
    ``prepared_weights`` the kernel and the constant of each weight that is prepared.
    `known` constants have their names already.
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
        names = name_constants(mod, self.known)
        preparing = [b for b in bindings(main) if _prepares_weight(mod, b.value)]
        calls = {binding.var for binding in preparing}
        weights: dict[relax.Expr, relax.Var] = {
            constant: relax.Var(names[constant], constant.ty)
            for constant in _constants(_values(main, without=calls))
        }
        prepared: dict[str, tuple[str, str]] = {}
        for binding in preparing:
            kernel, constants, *_ = binding.value.args
            made = kernel.name_hint, names[constants.fields[0]]
            name = f"{made[1]}_{made[0]}"
            prepared[name] = made
            weights[binding.var] = relax.Var(name, binding.var.ty)
        params = [*inputs, *weights.values()]
        substitute |= weights

        others = {gvar: function for gvar, function in mod.functions.items() if function != main}
        builder = relax.BlockBuilder(IRModule(others, attrs=mod.attrs))
        operators = [binding for binding in bindings(main) if binding.var not in calls]
        taken = [param.name for param in params]
        operator_names, nodes = _operator_names(main, operators, taken)
        attrs = {**main.attrs, NUM_INPUT: len(inputs)}
        if nodes:
            attrs[OPERATOR_NODES] = nodes
        if prepared:
            attrs[_PREPARED] = prepared
        with builder.function("main", params, attrs=attrs):
            with builder.dataflow():
                for binding in operators:
                    value = _substituted(binding.value, substitute)
                    if not isinstance(value, relax.Var):  # else a second name for the same value
                        value = builder.emit(value, operator_names.get(binding.var, ""))
                    substitute[binding.var] = value
                result = _substituted(main.body.body, substitute)
                output = builder.emit_output(result, "output")
            builder.emit_func_output(output)
        return builder.finalize()


def _prepares_weight(mod: IRModule, value: relax.Expr) -> bool:
    """Whether `value` is a call of a kernel that prepares a weight."""
    if operator_name(value) != "relax.call_tir":
        return False
    return PREPARES_WEIGHT in (mod[value.args[0]].attrs or {})


def _values(main: relax.Function, without: Collection[relax.Var] = ()) -> Iterator[relax.Expr]:
    """Yield the values of `main`, but for those of some variables, and its result."""
    yield from (binding.value for binding in bindings(main) if binding.var not in without)
    yield main.body.body


def _constants(values: Iterable[relax.Expr]) -> Iterator[GenericConst]:
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

    for value in values:
        visit(value)
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


def _operator_names(
    main: relax.Function, operators: Sequence[relax.Binding], taken: Iterable[str]
) -> tuple[dict[relax.Var, str], dict[str, list[str]]]:
    """Return a name for each binding, and the nodes of each operator by its name."""
    node_names = [str(name) for name in (main.attrs or {}).get(NODE_NAMES, ())]
    calls = [binding for binding in operators if isinstance(binding.value, relax.Call)]
    nodes = {b.var: [node_names[i] for i in nodes_of(b.var.name)] for b in calls}
    shared = Counter(names[0] for names in nodes.values() if names)
    used, found, by_name = set(taken), {}, {}
    for binding in operators:
        of_nodes = nodes.get(binding.var, [])
        name = _kernel_name(binding.value)
        if of_nodes:
            node = _as_identifier(of_nodes[0])
            name = f"{node}_{_short(name)}" if not node or shared[of_nodes[0]] > 1 else node
        unique, count = name, 0
        while unique in used:
            count += 1
            unique = f"{name}_{count}" if of_nodes else f"{name}{count}"
        used.add(unique)
        found[binding.var] = unique
        if of_nodes:
            by_name[unique] = of_nodes
    return found, by_name


def _kernel_name(value: relax.Expr) -> str:
    if isinstance(value, relax.Call):
        return str(getattr(value.args[0], "name_hint", value.op.name))
    return "item" if isinstance(value, relax.TupleGetItem) else "tuple"


def _short(kernel: str) -> str:
    return kernel.removeprefix("fused_").rstrip("0123456789")


def _as_identifier(name: str) -> str:
    """Return a node's name as an identifier.

    >>> _as_identifier("/layer1/conv.0"), _as_identifier("3")
    ('layer1_conv_0', 'node_3')
    """
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return f"node_{text}" if text[:1].isdigit() else text


def _identifier(name: str, otherwise: str) -> str:
    return name if name.isidentifier() else otherwise
