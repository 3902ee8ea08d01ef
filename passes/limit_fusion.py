"""A pass that keeps operators out of kernels where the rules of `FuseOps` would make bad ones.

`FuseOps` looks at the patterns of operators alone, not at shapes and not at how often a result is
read. Three kinds of operators must not be fused.

**Operators that broadcast the result of a heavy kernel.** The gate of a squeeze-and-excitation
block would be fused with the multiplication of the image that it scales:

    g = conv2d(pooled, w)      # [1, 1, 1, C], one image of one pixel
    s = sigmoid(g)             # [1, 1, 1, C]
    y = multiply(x, s)         # [1, H, W, C]

A kernel of all three would compute `g` once and `s` once for each pixel, and has no loops that fit
both shapes. Such a multiplication gets the pattern of an injective operator, which `FuseOps` never
puts behind a convolution, a product or a pooling, but still joins with other injective ones.

**Operators whose expression would become too large.** Rules write a fused kernel as one expression
for each element, in which a result that is read twice stands twice: ``a = x + x; b = a + a; ...``
doubles with each operator. Before an expression becomes larger than `MAX_EXPRESSION`, an operator
becomes a kernel of its own, whose result is read from memory.

**Transpositions of gathered rows.** A resized channels-last image is computed a
vector of channels at a time. A kernel that also transposes it to channels-first would read each
element by itself.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import tvm
from tvm import relax, tirx
from tvm.ir import Call, GlobalVar, IRModule, TensorLoad

from hios_tvm.passes.dataflow import bindings, operator_name
from hios_tvm.passes.tir_trees import nodes_of
from hios_tvm.schema.kernel_shapes import OUT_ELEMENTWISE_FUSABLE

MAX_EXPRESSION = 2000
"""Nodes of the expression of one element."""

_BROADCAST, _INJECTIVE, _OPAQUE = 1, 2, 8  # TVM's kBroadcast, kInjective and kOpaque


@tvm.transform.module_pass(opt_level=0, name="LimitFusion")
class LimitFusion:
    """Mark kernels that must not be fused as `FuseOps` would; runs right before it."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        mod = mod.clone()
        for kernel in _enlarging_kernels(mod):
            mod[kernel] = mod[kernel].with_attr("op_pattern", _INJECTIVE)
        alone = _results_in_memory(mod) | _transposed_gathers(mod)
        return _with_kernels_of_their_own(mod, alone) if alone else mod


def _enlarging_kernels(mod: IRModule) -> list[GlobalVar]:
    """Return the kernels that read a heavy kernel's result in another shape than their own."""
    behind_heavy: set[relax.Var] = set()  # results that would be fused into a heavy kernel
    found: dict[GlobalVar, None] = {}
    for var, call in _kernel_calls(mod):
        kernel, arguments = call.args[0], call.args[1].fields
        pattern = _pattern(mod, call)
        heavy = [argument for argument in arguments if argument in behind_heavy]
        if pattern == OUT_ELEMENTWISE_FUSABLE:
            behind_heavy.add(var)
        elif heavy and pattern <= _BROADCAST:
            if all(_shape(argument) == _shape(call) for argument in heavy):
                behind_heavy.add(var)
            else:
                found[kernel] = None
    return list(found)


def _results_in_memory(mod: IRModule) -> set[relax.Var]:
    """Return the results that must be kept in memory, so that expressions stay small.

    What `FuseOps` keeps in memory anyway, as both a heavy kernel and another one read it, starts
    new expressions too.
    """
    patterns = {call.args[0]: _pattern(mod, call) for _, call in _kernel_calls(mod)}
    readers: dict[relax.Var, list[int]] = {}
    for _, call in _kernel_calls(mod):
        for argument in call.args[1].fields:
            readers.setdefault(argument, []).append(patterns[call.args[0]])
    expressions: dict[GlobalVar, _Expression] = {}
    nodes: dict[relax.Var, int] = {}
    alone: set[relax.Var] = set()
    for var, call in _kernel_calls(mod):
        kernel, arguments = call.args[0], call.args[1].fields
        if patterns[kernel] == OUT_ELEMENTWISE_FUSABLE:
            continue  # such kernels read all arguments from memory
        if kernel not in expressions:
            expressions[kernel] = _expression_of(mod[kernel])
        size = expressions[kernel].size([nodes.get(argument, 1) for argument in arguments])
        if size > MAX_EXPRESSION:
            alone.add(var)
        own = readers.get(var, [])
        is_kept = len(own) > 1 and max(own) > _INJECTIVE
        nodes[var] = 1 if is_kept or patterns[kernel] > _INJECTIVE or var in alone else size
    return alone


