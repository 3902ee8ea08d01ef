"""Traces of a search, applied to kernels that no rule has scheduled."""

from __future__ import annotations

import json

import pytest
import tvm
from tvm import s_tir
from tvm.ir import IRModule
from tvm.script import tirx as T
from tvm.tirx import ForKind

from hios_tvm.errors import CostError
from hios_tvm.passes.apply_traces import apply_trace, apply_traces, schedulable_module


@T.prim_func(private=True, s_tir=True)
def negated(x: T.Buffer((8, 256), "float32"), y: T.Buffer((8, 256), "float32")):
    T.func_attr({"op_pattern": 4})
    for i, j in T.grid(8, 256):
        with T.sblock("negate"):
            row, column = T.axis.remap("SS", [i, j])
            y[row, column] = -x[row, column]


def parallel_trace() -> str:
    module = schedulable_module(negated)
    sch = s_tir.Schedule(module)
    sch.parallel(sch.get_loops("negate")[0])
    instructions, decisions = sch.trace.as_json()
    assert not decisions
    words = [[str(name), list(map(str, read)), [*map(_plain, attrs)], list(map(str, made))]
             for name, read, attrs, made in instructions]  # fmt: skip
    return json.dumps([words, []])


def _plain(value: object) -> object:
    return str(value) if isinstance(value, str) else int(value)


def test_a_trace_gives_a_kernel_its_loops_and_leaves_the_kernel_alone() -> None:
    before = negated.script()
    kernels = [apply_trace(negated, parallel_trace()) for _ in range(2)]
    assert negated.script() == before
    assert all(k.body.block.body.kind == ForKind.PARALLEL for k in kernels)
    tvm.ir.assert_structural_equal(*kernels)


def test_only_named_kernels_change() -> None:
    kernels = IRModule({"a": negated, "b": negated})
    scheduled = IRModule({name: negated.with_attr("op_pattern", 8) for name in ("a", "b")})
    result = apply_traces(scheduled, kernels, {"a": parallel_trace()})
    assert result["a"].body.block.body.kind == ForKind.PARALLEL
    assert int(result["a"].attrs["op_pattern"]) == 8
    tvm.ir.assert_structural_equal(result["b"], scheduled["b"])


@pytest.mark.parametrize(
    "trace",
    ["[[", "{}", "[[]]", '[[["GetLoops", ["b1"], [], []]], []]', '[[["Fly", [], [], []]], []]'],
)
def test_what_is_no_trace_of_the_kernel_is_one_clear_error(trace: str) -> None:
    with pytest.raises(CostError, match="does not fit its kernel"):
        apply_trace(negated, trace)
