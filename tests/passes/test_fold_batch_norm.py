from __future__ import annotations

from collections.abc import Callable

import numpy as np
from structure import assert_becomes, module_of
from tvm.relax import BlockBuilder, Expr, TensorType, Var, const
from tvm.relax.op import add, multiply, subtract
from tvm.relax.op.nn import conv2d

from hios_tvm.passes.dataflow import bindings, operator_name
from hios_tvm.passes.fold_batch_norm import FoldBatchNorm
from hios_tvm.schema.node_names import nodes_of

WEIGHT = np.arange(6, dtype="float32").reshape(2, 3, 1, 1)
SCALE = np.array([2, 3], "float32").reshape(2, 1, 1)
SHIFT = np.array([5, 7], "float32").reshape(1, 2, 1, 1)
SCALED = WEIGHT * SCALE[..., None]


def assert_folds(before: Callable[[Var], Expr], expected: Callable[[Var], Expr]) -> None:
    shape = (1, 3, 4, 4)
    assert_becomes(FoldBatchNorm(), module_of(before, shape), module_of(expected, shape))


def test_a_scale_goes_into_the_weights() -> None:
    assert_folds(
        lambda x: multiply(conv2d(x, const(WEIGHT)), const(SCALE)),
        lambda x: conv2d(x, const(SCALED)),
    )


def test_the_convolution_is_of_the_nodes_of_both() -> None:
    builder = BlockBuilder()
    x = Var("x", TensorType((1, 3, 4, 4), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            convolved = builder.emit(conv2d(x, const(WEIGHT)), "n0x")
            scaled = builder.emit(multiply(convolved, const(SCALE)), "n1x")
            output = builder.emit_output(scaled, "n1x")
        builder.emit_func_output(output)
    folded, *_ = bindings(FoldBatchNorm()(builder.get())["main"])
    assert operator_name(folded.value) == "relax.nn.conv2d"
    assert nodes_of(folded.var.name) == (1, 0)


def test_a_scale_behind_a_shift_scales_both() -> None:
    assert_folds(
        lambda x: multiply(add(conv2d(x, const(WEIGHT)), const(SHIFT)), const(SCALE)),
        lambda x: add(conv2d(x, const(SCALED)), const(SHIFT * SCALE)),
    )


def test_shifts_merge() -> None:
    assert_folds(
        lambda x: subtract(add(conv2d(x, const(WEIGHT)), const(SHIFT)), const(SHIFT / 2)),
        lambda x: add(conv2d(x, const(WEIGHT)), const(SHIFT - SHIFT / 2)),
    )


def test_a_result_with_two_readers_keeps_its_weights() -> None:
    def before(x: Var) -> Expr:
        convolved = conv2d(x, const(WEIGHT))
        return add(convolved, multiply(convolved, const(SCALE)))

    assert_folds(before, before)


def test_a_scale_along_another_axis_stays() -> None:
    def before(x: Var) -> Expr:
        return multiply(conv2d(x, const(WEIGHT)), const(np.ones((1, 1, 4, 1), "float32")))

    assert_folds(before, before)