def _transposed_gathers(mod: IRModule) -> set[relax.Var]:
    """Return the results of transpositions that read what is computed of gathered rows."""
    kernels = {call.args[0] for _, call in _kernel_calls(mod)}
    gathering = {kernel for kernel in kernels if _gathers(mod[kernel])}
    gathered: set[relax.Var] = set()
    alone: set[relax.Var] = set()
    for var, call in _kernel_calls(mod) if gathering else ():
        kernel = call.args[0]
        reads_gathered = any(argument in gathered for argument in call.args[1].fields)
        if _pattern(mod, call) > _INJECTIVE:
            continue
        if reads_gathered and _is_transposition(mod[kernel]):
            alone.add(var)
        elif reads_gathered or kernel in gathering:
            gathered.add(var)
    return alone


def _gathers(func: tirx.PrimFunc) -> bool:
    """Whether `func` reads rows, along the last axis, at places that it reads from memory."""
    return any(
        any(nodes_of(index, TensorLoad) for index in load.indices[:-1])
        and not nodes_of(load.indices[-1], TensorLoad)
        for load in nodes_of(func.body, TensorLoad)
    )


def _is_transposition(func: tirx.PrimFunc) -> bool:
    stores = nodes_of(func.body, tirx.BufferStore)
    if len(stores) != 1 or not isinstance(stores[0].value, TensorLoad):
        return False
    before, after = (list(map(str, access.indices)) for access in (stores[0].value, stores[0]))
    return before != after and sorted(before) == sorted(after)


@dataclass(frozen=True)
class _Expression:
    """What a kernel computes for one element: its own nodes, and how often it reads parameters."""

    nodes: int
    reads: Mapping[int, int]

    def size(self, arguments: list[int]) -> int:
        """Return the nodes of the expression, given those of the arguments'."""
        return self.nodes + sum(count * arguments[i] for i, count in self.reads.items())


def _expression_of(func: tirx.PrimFunc) -> _Expression:
    """Count the nodes of a kernel's result when its blocks are inlined into each other."""
    known = {param: _Expression(1, {i: 1}) for i, param in enumerate(func.params)}
    result = _Expression(1, {})
    for store in nodes_of(func.body, tirx.BufferStore):
        nodes, reads = len(nodes_of(store.value, tvm.ir.Expr)), Counter[int]()
        for load in nodes_of(store.value, TensorLoad):
            source = known.get(load.source, result)
            nodes += source.nodes
            reads.update(source.reads)
        result = known[store.buffer] = _Expression(nodes, reads)
    return result


def _with_kernels_of_their_own(mod: IRModule, results: set[relax.Var]) -> IRModule:
    """Let the calls that compute `results` call copies of their kernels, which are never fused."""
    builder = relax.BlockBuilder(mod)
    copies: dict[GlobalVar, GlobalVar] = {}

    def called_alone(call: Call) -> relax.Expr:
        kernel, *rest = call.args
        if kernel not in copies:
            copy = mod[kernel].with_attr("op_pattern", _OPAQUE)
            copies[kernel] = builder.add_func(copy, kernel.name_hint)
        return builder.normalize(Call(call.op, [copies[kernel], *rest], call.attrs, call.ty_args))

    main = mod["main"]
    (block,) = main.body.blocks
    lines = [
        relax.VarBinding(b.var, called_alone(b.value)) if b.var in results else b
        for b in block.bindings
    ]
    body = relax.SeqExpr([relax.DataflowBlock(lines)], main.body.body)
    builder.update_func(
        mod.get_global_var("main"), relax.Function(main.params, body, main.ret_ty, attrs=main.attrs)
    )
    return builder.get()


def _kernel_calls(mod: IRModule) -> Iterator[tuple[relax.Var, Call]]:
    for binding in bindings(mod["main"]):
        if operator_name(binding.value) == "relax.call_tir":
            yield binding.var, binding.value


def _pattern(mod: IRModule, call: Call) -> int:
    return int(mod[call.args[0]].attrs["op_pattern"])


def _shape(value: relax.Expr | Call) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape)
