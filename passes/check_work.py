"""Kernels that would not end within any time that a user waits are refused.

Attributes say how often loops run: a pooling window or a number of samples of 10^9 takes no memory,
and a kernel that is being measured cannot be interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.tirx import Stmt

from hios_tvm.errors import ModelError
from hios_tvm.passes.dataflow import bindings
from hios_tvm.passes.extract_operator_graph import is_call_tir
from hios_tvm.schema.node_names import NODE_NAMES, nodes_of

MAX_STEPS = 10**14
"""Runs of the innermost statements of one kernel: about a day of one core, one after another."""

_limit: ContextVar[int] = ContextVar("work_limit", default=MAX_STEPS)


@contextmanager
def work_limit(steps: int | None) -> Iterator[None]:
    """Refuse kernels of more than `steps` steps inside of the block; None leaves the limit."""
    token = _limit.set(_limit.get() if steps is None else steps)
    try:
        yield
    finally:
        _limit.reset(token)


def check_work(mod: IRModule) -> None:
    """Raise `ModelError` for a call of a kernel with more steps than the limit."""
    names = (mod["main"].attrs or {}).get(NODE_NAMES, ())
    steps = {
        var.name_hint: steps_of(func.body)
        for var, func in mod.functions_items()
        if isinstance(func, tirx.PrimFunc)
    }
    for binding in bindings(mod["main"]):
        kernel = binding.value.args[0].name_hint if is_call_tir(binding.value) else None
        if kernel is not None and steps[kernel] > _limit.get():
            nodes = [str(names[n]) for n in nodes_of(binding.var.name) if n < len(names)]
            raise ModelError(
                f"the operator {', '.join(nodes) or kernel} would take {steps[kernel]:.1e} steps, "
                f"more than {_limit.get():.1e}: check the size of its window, or allow more steps"
            )


def steps_of(stmt: Stmt) -> int:
    """Return how often the statements inside of `stmt` run; loops of unknown lengths count once."""
    if isinstance(stmt, tirx.For):
        extent = int(stmt.extent) if isinstance(stmt.extent, tirx.IntImm) else 1
        return extent * steps_of(stmt.body)
    if isinstance(stmt, tirx.SeqStmt):
        return sum(map(steps_of, stmt.seq))
    if isinstance(stmt, s_tir.SBlockRealize):
        return steps_of(stmt.block.body)
    if isinstance(stmt, tirx.IfThenElse):
        return steps_of(stmt.then_case) + (steps_of(stmt.else_case) if stmt.else_case else 0)
    return steps_of(stmt.body) if hasattr(stmt, "body") else 1
