"""Small modules, and the comparison of what a pass makes of one with the module expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import relax
from tvm.ir import IRModule


def assert_becomes(step: tvm.transform.Pass, before: IRModule, expected: IRModule) -> None:
    """`step` turns `before` into `expected`, up to names and second names of one value."""
    passes = tvm.transform.Sequential([step, relax.transform.CanonicalizeBindings()])
    tvm.ir.assert_structural_equal(passes(before), expected)


def module_of(function: Callable[[relax.Var], relax.Expr], shape: Sequence[int]) -> IRModule:
    """A module whose `main` computes ``function(x)`` of one float input."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(function(x))
        builder.emit_func_output(y)
    return builder.get()
