"""Searching and substitution in TIR expressions and statements."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.tirx import Expr, Stmt


def nodes_of(tree: Expr | Stmt, *kinds: type) -> list[Any]:
    """Return the nodes of `kinds` in `tree`, operands before what uses them."""
    found: list[Any] = []

    def visit(node: Any) -> Any:
        found.append(node)
        return node

    tvm_ffi.structural_map(tree, [(kind, visit) for kind in kinds])
    return found


def is_choice(value: Any) -> TypeGuard[Call]:
    """Whether `value` is ``if_then_else(condition, value, other)``, as padding has it."""
    return isinstance(value, Call) and str(getattr(value.op, "name", "")) == "prim.if_then_else"


def with_values(expr: Expr, values: Mapping[tirx.Var, Expr]) -> Expr:
    """Return `expr` with `values` in place of variables."""
    return tvm_ffi.structural_map(expr, [(tirx.Var, lambda var: values.get(var, var))])
