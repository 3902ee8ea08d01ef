from __future__ import annotations

import numpy as np
import pytest
from structure import assert_becomes
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.passes.dataflow import constant_value
from hios_tvm.passes.fold_constants import FoldConstants, evaluate

MATRIX = np.arange(6, dtype="float32").reshape(2, 3)


def test_operators_on_constants_are_their_values() -> None:
    matrix, two, value = R.const(MATRIX), R.const(2.0, "float32"), R.const(2 * MATRIX.T)

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((3, 2), "float32")):
            with R.dataflow():
                a = R.permute_dims(matrix)
                b = R.multiply(a, two)
                y = R.add(x, b)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((3, 2), "float32")):
            with R.dataflow():
                y = R.add(x, value)
                R.output(y)
            return y

    assert_becomes(FoldConstants(), Before, Expected)


def test_what_reads_an_input_stays() -> None:
    matrix = R.const(MATRIX)

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")):
            with R.dataflow():
                y = R.concat([x, matrix], axis=0)
                R.output(y)
            return y

    assert_becomes(FoldConstants(), Before, Before)


def test_integers_are_divided_by_a_kernel() -> None:
    """NumPy's quotient of integers is a float, and Relax's rounds to zero."""
    dividend, divisor = R.const(np.array([-7, 7], "int32")), R.const(2, "int32")

    @I.ir_module
    class Before:
        @R.function
        def main():
            with R.dataflow():
                y = R.divide(dividend, divisor)
                R.output(y)
            return y

    assert_becomes(FoldConstants(), Before, Before)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (relax.op.rsqrt(R.const(np.float32([4, 16]))), np.float32([0.5, 0.25])),
        (relax.op.astype(R.const(np.float32([1.5])), "int32"), np.int32([1])),
        (relax.op.squeeze(R.const(MATRIX[:, None]), [1]), MATRIX),
        (relax.op.expand_dims(R.const(MATRIX), [0, 2]), MATRIX[None, :, None]),
        (relax.op.broadcast_to(R.const(MATRIX[:, :1]), (2, 3)), MATRIX[:, :1].repeat(3, 1)),
        (relax.op.divide(R.const(MATRIX), R.const(np.float32(4))), MATRIX / 4),
        (relax.op.maximum(R.const(MATRIX), R.const(np.float32(2))), np.maximum(MATRIX, 2)),
    ],
)
def test_values(call: relax.Call, expected: np.ndarray) -> None:
    value = evaluate(call)
    assert value is not None
    assert value.dtype == expected.dtype
    np.testing.assert_array_equal(value, expected)
    assert constant_value(R.const(value)).shape == expected.shape
