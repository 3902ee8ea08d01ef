"""Rules take kernels in order, and constants are packed once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tvm
from structure import assert_becomes
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.errors import CompileError
from hios_tvm.passes.dataflow import bindings, constant_value
from hios_tvm.passes.schedule_kernels import Scheduled, ScheduleKernels

WEIGHT = np.arange(6, dtype="float32").reshape(2, 3)


@T.prim_func(private=True, s_tir=True)
def add(
    x: T.Buffer((2, 3), "float32"), w: T.Buffer((2, 3), "float32"), y: T.Buffer((2, 3), "float32")
):
    for i, j in T.grid(2, 3):
        with T.sblock("add"):
            row, column = T.axis.remap("SS", [i, j])
            y[row, column] = x[row, column] + w[row, column]


@T.prim_func(private=True, s_tir=True)
def add_transposed(
    x: T.Buffer((2, 3), "float32"), w: T.Buffer((3, 2), "float32"), y: T.Buffer((2, 3), "float32")
):
    for i, j in T.grid(2, 3):
        with T.sblock("add"):
            row, column = T.axis.remap("SS", [i, j])
            y[row, column] = x[row, column] + w[column, row]


@dataclass(frozen=True)
class Transposed:
    def __call__(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.T)


class PackTransposed:
    def apply(self, func: tirx.PrimFunc) -> Scheduled:
        return Scheduled(add_transposed, {1: Transposed()})


class Nothing:
    def apply(self, func: tirx.PrimFunc) -> None:
        return None


def network(*weights: relax.Expr) -> tvm.IRModule:
    """Adds one weight after the other."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    kernel = builder.add_func(add, "add")
    with builder.function("main", [x]):
        with builder.dataflow():
            value = x
            for weight in weights:
                value = relax.op.call_tir(kernel, [value, weight or x], x.ty)
                value = builder.emit_output(value) if weight is weights[-1] else builder.emit(value)
        builder.emit_func_output(value)
    return builder.get()


def arguments(mod: tvm.IRModule) -> list[relax.Expr]:
    """The second argument of each call."""
    calls = [binding.value for binding in bindings(mod["main"])]
    return [call.args[1].fields[1] for call in calls if isinstance(call, tvm.ir.Call)]


def test_the_first_rule_that_takes_a_kernel_packs_its_constants() -> None:
    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def add(
            x: T.Buffer((2, 3), "float32"),
            w: T.Buffer((3, 2), "float32"),
            y: T.Buffer((2, 3), "float32"),
        ):
            T.func_attr({"op_pattern": 8, "tirx.is_scheduled": True})
            for i, j in T.grid(2, 3):
                with T.sblock("add"):
                    row, column = T.axis.remap("SS", [i, j])
                    y[row, column] = x[row, column] + w[column, row]

        @R.function
        def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
            cls = Expected
            with R.dataflow():
                y = R.call_tir(
                    cls.add,
                    (x, R.const([[0, 3], [1, 4], [2, 5]], "float32")),
                    out_ty=R.Tensor((2, 3), "float32"),
                )
                R.output(y)
            return y

    rules = [Nothing(), PackTransposed(), Nothing()]
    assert_becomes(ScheduleKernels(rules), network(relax.const(WEIGHT)), Expected)


def test_a_constant_is_packed_once_for_all_calls() -> None:
    shared = relax.const(WEIGHT)
    after = ScheduleKernels([PackTransposed()])(network(shared, shared, relax.const(WEIGHT + 1)))
    first, second, third = arguments(after)
    assert first.same_as(second) and not first.same_as(third)
    np.testing.assert_array_equal(constant_value(third), (WEIGHT + 1).T)


def test_kernels_that_are_left_read_constants_as_they_are() -> None:
    before = network(relax.const(WEIGHT))
    after = ScheduleKernels([PackTransposed()], left=["add"])(before)
    np.testing.assert_array_equal(constant_value(arguments(after)[0]), WEIGHT)
    tvm.ir.assert_structural_equal(after["add"].body, before["add"].body)


def test_only_constants_can_be_packed() -> None:
    with pytest.raises((CompileError, tvm.error.InternalError, RuntimeError), match="no constant"):
        ScheduleKernels([PackTransposed()])(network(None))
