"""Operators of real numbers between quantized tensors become operators of integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from structure import assert_becomes
from tvm import relax
from tvm.ir import IRModule
from tvm.relax import Expr, Var, const
from tvm.relax import op as R

from hios_tvm.passes.lower_quantization import LowerQuantization
from hios_tvm.passes.quantized_operators import QuantizedOperators

WEIGHT = np.arange(-9, 9).astype("int8").reshape(2, 1, 3, 3)
SCALES = np.array([0.5, 0.25], "float32")


def module_of(function: Callable[[Var], Expr], dtype: str = "uint8") -> IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 1, 6, 6), dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(function(x))
        builder.emit_func_output(y)
    return builder.get()


def number(value: float, dtype: str = "float32") -> Expr:
    return const(np.array(value, dtype))


def real(x: Expr, scale: float, zero: int, dtype: str = "uint8") -> Expr:
    return R.dequantize(x, number(scale), number(zero, dtype))


def quantized(y: Expr, scale: float, zero: int, dtype: str = "uint8") -> Expr:
    return R.quantize(y, number(scale), number(zero, dtype), out_dtype=dtype)


def rounded(ratio: Expr, zero: int, low: int, high: int) -> Expr:
    steps = R.astype(R.round(ratio), "int32")
    if zero:
        steps = R.add(steps, number(zero, "int32"))
    steps = R.maximum(steps, number(low, "int32"))
    return R.astype(R.minimum(steps, number(high, "int32")), "uint8")


def assert_computes(
    before: Callable[[Var], Expr], expected: Callable[[Var], Expr], dtype: str = "uint8"
) -> None:
    step = tvm.transform.Sequential([QuantizedOperators(), LowerQuantization()])
    assert_becomes(step, module_of(before, dtype), module_of(expected, dtype))


def test_a_convolution_with_bias_and_relu_is_rounded_once() -> None:
    def before(x: Var) -> Expr:
        weight = R.dequantize(const(WEIGHT), const(SCALES), const(np.zeros(2, "int8")), axis=0)
        bias = const(np.array([8, -4], "float32").reshape(1, 2, 1, 1) * 0.125)
        y = R.add(R.nn.conv2d(real(x, 0.5, 3), weight, padding=1), bias)
        return quantized(R.nn.relu(y), 0.125, 7)

    def expected(x: Var) -> Expr:
        steps = R.subtract(R.astype(x, "int32"), number(3, "int32"))
        sums = R.nn.conv2d(steps, const(WEIGHT.astype("int32")), padding=1, out_dtype="int32")
        bias = np.array([4, -4], "int32").reshape(1, 2, 1, 1)
        floats = R.astype(R.add(sums, const(bias)), "float32")
        return rounded(R.multiply(floats, const(SCALES.reshape(1, 2, 1, 1) * 4)), 7, 7, 255)

    assert_computes(before, expected)


def test_what_moves_elements_reads_quantized_tensors() -> None:
    def before(x: Var) -> Expr:
        y = R.nn.max_pool2d(real(x, 0.5, 3), [2, 2], [2, 2])
        return quantized(R.reshape(y, [1, 9]), 0.5, 3)

    def expected(x: Var) -> Expr:
        return R.reshape(R.nn.max_pool2d(x, [2, 2], [2, 2]), [1, 9])

    assert_computes(before, expected)


def test_zeros_around_an_image_are_zero_points() -> None:
    widths = [0, 0, 0, 0, 1, 2, 3, 4]

    def before(x: Var) -> Expr:
        return quantized(R.nn.pad(real(x, 0.5, 3), widths), 0.5, 3)

    assert_computes(before, lambda x: R.nn.pad(x, widths, "constant", 3))


def test_parts_are_quantized_before_they_are_concatenated() -> None:
    def before(x: Var) -> Expr:
        return quantized(R.concat([real(x, 0.5, 0), real(x, 1.0, 0)], 1), 0.5, 0)

    def expected(x: Var) -> Expr:
        other = R.multiply(R.multiply(R.astype(x, "float32"), number(1.0)), number(2.0))
        return R.concat([x, rounded(other, 0, 0, 255)], 1)

    assert_computes(before, expected)


def test_signed_tensors_become_unsigned_inside() -> None:
    def before(x: Var) -> Expr:
        y = quantized(R.clip(real(x, 0.5, 3, "int8"), -1.0, 6.0), 0.25, -8, "int8")
        return real(y, 0.25, -8, "int8")

    def expected(x: Var) -> Expr:
        floats = R.multiply(R.subtract(R.astype(x, "float32"), number(3.0)), number(0.5))
        y = R.astype(rounded(R.multiply(floats, number(4.0)), 120, 116, 144), "float32")
        return R.multiply(R.subtract(y, number(120.0)), number(0.25))

    assert_computes(before, expected, "int8")


def test_averages_are_of_integers() -> None:
    def before(x: Var) -> Expr:
        return R.nn.avg_pool2d(real(x, 0.5, 3), [2, 2])

    def expected(x: Var) -> Expr:
        average = R.nn.avg_pool2d(R.astype(x, "float32"), [2, 2])
        return R.multiply(R.subtract(average, number(3.0)), number(0.5))

    assert_computes(before, expected)


def test_unbounded_numbers_are_divided_and_clipped_as_floats() -> None:
    """Whatever they are, the division rounds as the standard has it, and nothing overflows."""

    def before(x: Var) -> Expr:
        return quantized(R.exp(R.astype(x, "float32")), 0.1, 7)

    def expected(x: Var) -> Expr:
        steps = R.round(R.divide(R.exp(R.astype(x, "float32")), number(0.1)))
        steps = R.maximum(R.add(steps, number(7.0)), number(0.0))
        return R.astype(R.minimum(steps, number(255.0)), "uint8")

    assert_computes(before, expected)


def test_a_function_of_a_product_is_computed_before_it_is_reshaped() -> None:
    def before(x: Var) -> Expr:
        y = real(R.reshape(x, [36]), 0.5, 3)
        return quantized(R.nn.gelu(y), 0.25, 0)

    def expected(x: Var) -> Expr:
        floats = R.multiply(R.subtract(R.astype(x, "float32"), number(3.0)), number(0.5))
        return R.reshape(rounded(R.multiply(R.nn.gelu(floats), number(4.0)), 0, 0, 255), [36])

    assert_computes(before, expected)


def test_what_is_added_to_a_product_is_added_before_the_sum_is_reshaped() -> None:
    other = const(np.arange(36, dtype="float32"))

    def before(x: Var) -> Expr:
        return R.add(real(R.reshape(x, [36]), 0.5, 3), other)

    def expected(x: Var) -> Expr:
        product = R.multiply(R.subtract(R.astype(x, "float32"), number(3.0)), number(0.5))
        return R.reshape(R.add(product, R.reshape(other, [1, 1, 6, 6])), [36])

    assert_computes(before, expected)


def test_quantized_tensors_have_no_nan() -> None:
    def before(x: Var) -> Expr:
        y = real(x, 0.5, 3)
        return R.negative(quantized(R.where(R.isnan(y), number(0.0), y), 0.5, 3))

    assert_computes(before, R.negative)


def test_without_integers_products_are_of_floats() -> None:
    def before(x: Var) -> Expr:
        weight = R.dequantize(const(WEIGHT), number(0.5), number(1, "int8"))
        return R.nn.conv2d(real(x, 0.5, 0), weight)

    def expected(x: Var) -> Expr:
        floats = R.multiply(R.astype(x, "float32"), number(0.5))
        return R.nn.conv2d(floats, const((WEIGHT.astype("float32") - 1) * np.float32(0.5)))

    assert_becomes(LowerQuantization(), module_of(before), module_of(expected))
