"""A pass that makes one kernel of several operators, and remembers which nodes they came from."""

import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import Rewriter, bindings, operator_name, rewrite_main
from hios_tvm.passes.keep_bytes import BARRIER
from hios_tvm.schema.node_names import nodes_of, variable_of

Nodes = tuple[int, ...]

_NODES = "nodes"


@tvm.transform.module_pass(opt_level=0, name="FuseOperators")
class FuseOperators:
    """Do TVM's `FuseOps` and `FuseTIR`, and name each result after the nodes of its operators.

    `FuseOps` gives the results of groups new names, but keeps the attributes of calls, and does not
    make one function of groups in which these differ. `FuseTIR` keeps the names of functions. The
    nodes of a convolution or product come before those of reductions, and these before those of
    elementwise operators.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        groups = relax.transform.FuseOps()(_with_attributes(mod))
        nodes = {
            var.name_hint: _nodes_of_group(groups, function)
            for var, function in groups.functions_items()
            if isinstance(function, relax.Function) and var.name_hint != "main"
        }

        def rename(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
            if operator_name(value) == BARRIER:
                return value.args[0]
            if operator_name(value) != "relax.call_tir":
                return value
            found = nodes.get(value.args[0].name_hint) or _nodes_of_call(value)
            plain = Call(value.op, value.args, None, value.ty_args, value.span)
            return rewriter.emit(plain, variable_of(found)) if found else plain

        return rewrite_main(relax.transform.FuseTIR()(groups), rename)


def _with_attributes(mod: IRModule) -> IRModule:
    """Say in an attribute of each call which nodes it came from.

    A call that no node has named is part of what its first reader computes.
    """
    found: dict[relax.Var, Nodes] = {}
    for binding in reversed(list(bindings(mod["main"]))):
        own = nodes_of(binding.var.name) or found.get(binding.var, ())
        found[binding.var] = own
        for var in relax.analysis.free_vars(binding.value):
            found[var] = own

    def mark(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
        if operator_name(value) != "relax.call_tir":
            return value
        name = variable_of(found[rewriter.binding.var])
        attributes = tvm.ir.make_node("ir.DictAttrs", **{_NODES: name})
        return Call(value.op, value.args, attributes, value.ty_args, value.span)

    return rewrite_main(mod, mark)


def _nodes_of_group(mod: IRModule, group: relax.Function) -> Nodes:
    calls = [binding.value for binding in bindings(group)]
    calls = [call for call in calls if operator_name(call) == "relax.call_tir"]
    ordered = sorted(calls, key=lambda call: _importance(mod, call), reverse=True)
    return tuple(dict.fromkeys(node for call in ordered for node in _nodes_of_call(call)))


def _importance(mod: IRModule, call: Call) -> int:
    """TVM's kind of kernel, which grows from elementwise to products; others are opaque."""
    return int(mod[call.args[0]].attrs.get("op_pattern", 0))


def _nodes_of_call(call: Call) -> Nodes:
    return () if call.attrs is None else nodes_of(str(call.attrs[_NODES]))
