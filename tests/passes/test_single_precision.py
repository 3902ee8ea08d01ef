from __future__ import annotations

from structure import assert_becomes
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.passes.single_precision import SinglePrecision


def test_operands_are_converted_once_and_results_back() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float16")) -> R.Tensor((2, 3), "float16"):
            with R.dataflow():
                y = R.exp(x)
                z = R.nn.softmax(y)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 3), "float16")) -> R.Tensor((2, 3), "float16"):
            with R.dataflow():
                y = R.exp(x)
                a = R.astype(y, "float32")
                b = R.nn.softmax(a)
                z = R.astype(b, "float16")
                R.output(z)
            return z

    assert_becomes(SinglePrecision(), Before, Expected)


def test_single_precision_stays_as_it_is() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")):
            with R.dataflow():
                y = R.nn.softmax(x)
                R.output(y)
            return y

    assert_becomes(SinglePrecision(), Before, Before)
