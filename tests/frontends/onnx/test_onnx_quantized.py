"""Quantized tensors and their operators, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import NodeCase, assert_cases_agree, case, noise

from hios_tvm.passes import integer_products

Array = np.ndarray
RANDOM = np.random.default_rng(0)


def integers(dtype: str, *shape: int) -> Array:
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min, limits.max, shape).astype(dtype)


def scalar(value: float, dtype: str = "float32") -> Array:
    return np.array(value, dtype)


@pytest.mark.parametrize(("dtype", "point"), [("uint8", 100), ("int8", -3), ("uint16", 30000)])
def test_quantized_tensors(dtype: str, point: int) -> None:
    x, steps = noise(4, 6) * 50, integers(dtype, 4, 6)
    one = {"s": scalar(0.37), "z": scalar(point, dtype)}
    columns = {"s": np.linspace(0.1, 2, 6, dtype="float32"), "z": np.arange(6).astype(dtype)}
    blocks = {"s": np.linspace(0.1, 2, 12, dtype="float32"), "z": np.arange(12).astype(dtype)}
    blocks = {name: values.reshape(4, 3) for name, values in blocks.items()}
    cases = {}
    for op, data in (("QuantizeLinear", x), ("DequantizeLinear", steps)):
        cases[f"{op} of one"] = case(op, {"x": data}, one)
        cases[f"{op} of columns"] = case(op, {"x": data}, columns, axis=1)
        cases[f"{op} of blocks"] = case(op, {"x": data}, blocks, axis=1, block_size=2)
    assert_cases_agree(cases, opset=21)


@pytest.mark.parametrize("most_exact", [2**24, 2**17])
def test_products_of_quantized_tensors(most_exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where single precision would be exact up to small numbers only: in parts, or not."""
    monkeypatch.setattr(integer_products, "_MOST_EXACT", most_exact)
    a, b = {"a": integers("uint8", 3, 4)}, {"b": integers("int8", 4, 5)}
    zero, flat = scalar(12, "uint8"), np.zeros(5, "int8")
    scale, scales = scalar(0.02), np.linspace(0.01, 0.05, 5, dtype="float32")
    out = {"os": scalar(0.3), "oz": scalar(120, "uint8")}
    data = {"x": integers("uint8", 2, 4, 7, 6)}
    weight = {"xz": zero, "wz": scalar(100, "uint8")}
    cases = {
        "products": case("MatMulInteger", {**a, **b}, {"az": zero, "bz": flat}),
        "scaled": case(
            "QLinearMatMul",
            a,
            {"as": scale, "az": zero, **b, "bs": scales, "bz": flat, **out},
        ),
        "convolution": case(
            "ConvInteger",
            data,
            {"w": integers("uint8", 6, 2, 3, 3), **weight},
            group=2,
            pads=[1, 0, 1, 2],
            strides=[2, 1],
        ),
        "dynamic": case("DynamicQuantizeLinear", {"x": noise(4, 6)}, outputs=["y", "s", "z"]),
    }
    for group in (1, 2):
        held = {"xs": scale, "xz": zero, "w": integers("int8", 5 * group, 4 // group, 3, 3)}
        held |= {"ws": np.repeat(scales, group), "wz": np.repeat(flat, group), **out}
        held["b"] = RANDOM.integers(-999, 999, 5 * group).astype("int32")
        cases[f"groups {group}"] = case("QLinearConv", data, held, group=group, pads=[1] * 4)
    assert_cases_agree(cases, opset=21)


def _quantized(name: str, point: int = 100, scale: float = 0.03) -> dict[str, Array]:
    return {f"{name}s": scalar(scale), f"{name}z": scalar(point, "uint8")}


def _microsoft(op: str, tensors: dict[str, Array], order: str, **attributes: object) -> NodeCase:
    """A case of com.microsoft, whose inputs of 2 or more axes are not constant."""
    inputs = {name: array for name, array in tensors.items() if array.ndim > 1}
    weights = {name: array for name, array in tensors.items() if array.ndim < 2}
    names = order.split()
    return case(op, inputs, weights, order=names, domain="com.microsoft", **attributes)


def test_operators_that_quantizers_write() -> None:
    image, other = ({n: integers("uint8", 2, 3, 6, 5)} for n in "ab")
    pair = {**image, **_quantized("a"), **other, **_quantized("b", 3), **_quantized("y", 90, 0.05)}
    one = {**image, **_quantized("a"), **_quantized("y", 90, 0.05)}
    last = {**_quantized("a"), "a": integers("uint8", 2, 6, 5, 3), **_quantized("y", 90, 0.05)}
    matrices = {"a": integers("uint8", 4, 6), **_quantized("a"), "b": integers("int8", 6, 5)}
    matrices |= {"bs": np.linspace(0.01, 0.03, 5, dtype="float32"), "bz": np.zeros(5, "int8")}
    matrices |= {"c": RANDOM.integers(-999, 999, 5).astype("int32"), **_quantized("y", 90, 0.2)}
    floats = {"f": noise(4, 6), "bias": noise(5), "w": integers("int8", 6, 5)}
    floats |= {"ws": scalar(0.02), "wz": scalar(0, "int8")}
    cases = {
        "add": _microsoft("QLinearAdd", pair, "a as az b bs bz ys yz"),
        "multiply": _microsoft("QLinearMul", pair, "a as az b bs bz ys yz"),
        "concat": _microsoft("QLinearConcat", pair, "ys yz a as az b bs bz", axis=1),
        "leaky": _microsoft("QLinearLeakyRelu", one, "a as az ys yz", alpha=0.1),
        "sigmoid": _microsoft("QLinearSigmoid", one, "a as az ys yz"),
        "softmax": _microsoft("QLinearSoftmax", one, "a as az ys yz", axis=-1, opset=13),
        "whole": _microsoft("QLinearGlobalAveragePool", one, "a as az ys yz"),
        "last": _microsoft("QLinearGlobalAveragePool", last, "a as az ys yz", channels_last=1),
        "windows": _microsoft(
            "QLinearAveragePool", one, "a as az ys yz", kernel_shape=[3, 3], pads=[1] * 4
        ),
        "gemm": _microsoft("QGemm", matrices, "a as az b bs bz c ys yz"),
        "gemm to floats": _microsoft("QGemm", matrices, "a as az b bs bz c"),
        "dynamic": _microsoft("DynamicQuantizeMatMul", floats, "f w ws wz bias"),
        "to floats": _microsoft("MatMulIntegerToFloat", matrices, "a b as bs az bz"),
    }
    assert_cases_agree(cases, rtol=1e-5, atol=1)
