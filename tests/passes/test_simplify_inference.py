from __future__ import annotations

import numpy as np
import pytest
from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import helper
from structure import assert_becomes
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.passes.simplify_inference import SimplifyInference


def test_dropout_is_its_operand() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")):
            with R.dataflow():
                a = R.nn.dropout(x, 0.5)
                b = a[0]
                y = R.exp(b)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")):
            with R.dataflow():
                y = R.exp(x)
                R.output(y)
            return y

    assert_becomes(SimplifyInference(), Before, Expected)


def test_batch_norm_is_a_scale_and_a_shift() -> None:
    gamma, beta = R.const(np.float32([1, 2])), R.const(np.float32([3, 4]))
    mean, variance = R.const(np.float32([5, 6])), R.const(np.float32([3, 15]))
    scale = R.const(np.float32([1 / 2, 2 / 4]).reshape(1, 2, 1, 1))
    shift = R.const(np.float32([3 - 5 / 2, 4 - 6 / 2]).reshape(1, 2, 1, 1))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 5), "float32")):
            with R.dataflow():
                a = R.nn.batch_norm(
                    x, gamma, beta, mean, variance, axis=1, epsilon=1.0, training=False
                )
                y = a[0]
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 5), "float32")):
            with R.dataflow():
                a = R.multiply(x, scale)
                y = R.add(a, shift)
                R.output(y)
            return y

    assert_becomes(SimplifyInference(), Before, Expected)


def test_operators_that_change_nothing_vanish() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")):
            with R.dataflow():
                a = R.reshape(x, (2, 3))
                b = R.astype(a, "float32")
                c = R.permute_dims(b, [0, 1])
                d = R.nn.relu(c)
                y = R.reshape(d, (3, 2))
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")):
            with R.dataflow():
                a = R.nn.relu(x)
                y = R.reshape(a, (3, 2))
                R.output(y)
            return y

    assert_becomes(SimplifyInference(), Before, Expected)


def test_a_sum_of_stacked_tensors_is_additions() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4,), "float32"), z: R.Tensor((4,), "float32")):
            with R.dataflow():
                a = R.stack([x, z, x], axis=0)
                y = R.sum(a, axis=[0])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((4,), "float32"), z: R.Tensor((4,), "float32")):
            with R.dataflow():
                a = R.add(x, z)
                y = R.add(a, x)
                R.output(y)
            return y

    assert_becomes(SimplifyInference(), Before, Expected)


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


def test_sum_of_several_is_additions() -> None:
    nodes = [helper.make_node("Sum", ["a", "b", "c"], ["y"])]
    model = model_of(nodes, {"a": (2, 5), "b": (2, 5), "c": (2, 5)})
    assert len(kernels(lowered(model))) == 1
    assert_lowers_right(model)
