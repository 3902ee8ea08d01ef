"""Accesses whose place depends on data stay inside of their tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import te, tirx
from tvm.ir import IRModule

from hios_tvm.passes.bound_indices import BoundIndices

Read = Callable[[te.Tensor, tirx.Expr], tirx.Expr]
READS: dict[str, tuple[Read, bool]] = {
    "an index": (lambda x, i: x(i), True),
    "a sum": (lambda x, i: x(i + 1), True),
    "one that is bounded": (lambda x, i: x(tirx.max(tirx.min(i, 3), 0)), False),
    "one that is bounded below only": (lambda x, i: x(tirx.max(i, 0)), True),
    "a remainder": (lambda x, i: x(tirx.floormod(i, 4)), False),
    "the value of a condition": (lambda x, i: x(tirx.Cast("int64", i > 2)), False),
    "under a condition": (lambda x, i: tirx.if_then_else(i < 4, x(i), 0.0), True),
    "the index of an index": (lambda x, i: x(tirx.Cast("int64", x(i))), True),
}


def kernel(read: Read) -> tirx.PrimFunc:
    x, i = te.placeholder((4,), "float32", name="x"), te.placeholder((6,), "int64", name="i")
    y = te.compute((6,), lambda at: read(x, i(at)), name="y")
    return te.create_prim_func([x, i, y])


def bounded(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return BoundIndices()(IRModule({"kernel": func}))["kernel"]


@pytest.mark.parametrize("name", READS)
def test_only_unbounded_indices_are_clipped(name: str) -> None:
    read, is_changed = READS[name]
    func = kernel(read)
    changed = not tvm_ffi.structural_equal(bounded(func).body, func.body)
    assert changed == is_changed


def test_clipped_indices_read_the_nearest_element() -> None:
    func = bounded(kernel(lambda x, i: x(i))).with_attr("global_symbol", "kernel")
    run = tvm.compile(IRModule({"kernel": func}), "llvm")["kernel"]
    x = np.arange(4, dtype=np.float32)
    i = np.array([0, 3, 4, -1, np.iinfo("int64").max, np.iinfo("int64").min])
    y = tvm.runtime.tensor(np.zeros(6, np.float32))
    run(tvm.runtime.tensor(x), tvm.runtime.tensor(i), y)
    np.testing.assert_array_equal(y.numpy(), [0, 3, 3, 0, 3, 0])


def test_a_second_run_changes_nothing() -> None:
    once = bounded(kernel(lambda x, i: x(i)))
    tvm.ir.assert_structural_equal(bounded(once).body, once.body)
