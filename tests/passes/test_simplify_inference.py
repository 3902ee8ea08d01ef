from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import helper
from tvm import relax

from hios_tvm.passes.fold_batch_norm import FoldBatchNorm
from hios_tvm.passes.simplify_inference import SimplifyInference

Build = Callable[[relax.BlockBuilder, relax.Var], relax.Expr]


def operators(mod: tvm.IRModule) -> list[str]:
    return [
        binding.value.op.name
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, tvm.ir.Call)
    ]


def run(step: object, mod: tvm.IRModule) -> tvm.IRModule:
    return tvm.transform.Sequential([step])(mod)


def function(build: Build, *shape: int) -> tvm.IRModule:
    """A module whose `main` is one dataflow block that `build` fills."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(build(builder, x))
        builder.emit_func_output(result)
    return builder.finalize()


def test_dropout_is_its_operand() -> None:
    def build(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        dropped = builder.emit(relax.op.nn.dropout(relax.op.nn.relu(x), 0.5))
        return relax.op.exp(builder.emit(relax.TupleGetItem(dropped, 0)))

    assert operators(run(SimplifyInference(), function(build, 2, 3))) == [
        "relax.nn.relu",
        "relax.exp",
    ]


def test_operators_that_change_nothing_vanish() -> None:
    def build(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        x = builder.emit(relax.op.reshape(x, (2, 3)))
        x = builder.emit(relax.op.astype(x, "float32"))
        x = builder.emit(relax.op.permute_dims(x, [0, 1]))
        return relax.op.reshape(builder.emit(relax.op.nn.relu(x)), (3, 2))

    expected = ["relax.nn.relu", "relax.reshape"]
    assert operators(run(SimplifyInference(), function(build, 2, 3))) == expected


def test_operators_on_constants_are_evaluated() -> None:
    def build(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        weight = relax.const(np.arange(6, dtype="float32").reshape(2, 3))
        moved = builder.emit(relax.op.permute_dims(weight))
        scaled = builder.emit(relax.op.multiply(moved, relax.const(2.0, "float32")))
        return relax.op.matmul(x, scaled)

    mod = run(SimplifyInference(), function(build, 4, 3))
    assert operators(mod) == ["relax.matmul"]
    weight = mod["main"].body.blocks[0].bindings[0].value.args[1].value.numpy()
    np.testing.assert_array_equal(weight, 2 * np.arange(6).reshape(2, 3).T)


@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm_is_in_the_weights(bias: bool) -> None:
    inputs = ["x", "w", "c"] if bias else ["x", "w"]
    nodes = [
        helper.make_node("Conv", inputs, ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["h", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    weights = {name: np.abs(random(6, seed=i)) + 0.1 for i, name in enumerate("gbmv")}
    weights |= {"w": random(6, 4, 3, 3), "c": random(6, seed=9)}
    model = model_of(nodes, {"x": (1, 4, 8, 8)}, weights)
    assert [name for name in kernels(lowered(model)) if "multiply" in name] == []
    assert_lowers_right(model)


def test_a_convolution_with_two_readers_keeps_its_weights() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "s"], ["a"]),
        helper.make_node("Add", ["a", "h"], ["y"]),
    ]
    weights = {"w": random(6, 4, 1, 1), "s": random(1, 6, 1, 1)}
    assert_lowers_right(model_of(nodes, {"x": (1, 4, 8, 8)}, weights))


def test_shifts_merge() -> None:
    def build(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        weight = relax.const(random(6, 4, 1, 1))
        shift = relax.const(random(6, 1, 1))
        x = builder.emit(relax.op.nn.conv2d(x, weight))
        x = builder.emit(relax.op.add(x, shift))
        x = builder.emit(relax.op.divide(x, relax.const(4.0, "float32")))
        return relax.op.subtract(x, shift)

    mod = run(FoldBatchNorm(), function(build, 1, 4, 5, 5))
    assert operators(mod) == ["relax.nn.conv2d", "relax.add"]


def test_sum_of_several_is_additions() -> None:
    nodes = [helper.make_node("Sum", ["a", "b", "c"], ["y"])]
    model = model_of(nodes, {"a": (2, 5), "b": (2, 5), "c": (2, 5)})
    assert len(kernels(lowered(model))) == 1
    assert_lowers_right(model)
