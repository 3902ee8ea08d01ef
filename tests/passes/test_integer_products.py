"""Products of quantized tensors become kernels of 8 bits, or exact ones of single precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from structure import assert_becomes
from tvm import relax
from tvm.ir import IRModule
from tvm.relax import Expr, Var, const
from tvm.relax import op as R

from hios_tvm.passes.dataflow import bindings, operator_name
from hios_tvm.passes.integer_products import IntegerProducts

SHAPE = (1, 6, 5, 5)
WEIGHT = (np.arange(6 * 9 * 2) % 11 - 5).astype("int32").reshape(2, 6, 3, 3)


def module_of(function: Callable[[Var], Expr], dtype: str = "uint8") -> IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(SHAPE, dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(function(x))
        builder.emit_func_output(y)
    return builder.get()


def shifted(x: Expr, zero: int) -> Expr:
    return R.subtract(R.astype(x, "int32"), const(zero, "int32"))


def convolved(x: Expr, weight: np.ndarray = WEIGHT, padding: int = 1) -> Expr:
    return R.nn.conv2d(x, const(weight), padding=padding, out_dtype="int32")


def packed() -> np.ndarray:
    return np.pad(WEIGHT, [(0, 0), (0, 2), (0, 0), (0, 0)]).astype("int8")


def less_zero(sums: Expr, zero: int) -> Expr:
    totals = WEIGHT.sum((1, 2, 3)).reshape(1, 2, 1, 1)
    return R.add(sums, const((-zero * totals).astype("int32")))


def test_zero_points_are_taken_from_the_sums_and_pad_the_image() -> None:
    def expected(x: Var) -> Expr:
        image = R.nn.pad(x, [0, 0, 0, 2, 1, 1, 1, 1], "constant", 3)
        return less_zero(convolved(image, packed(), 0), 3)

    before = module_of(lambda x: convolved(shifted(x, 3)))
    assert_becomes(IntegerProducts(for_cpus=True), before, module_of(expected))


def test_signed_images_are_shifted() -> None:
    def expected(x: Var) -> Expr:
        wide = R.astype(x, "int32")
        unsigned = R.astype(R.add(wide, const(128, "int32")), "uint8")
        image = R.nn.pad(unsigned, [0, 0, 0, 2, 1, 1, 1, 1], "constant", 128)
        return less_zero(convolved(image, packed(), 0), 128)

    before = module_of(lambda x: convolved(R.astype(x, "int32")), "int8")
    assert_becomes(IntegerProducts(for_cpus=True), before, module_of(expected, "int8"))


def test_a_bias_and_a_zero_point_are_added_at_once() -> None:
    bias = np.array([5, 7], "int32").reshape(1, 2, 1, 1)

    def expected(x: Var) -> Expr:
        image = R.nn.pad(x, [0, 0, 0, 2, 0, 0, 0, 0], "constant", 3)
        totals = WEIGHT.sum((1, 2, 3)).reshape(1, 2, 1, 1)
        constant = const((bias - 3 * totals).astype("int32"))
        return R.add(convolved(image, packed(), 0), constant)

    before = module_of(lambda x: R.add(convolved(shifted(x, 3), padding=0), const(bias)))
    assert_becomes(IntegerProducts(for_cpus=True), before, module_of(expected))


@pytest.mark.parametrize("for_cpus", [True, False])
def test_large_weights_are_multiplied_in_single_precision(for_cpus: bool) -> None:
    weight = WEIGHT * 40 if for_cpus else WEIGHT

    def expected(x: Var) -> Expr:
        floats = R.astype(shifted(x, 3), "float32")
        return R.astype(R.nn.conv2d(floats, const(weight.astype("float32")), padding=1), "int32")

    before = module_of(lambda x: convolved(shifted(x, 3), weight))
    assert_becomes(IntegerProducts(for_cpus=for_cpus), before, module_of(expected))


@pytest.mark.parametrize(
    ("length", "dtype", "products"),
    [(257, "float32", 1), (300, "float32", 2), (5000, "int32", 1)],
)
def test_products_are_computed_in_exact_parts(length: int, dtype: str, products: int) -> None:
    """257 * 255 * 256 is the largest sum that single precision holds exactly."""
    builder = relax.BlockBuilder()
    left = relax.Var("left", relax.TensorType((2, length), "uint8"))
    right = relax.Var("right", relax.TensorType((length, 3), "uint8"))
    with builder.function("main", [left, right]):
        with builder.dataflow():
            operands = shifted(left, 256), R.astype(right, "int32")
            y = builder.emit_output(R.matmul(*operands, out_dtype="int32"))
        builder.emit_func_output(y)
    main = IntegerProducts(for_cpus=True)(builder.get())["main"]
    calls = [binding.value for binding in bindings(main)]
    found = [call for call in calls if operator_name(call) == "relax.matmul"]
    assert [str(call.ty.dtype.dtype) for call in found] == [dtype] * products
