"""Rewriting the dataflow block of `main`, which all graph-level passes of this package do."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from tvm import relax
from tvm.ir import Call, GenericConst, IRModule

from hios_tvm.schema.node_names import nodes_of, variable_of


class Rewriter:
    """The new block under construction: its bindings, their producers and numbers of readers.

    `binding` is the old one whose value is being rewritten, `name` what its new variables are
    called.
    """

    binding: relax.Binding
    name: str

    def __init__(self, builder: relax.BlockBuilder, uses: Counter[relax.Var]) -> None:
        self.builder = builder
        self._uses = uses

    def begin(self, binding: relax.Binding) -> None:
        """Turn to the next binding."""
        self.binding, self.name = binding, binding.var.name

    def absorb(self, value: relax.Var) -> None:
        """Say that the binding now also does what the nodes of `value` do."""
        nodes = dict.fromkeys((*nodes_of(self.name), *nodes_of(value.name)))
        self.name = variable_of(nodes) or self.name

    def emit(self, value: relax.Expr, name: str = "", uses: int = 1) -> relax.Var:
        """Bind `value` to a new variable, which later values will read `uses` times.

        Without a name of its own, it is named after the binding that is being rewritten.
        """
        var = self.builder.emit(value, name or self.name)
        self._uses[var] = uses
        return var

    def producer(self, value: relax.Expr, operators: tuple[str, ...] = ()) -> Call | None:
        """Return the call that computes `value` if it is of one of `operators` (any, if empty)."""
        if not isinstance(value, relax.DataflowVar):
            return None
        call = self.builder.lookup_binding(value)
        if not isinstance(call, Call) or (operators and operator_name(call) not in operators):
            return None
        return call

    def uses(self, value: relax.Var) -> int:
        """Return how many operands and results read `value`."""
        return self._uses[value]


Rewrite = Callable[[Rewriter, relax.Expr], relax.Expr]
"""Takes a bound value whose operands are already rewritten; returns it or its replacement."""


def bindings(main: relax.Function) -> Iterator[relax.Binding]:
    """Yield the bindings of `main` in order."""
    for block in main.body.blocks:
        yield from block.bindings


def operator_name(value: relax.Expr) -> str:
    """Return the name of the Relax operator that `value` calls, or an empty string."""
    return str(getattr(value.op, "name", "")) if isinstance(value, Call) else ""


def constant_value(value: relax.Expr) -> np.ndarray | None:
    """Return the array of a constant tensor, or None for anything else."""
    if isinstance(value, GenericConst) and isinstance(value.ty, relax.TensorType):
        return np.asarray(value.value.numpy())
    return None


def rewrite_main(mod: IRModule, rewrite: Rewrite) -> IRModule:
    """Rebuild `main` with each bound value passed through `rewrite`, and drop unused values.

    A binding whose new value is a variable, tuple or constant disappears: its readers read that.
    """
    main = mod["main"]
    others = {var: func for var, func in mod.functions_items() if var.name_hint != "main"}
    builder = relax.BlockBuilder(IRModule(others, attrs=mod.attrs))
    attrs = dict(main.attrs) if main.attrs else {}
    attrs.pop("global_symbol", None)
    uses = _count_uses(main)
    rewriter = Rewriter(builder, Counter())
    replaced: dict[relax.Var, relax.Expr] = {}
    with builder.function("main", list(main.params), attrs=attrs):
        with builder.dataflow():
            for binding in bindings(main):
                if not uses[binding.var]:
                    continue
                rewriter.begin(binding)
                value = builder.normalize(substitute(binding.value, replaced))
                value = rewrite(rewriter, value)
                if not isinstance(value, relax.Var | relax.Tuple | GenericConst):
                    value = rewriter.emit(value, uses=uses[binding.var])
                replaced[binding.var] = value
            result = builder.emit_output(substitute(main.body.body, replaced))
        builder.emit_func_output(result)
    return relax.transform.DeadCodeElimination()(builder.finalize())


def substitute(value: relax.Expr, replaced: Mapping[relax.Var, relax.Expr]) -> relax.Expr:
    """Return a bound value with its variables replaced."""
    if isinstance(value, relax.Var):
        return replaced.get(value, value)
    if isinstance(value, relax.Tuple):
        return relax.Tuple([substitute(field, replaced) for field in value.fields])
    if isinstance(value, relax.TupleGetItem):
        source = substitute(value.tuple_value, replaced)
        if isinstance(source, relax.Tuple):
            return source.fields[value.index]
        return relax.TupleGetItem(source, value.index)
    if isinstance(value, Call):
        args = [substitute(arg, replaced) for arg in value.args]
        return Call(value.op, args, value.attrs, value.ty_args, value.span)
    return value


def _count_uses(main: relax.Function) -> Counter[relax.Var]:
    """Return how often each variable is read by the bindings and as the result."""
    uses: Counter[relax.Var] = Counter()

    def count(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            uses[expr] += 1
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                count(field)
        elif isinstance(expr, relax.TupleGetItem):
            count(expr.tuple_value)
        elif isinstance(expr, Call):
            for arg in expr.args:
                count(arg)

    for binding in bindings(main):
        count(binding.value)
    count(main.body.body)
    return uses
