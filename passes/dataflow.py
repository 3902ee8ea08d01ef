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
    rebuilt = builder.finalize()
    rebuilt["main"] = _without_unused(rebuilt["main"])
    return relax.transform.DeadCodeElimination()(rebuilt)  # of kernels that nobody calls


def _without_unused(main: relax.Function) -> relax.Function:
    """Leave out bindings that nothing reads; TVM's pass takes long where there are thousands."""
    uses = _count_uses(main)
    kept = []
    for binding in reversed(list(bindings(main))):
        if uses[binding.var]:
            kept.append(binding)
        else:
            uses.subtract(_variables(binding.value))
    block = relax.DataflowBlock(kept[::-1])
    body = relax.SeqExpr([block], main.body.body)
    return relax.Function(main.params, body, main.ret_ty, attrs=main.attrs)


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
    uses = Counter(_variables(main.body.body))
    for binding in bindings(main):
        uses.update(_variables(binding.value))
    return uses


def _variables(value: relax.Expr) -> list[relax.Var]:
    """Return the variables that `value` reads, as often as it does."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.TupleGetItem):
        return _variables(value.tuple_value)
    operands = value.fields if isinstance(value, relax.Tuple) else ()
    if isinstance(value, Call):
        operands = value.args
    return [variable for operand in operands for variable in _variables(operand)]
