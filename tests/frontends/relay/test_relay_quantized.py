"""Quantized operators against exact integer arithmetic in Python."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_programs import assert_close, compute, numbers


def requantized(
    value: int, factor: float, zero_point: int, limits: tuple[int, int], to_nearest: bool = False
) -> int:
    """`value * factor` as Relay rounds it: the factor has 31 bits; halves go upwards."""
    fraction, exponent = math.frexp(factor)
    exact = (
        Fraction(value)
        * Fraction(math.floor(fraction * 2**31 + 0.5), 2**31)
        * Fraction(2) ** exponent
    )
    if to_nearest and exact < 0:
        rounded = -math.floor(-exact + Fraction(1, 2))
    else:
        rounded = math.floor(exact + Fraction(1, 2))
    return min(max(rounded + zero_point, limits[0]), limits[1])


INT8, UINT8 = (-128, 127), (0, 255)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    scale=st.floats(2**-10, 2.0, width=32),
    out_scale=st.floats(2**-10, 2.0, width=32),
    zero_point=st.integers(-20, 20),
    out_zero_point=st.integers(-20, 20),
    to_nearest=st.booleans(),
)
def test_requantize(
    scale: float, out_scale: float, zero_point: int, out_zero_point: int, to_nearest: bool
) -> None:
    x = np.concatenate((np.arange(-200, 200), [10**6, -(10**6)])).astype("int32")
    rounding = "TONEAREST" if to_nearest else "UPWARD"
    body = (
        f"qnn.requantize(%x, {scale!r}f, {zero_point}, {out_scale!r}f, {out_zero_point}, "
        f'rounding="{rounding}", out_dtype="int8")'
    )
    (result,) = compute(body, {"x": x})
    expected = [
        requantized(int(v) - zero_point, scale / out_scale, out_zero_point, INT8, to_nearest)
        for v in x
    ]
    assert_close(result, np.array(expected, "int8"))


def test_requantize_each_channel() -> None:
    x = numbers(2, 3, 4, dtype="int32") * 100
    scales = np.array([0.5, 0.013, 3.7], "float32")
    body = 'qnn.requantize(%x, %s, 0, 0.25f, 3, axis=1, out_dtype="uint8")'
    (result,) = compute(body, {"x": x, "s": scales}, ("s",))
    expected = [
        [
            [requantized(int(v), float(s) / 0.25, 3, UINT8) for v in row]
            for s, row in zip(scales, r, strict=True)
        ]
        for r in x
    ]
    assert_close(result, np.array(expected, "uint8").reshape(x.shape))


def test_quantize_and_dequantize() -> None:
    x = np.array([[-3.0, -0.25, -0.75, 0.25, 0.1], [0.75, 5.0, 100.0, -100.0, 0.0]], "float32")
    (result,) = compute('qnn.quantize(%x, 0.5f, 10, out_dtype="uint8")', {"x": x})
    halves_away_from_zero = np.sign(x) * np.floor(np.abs(x) / 0.5 + 0.5)
    assert_close(result, (halves_away_from_zero + 10).clip(0, 255).astype("uint8"))
    q = numbers(2, 3, dtype="int8")
    (result,) = compute("qnn.dequantize(%q, 0.5f, 3)", {"q": q})
    assert_close(result, ((q.astype("int32") - 3) * 0.5).astype("float32"))
    scales = np.array([0.5, 2.0], "float32")
    inputs = {"q": q, "s": scales, "z": np.array([1, -2], "int32")}
    (result,) = compute("qnn.dequantize(%q, %s, %z, axis=0)", inputs)
    expected = (q - inputs["z"][:, None]) * scales[:, None]
    assert_close(result, expected.astype("float32"))


@pytest.mark.parametrize("constant", [True, False])
def test_quantized_sums_of_products(constant: bool) -> None:
    x, w = numbers(2, 4, 5, 5, dtype="uint8"), numbers(3, 4, 1, 1, seed=1, dtype="int8")
    constants = ("w",) if constant else ()
    body = (
        "qnn.conv2d(%x, %w, 3, 1, 0.5f, 0.1f, padding=[1, 1, 1, 1], channels=3, "
        'kernel_size=[1, 1], out_dtype="int32")'
    )
    (result,) = compute(body, {"x": x, "w": w}, constants)
    shifted = x.astype("int32") - 3  # padding is the zero point, so nothing here
    expected = np.einsum("nchw,oc->nohw", shifted, w[:, :, 0, 0].astype("int32") - 1)
    assert_close(result, np.pad(expected, ((0, 0), (0, 0), (1, 1), (1, 1))).astype("int32"))
    a, b = numbers(2, 4, dtype="int8"), numbers(3, 4, seed=1, dtype="int8")
    zero_points = np.array([1, 2, 3], "int32")
    body = 'qnn.dense(%a, %w, -5, %z, 0.5f, 0.1f, units=3, out_dtype="int32")'
    (result,) = compute(body, {"a": a, "w": b, "z": zero_points}, constants)
    expected = (a.astype("int32") + 5) @ (b.astype("int32") - zero_points[:, None]).T
    assert_close(result, expected)
    body = 'qnn.batch_matmul(%a, %w, 1, 2, 0.5f, 0.1f, out_dtype="int32")'
    (result,) = compute(body, {"a": a[None], "w": b[None]}, constants)
    assert_close(result, ((a.astype("int32") - 1) @ (b.astype("int32") - 2).T)[None])


def test_quantized_element_by_element() -> None:
    x, y = numbers(2, 3, dtype="int8") * 15, numbers(2, 3, seed=1, dtype="int8") * 15
    inputs = {"x": x, "y": y}
    for name, sign in (("add", 1), ("subtract", -1)):
        body = f"qnn.{name}(%x, %y, 0.5f, 3, 0.1f, -2, 0.25f, 7)"
        (result,) = compute(body, inputs)
        expected = [
            requantized(int(a) - 3, 0.5 / 0.25, 0, (-(2**31), 2**31))
            + sign * requantized(int(b) + 2, float(np.float32(0.1)) / 0.25, 0, (-(2**31), 2**31))
            + 7
            for a, b in zip(x.flat, y.flat, strict=True)
        ]
        assert_close(result, np.array(expected).clip(-128, 127).astype("int8").reshape(2, 3))
    (result,) = compute("qnn.mul(%x, %y, 0.5f, 3, 0.1f, -2, 2f, 7)", inputs)
    factor = float(np.float32(0.5) * np.float32(0.1)) / 2.0
    expected = [
        requantized((int(a) - 3) * (int(b) + 2), factor, 7, INT8)
        for a, b in zip(x.flat, y.flat, strict=True)
    ]
    assert_close(result, np.array(expected, "int8").reshape(2, 3))
    body = "qnn.concatenate((%x, %y), (0.5f, 0.25f), (3, 7), 0.25f, 7, axis=1)"
    (result,) = compute(body, inputs)
    left = [requantized(int(a) - 3, 2.0, 7, INT8) for a in x.flat]
    assert_close(result, np.concatenate((np.array(left, "int8").reshape(2, 3), y), 1))
    (result,) = compute("qnn.tanh(%x, 0.02f, 3, 0.01f, 7)", {"x": x})
    real = np.tanh((x.astype("float32") - 3) * np.float32(0.02)) / np.float32(0.01)
    assert np.abs(result - (real + 7).clip(-128, 127)).max() <= 0.51


def test_quantized_transposed_convolution() -> None:
    x, w = numbers(1, 2, 3, 3, dtype="int8"), numbers(2, 3, 1, 1, seed=1, dtype="int8")
    body = (
        "qnn.conv2d_transpose(%x, %w, 3, 1, 0.5f, 0.1f, channels=3, kernel_size=[1, 1], "
        'strides=[2, 2], out_dtype="int32")'
    )
    (result,) = compute(body, {"x": x, "w": w}, ("w",))
    sums = np.einsum("nchw,co->nohw", x.astype("int32") - 3, w[:, :, 0, 0].astype("int32") - 1)
    expected = np.zeros((1, 3, 5, 5), "int32")
    expected[:, :, ::2, ::2] = sums
    assert_close(result, expected)


def test_integer_convolution_and_pooling() -> None:
    x, w = numbers(1, 4, 4, 4, dtype="int8"), numbers(3, 4, 1, 1, seed=1, dtype="int8")
    body = 'nn.conv2d(%x, %w, out_dtype="int32")'
    (result,) = compute(body, {"x": x, "w": w}, ("w",))
    products = np.einsum("nchw,oc->nohw", x.astype("int32"), w[:, :, 0, 0].astype("int32"))
    assert_close(result, products.astype("int32"))
    (result,) = compute("nn.max_pool2d(%x, pool_size=[2, 2], strides=[2, 2])", {"x": x})
    assert_close(result, x.reshape(1, 4, 2, 2, 2, 2).max((3, 5)))


def test_fixed_point_multiply() -> None:
    x = np.arange(-9, 9, dtype="int32")
    body = f"fixed_point_multiply(%x, multiplier={3 << 28}, shift=1)"  # 0.375 * 2 ** 1
    (result,) = compute(body, {"x": x})
    assert_close(result, np.floor(x * 0.75 + 0.5).astype("int32"))
