from __future__ import annotations

import numpy as np
from structure import assert_becomes
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.passes.fold_batch_norm import FoldBatchNorm

WEIGHT = np.arange(6, dtype="float32").reshape(2, 3, 1, 1)
SCALE = np.array([2, 3], "float32").reshape(2, 1, 1)
SHIFT = np.array([5, 7], "float32").reshape(1, 2, 1, 1)


def test_a_scale_goes_into_the_weights() -> None:
    weight, scale, scaled = R.const(WEIGHT), R.const(SCALE), R.const(WEIGHT * SCALE[..., None])

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 4), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, weight)
                y = R.multiply(a, scale)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 4), "float32")):
            with R.dataflow():
                y = R.nn.conv2d(x, scaled)
                R.output(y)
            return y

    assert_becomes(FoldBatchNorm(), Before, Expected)


def test_a_scale_behind_a_shift_scales_both() -> None:
    weight, shift, scale = R.const(WEIGHT), R.const(SHIFT), R.const(SCALE)
    scaled, scaled_shift = R.const(WEIGHT * SCALE[..., None]), R.const(SHIFT * SCALE)

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 4), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, weight)
                b = R.add(a, shift)
                y = R.multiply(b, scale)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 4), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, scaled)
                y = R.add(a, scaled_shift)
                R.output(y)
            return y

    assert_becomes(FoldBatchNorm(), Before, Expected)


def test_shifts_merge() -> None:
    weight, shift, both = R.const(WEIGHT), R.const(SHIFT), R.const(SHIFT - SHIFT / 2)
    half = R.const(SHIFT / 2)

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 4), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, weight)
                b = R.add(a, shift)
                y = R.subtract(b, half)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 4), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, weight)
                y = R.add(a, both)
                R.output(y)
            return y

    assert_becomes(FoldBatchNorm(), Before, Expected)


def test_a_result_with_two_readers_keeps_its_weights() -> None:
    weight, scale = R.const(WEIGHT), R.const(SCALE)

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 4), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, weight)
                b = R.multiply(a, scale)
                y = R.add(a, b)
                R.output(y)
            return y

    assert_becomes(FoldBatchNorm(), Before, Before)


def test_a_scale_along_another_axis_stays() -> None:
    weight, rows = R.const(WEIGHT), R.const(np.ones((1, 1, 4, 1), "float32"))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 4), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, weight)
                y = R.multiply(a, rows)
                R.output(y)
            return y

    assert_becomes(FoldBatchNorm(), Before, Before)
