"""Operators on elements, reductions and normalizations against NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from relay_programs import assert_close, compute, numbers

X = numbers(2, 3, 4)
POSITIVE = np.abs(X) + np.float32(0.5)
Y = numbers(3, 4, seed=1)
INTS = numbers(2, 3, 4, dtype="int32")
SPECIAL = np.array([0, 1, np.inf, -np.inf, np.nan], "float32")
HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 0.2, -0.7, 3, np.inf, -np.inf], "float32")
FLAGS = numbers(2, 3, 4, dtype="bool")

Case = tuple[str, dict[str, np.ndarray], Callable[..., Any]]


def erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(value) for value in x.flat], x.dtype).reshape(x.shape)


UNARY: list[tuple[str, np.ndarray, Callable[[np.ndarray], np.ndarray]]] = [
    ("abs", X, np.abs),
    ("acos", np.tanh(X), np.arccos),
    ("acosh", POSITIVE + 1, np.arccosh),
    ("asin", np.tanh(X), np.arcsin),
    ("asinh", X, np.arcsinh),
    ("atan", X, np.arctan),
    ("atanh", np.tanh(X) / 2, np.arctanh),
    ("bitwise_not", INTS, np.invert),
    ("ceil", X, np.ceil),
    ("copy", X, np.copy),
    ("cos", X, np.cos),
    ("cosh", X, np.cosh),
    ("erf", X, erf),
    ("exp", X, np.exp),
    ("floor", X, np.floor),
    ("isfinite", SPECIAL, np.isfinite),
    ("isinf", SPECIAL, np.isinf),
    ("isnan", SPECIAL, np.isnan),
    ("log", POSITIVE, np.log),
    ("log10", POSITIVE, np.log10),
    ("log2", POSITIVE, np.log2),
    ("logical_not", FLAGS, np.logical_not),
    ("negative", INTS, np.negative),
    ("nn.relu", X, lambda x: np.maximum(x, 0)),
    ("round", HALVES, lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x) + 0.0),
    ("rsqrt", POSITIVE, lambda x: 1 / np.sqrt(x)),
    ("sigmoid", X, lambda x: 1 / (1 + np.exp(-x))),
    ("sign", X, np.sign),
    ("sin", X, np.sin),
    ("sinh", X, np.sinh),
    ("sqrt", POSITIVE, np.sqrt),
    ("tan", X, np.tan),
    ("tanh", X, np.tanh),
    ("trunc", X * 3, np.trunc),
]
UNARY = [(name, np.asarray(x), function) for name, x, function in UNARY]


def test_unary_operators() -> None:
    """All in one program: the results are a tuple of one field each."""
    inputs = {f"x{i}": x for i, (_, x, _) in enumerate(UNARY)}
    calls = ", ".join(f"{name}(%x{i})" for i, (name, _, _) in enumerate(UNARY))
    results = compute(f"({calls})", inputs)
    assert len(results) == len(UNARY)
    for result, (_, x, function) in zip(results, UNARY, strict=True):
        assert_close(result, function(x), 1e-4)


def truncated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.trunc(x / y), x.dtype)


NONZERO = np.where(INTS == 0, 3, INTS).astype("int32")
BINARY: list[tuple[str, np.ndarray, np.ndarray, Callable[..., np.ndarray]]] = [
    ("add", X, Y, np.add),
    ("bitwise_and", INTS, NONZERO, np.bitwise_and),
    ("bitwise_or", INTS, NONZERO, np.bitwise_or),
    ("bitwise_xor", INTS, NONZERO, np.bitwise_xor),
    ("divide", X, POSITIVE, np.divide),
    ("divide", INTS, NONZERO, truncated),
    ("equal", INTS, NONZERO, np.equal),
    ("floor_divide", INTS, NONZERO, np.floor_divide),
    ("floor_mod", INTS, NONZERO, np.mod),
    ("greater", X, Y, np.greater),
    ("greater_equal", X, Y, np.greater_equal),
    ("left_shift", INTS, np.abs(NONZERO), np.left_shift),
    ("less", X, Y, np.less),
    ("less_equal", INTS, NONZERO, np.less_equal),
    ("logical_and", FLAGS, ~FLAGS[:1], np.logical_and),
    ("logical_or", FLAGS, FLAGS[:1], np.logical_or),
    ("logical_xor", FLAGS, FLAGS[:1], np.logical_xor),
    ("maximum", X, Y, np.maximum),
    ("minimum", X, Y, np.minimum),
    ("mod", INTS, NONZERO, np.fmod),
    ("multiply", X, Y, np.multiply),
    ("not_equal", INTS, NONZERO, np.not_equal),
    ("power", POSITIVE, Y, np.power),
    ("right_shift", INTS, np.abs(NONZERO), np.right_shift),
    ("subtract", X, Y, np.subtract),
    ("trunc_divide", INTS, NONZERO, truncated),
    ("trunc_divide", X, POSITIVE, truncated),
    ("trunc_mod", INTS, NONZERO, np.fmod),
]


def test_binary_operators_broadcast() -> None:
    inputs: dict[str, np.ndarray] = {}
    for i, (_, x, y, _) in enumerate(BINARY):
        inputs |= {f"x{i}": x, f"y{i}": y}
    calls = ", ".join(f"{name}(%x{i}, %y{i})" for i, (name, *_) in enumerate(BINARY))
    for result, (_, x, y, function) in zip(compute(f"({calls})", inputs), BINARY, strict=True):
        assert_close(result, function(x, y), 1e-4)


def test_infix_operators_have_precedence() -> None:
    (result,) = compute("%x + %x * %x - %x / 2f", {"x": X})
    assert_close(result, X + X * X - X / 2)
    (result,) = compute("%x < 0f", {"x": X})
    assert_close(result, X < 0)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


# An expression of %x (and others), its inputs, and the same in NumPy.
CASES: list[Case] = [
    # elements
    ('cast(%x, dtype="int32")', {"x": X * 3}, lambda x: x.astype("int32")),
    ("cast_like(%x, %y)", {"x": INTS, "y": X}, lambda x, y: x.astype("float32")),
    ("clip(%x, a_min=-0.5f, a_max=1f)", {"x": X}, lambda x: x.clip(-0.5, 1)),
    ("clip(%x, a_min=-3f, a_max=300f)", {"x": numbers(9, dtype="int8")}, lambda x: x.clip(-3)),
    ("where(%c, %x, %y)", {"c": FLAGS, "x": X, "y": Y}, np.where),
    ("where(%c, %x, 0f)", {"c": INTS, "x": X}, lambda c, x: np.where(c, x, np.float32(0))),
    # reductions
    ("sum(%x)", {"x": X}, lambda x: x.sum()),
    ("sum(%x, axis=[-1], keepdims=True)", {"x": X}, lambda x: x.sum(-1, keepdims=True)),
    ("max(%x, axis=[0, 2])", {"x": X}, lambda x: x.max((0, 2))),
    ("min(%x, axis=[1], exclude=True)", {"x": X}, lambda x: x.min((0, 2))),
    ("mean(%x, axis=[1])", {"x": X}, lambda x: x.mean(1)),
    ("prod(%x, axis=[1])", {"x": X}, lambda x: x.prod(1)),
    ("all(%x, axis=[1])", {"x": FLAGS}, lambda x: x.all(1)),
    ("any(%x, axis=[2], keepdims=True)", {"x": FLAGS}, lambda x: x.any(2, keepdims=True)),
    ("argmax(%x)", {"x": X}, lambda x: np.int32(x.argmax())),
    (
        "argmax(%x, axis=[1], keepdims=True)",
        {"x": X},
        lambda x: x.argmax(1, keepdims=True).astype("int32"),
    ),
    ("argmin(%x, axis=[2])", {"x": X}, lambda x: x.argmin(2).astype("int32")),
    (
        "argmax(%x, axis=[0], select_last_index=True)",
        {"x": np.ones((3, 2), "float32")},
        lambda x: np.array([2, 2], "int32"),
    ),
    ("variance(%x, mean(%x, axis=[1], keepdims=True), axis=[1])", {"x": X}, lambda x: x.var(1)),
    (
        "variance(%x, mean(%x, axis=[1], keepdims=True), axis=[1], unbiased=True)",
        {"x": X},
        lambda x: x.var(1, ddof=1),
    ),
    # normalizations
    ("nn.softmax(%x, axis=1)", {"x": X}, lambda x: softmax(x, 1)),
    ("nn.fast_softmax(%x)", {"x": X}, lambda x: softmax(x, -1)),
    ("nn.log_softmax(%x, axis=1)", {"x": X}, lambda x: np.log(softmax(x, 1))),
    (
        "nn.l2_normalize(%x, eps=1e-10f, axis=[1])",
        {"x": X},
        lambda x: x / np.sqrt((x * x).sum(1, keepdims=True)),
    ),
    ("nn.leaky_relu(%x)", {"x": X}, lambda x: np.where(x < 0, x / 4, x)),
    ("nn.prelu(%x, %a, axis=2)", {"x": X, "a": Y[0]}, lambda x, a: np.where(x < 0, x * a, x)),
    (
        "nn.fifo_buffer(%x, %y, axis=1)",
        {"x": X[:, :1], "y": X},
        lambda x, y: np.concatenate((y[:, 1:], x), 1),
    ),
]


@pytest.mark.parametrize(("body", "inputs", "reference"), CASES, ids=[case[0] for case in CASES])
def test_operator(
    body: str, inputs: dict[str, np.ndarray], reference: Callable[..., np.ndarray]
) -> None:
    inputs = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    results = compute(body, inputs)
    expected = reference(*inputs.values())
    several = isinstance(expected, (list, tuple))
    for result, part in zip(results, expected if several else [expected], strict=True):
        assert_close(result, np.asarray(part))
