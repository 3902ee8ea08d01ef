"""Operators on elements, reductions, shapes and indices against NumPy."""

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


BLOCKS = np.arange(24, dtype="float32").reshape(1, 4, 2, 3)
INDICES = np.array([[2, 0], [1, 1]], "int32")

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
    # shapes
    ("reshape(%x, newshape=[-1, 0])", {"x": X[0]}, lambda x: x.reshape(3, 4)),
    ("reshape(%x, newshape=[0, -2])", {"x": X}, lambda x: x),
    ("reshape(%x, newshape=[-3, -2])", {"x": X}, lambda x: x.reshape(6, 4)),
    ("reshape(%x, newshape=[-4, 1, -1, -2])", {"x": X}, lambda x: x.reshape(1, 2, 3, 4)),
    ("contrib_reverse_reshape(%x, newshape=[-1, 0])", {"x": X}, lambda x: x.reshape(6, 4)),
    ("reshape_like(%x, %y)", {"x": X, "y": numbers(4, 6)}, lambda x, y: x.reshape(4, 6)),
    (
        "reshape_like(%x, %y, lhs_begin=1, rhs_begin=1)",
        {"x": X, "y": numbers(5, 12)},
        lambda x, y: x.reshape(2, 12),
    ),
    ("transpose(%x, axes=None)", {"x": X}, lambda x: x.transpose()),
    ("transpose(%x, axes=[1, -1, 0])", {"x": X}, lambda x: x.transpose(1, 2, 0)),
    ("expand_dims(%x, axis=1, num_newaxis=2)", {"x": X}, lambda x: x[:, None, None]),
    ("expand_dims(%x, axis=-1)", {"x": X}, lambda x: x[..., None]),
    ("squeeze(%x)", {"x": X[:1, :, :1]}, lambda x: x.squeeze()),
    ("squeeze(%x, axis=[-1])", {"x": X[:1, :, :1]}, lambda x: x.squeeze(-1)),
    ("nn.batch_flatten(%x)", {"x": X}, lambda x: x.reshape(2, 12)),
    (
        "concatenate((%x, %y), axis=-1)",
        {"x": X, "y": X + 1},
        lambda x, y: np.concatenate((x, y), 2),
    ),
    ("stack((%x, %y), axis=-1)", {"x": X, "y": X + 1}, lambda x, y: np.stack((x, y), -1)),
    ("split(%x, indices_or_sections=[1, 3], axis=2)", {"x": X}, lambda x: np.split(x, [1, 3], 2)),
    ("split(%x, indices_or_sections=1)", {"x": X}, lambda x: [x]),
    ("tile(%x, reps=[2, 1, 1, 3])", {"x": X}, lambda x: np.tile(x, (2, 1, 1, 3))),
    ("repeat(%x, repeats=2, axis=1)", {"x": X}, lambda x: x.repeat(2, 1)),
    ("repeat(%x, repeats=3)", {"x": X}, lambda x: x.repeat(3)),
    ("reverse(%x, axis=1)", {"x": X}, lambda x: x[:, ::-1]),
    ("broadcast_to(%x, shape=[2, 3, 4])", {"x": Y}, lambda x: np.broadcast_to(x, (2, 3, 4))),
    ("broadcast_to_like(%y, %x)", {"y": Y, "x": X}, lambda y, x: np.broadcast_to(y, x.shape)),
    ("collapse_sum_like(%x, %y)", {"x": X, "y": Y}, lambda x, y: x.sum(0)),
    ("collapse_sum_to(%x, shape=[3, 1])", {"x": X}, lambda x: x.sum((0, 2))[:, None]),
    (
        "meshgrid((%x, %y))",
        {"x": X[0, 0], "y": Y[0]},
        lambda x, y: np.meshgrid(x, y, indexing="ij"),
    ),
    (
        'einsum((%x, %y), equation="bij,jk->bik")',
        {"x": X, "y": numbers(4, 5)},
        lambda x, y: np.einsum("bij,jk->bik", x, y),
    ),
    (
        "nn.pad(%x, 1.5f, pad_width=[[0, 0], [1, 2], [0, 1]])",
        {"x": X},
        lambda x: np.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=1.5),
    ),
    (
        'nn.pad(%x, 0, pad_width=[[0, 0], [1, 2], [2, 1]], pad_mode="edge")',
        {"x": X},
        lambda x: np.pad(x, ((0, 0), (1, 2), (2, 1)), "edge"),
    ),
    (
        'nn.pad(%x, 0f, pad_width=[[0, 0], [1, 2], [2, 1]], pad_mode="reflect")',
        {"x": X},
        lambda x: np.pad(x, ((0, 0), (1, 2), (2, 1)), "reflect"),
    ),
    (
        "nn.pad(%x, pad_value=7f, pad_width=[[1, 0], [0, 0], [0, 0]])",
        {"x": INTS},
        lambda x: np.pad(x, ((1, 0), (0, 0), (0, 0)), constant_values=7),
    ),
    (
        "nn.mirror_pad(%x, pad_width=[[0, 0], [1, 2], [2, 1]])",
        {"x": X},
        lambda x: np.pad(x, ((0, 0), (1, 2), (2, 1)), "symmetric"),
    ),
    (
        'nn.mirror_pad(%x, mode="REFLECT", pad_width=[[0, 0], [1, 2], [2, 1]])',
        {"x": X},
        lambda x: np.pad(x, ((0, 0), (1, 2), (2, 1)), "reflect"),
    ),
    (
        "nn.depth_to_space(%x, block_size=2)",
        {"x": BLOCKS},
        lambda x: x.reshape(1, 2, 2, 1, 2, 3).transpose(0, 3, 4, 1, 5, 2).reshape(1, 1, 4, 6),
    ),
    (
        "nn.space_to_depth(%x, block_size=2)",
        {"x": BLOCKS.reshape(1, 1, 4, 6)},
        lambda x: x.reshape(1, 1, 2, 2, 3, 2).transpose(0, 3, 5, 1, 2, 4).reshape(1, 4, 2, 3),
    ),
    (
        "nn.batch_to_space_nd(nn.space_to_batch_nd(%x, block_shape=[2], paddings=[[1, 1]]), "
        "block_shape=[2], crops=[[1, 1]])",
        {"x": X[:, :2]},
        lambda x: x,
    ),
    (
        'layout_transform(%x, src_layout="NCHW", dst_layout="NHWC")',
        {"x": BLOCKS},
        lambda x: x.transpose(0, 2, 3, 1),
    ),
    (
        'layout_transform(%x, src_layout="NCHW", dst_layout="NCHW2c")',
        {"x": BLOCKS},
        lambda x: x.reshape(1, 2, 2, 2, 3).transpose(0, 1, 3, 4, 2),
    ),
    (
        'layout_transform(layout_transform(%x, src_layout="NCHW", dst_layout="NCHW2c"), '
        'src_layout="NCHW2c", dst_layout="NHWC")',
        {"x": BLOCKS},
        lambda x: x.transpose(0, 2, 3, 1),
    ),
    # slices and indices
    (
        "strided_slice(%x, begin=[0, -2], end=[2, 2147483647], strides=[1], axes=[0, 1])",
        {"x": X},
        lambda x: x[0:2, -2:],
    ),
    (
        "strided_slice(%x, begin=[2], end=[-10], strides=[-1], axes=[1])",
        {"x": X},
        lambda x: x[:, ::-1],
    ),
    (
        "strided_slice(%x, begin=[0, 1, 1], end=[1, -1, 2], strides=[1], "
        'slice_mode="size", axes=None)',
        {"x": X},
        lambda x: x[0:1, 1:, 1:3],
    ),
    ("slice_like(%x, %y, axes=[-1])", {"x": X, "y": numbers(9, 9, 2)}, lambda x, y: x[..., :2]),
    ("take(%x, %i, axis=1)", {"x": X, "i": INDICES}, lambda x, i: x.take(i, 1)),
    ("take(%x, %i)", {"x": X, "i": INDICES}, lambda x, i: x.take(i)),
    (
        'take(%x, %i, axis=0, mode="wrap")',
        {"x": X, "i": INDICES},
        lambda x, i: x.take(i, 0, mode="wrap"),
    ),
    ("take(%x, %i, axis=0)", {"x": X, "i": INDICES}, lambda x, i: x.take(i, 0, mode="clip")),
    (
        "take(%x, %i, axis=1, batch_dims=1)",
        {"x": X, "i": INDICES},
        lambda x, i: np.stack([row.take(part, 0) for row, part in zip(x, i, strict=True)]),
    ),
    (
        "gather(%x, %i, axis=1)",
        {"x": X[..., 0], "i": INDICES},
        lambda x, i: np.take_along_axis(x, i, 1),
    ),
    (
        "gather_nd(%x, %i)",
        {"x": X, "i": np.array([[0, 1, 1], [2, 0, 1]], "int32")},
        lambda x, i: x[i[0], i[1]],
    ),
    (
        "adv_index((%x, %i, %j))",
        {"x": X, "i": INDICES[1], "j": INDICES[0]},
        lambda x, i, j: x[i, j],
    ),
    (
        'one_hot(%i, 2f, -1f, depth=4, axis=-1, dtype="float32")',
        {"i": INDICES},
        lambda i: np.where(np.arange(4) == i[..., None], np.float32(2), np.float32(-1)),
    ),
    ("trilu(%x, 1, upper=True)", {"x": Y}, lambda x: np.triu(x, 1)),
    ("trilu(%x, 0, upper=False)", {"x": Y}, np.tril),
    (
        "reverse_sequence(%x, %i, seq_axis=1, batch_axis=0)",
        {"x": X, "i": np.array([2, 3], "int32")},
        lambda x, i: np.stack(
            [np.concatenate((r[:n][::-1], r[n:])) for r, n in zip(x, i, strict=True)]
        ),
    ),
    (
        "sequence_mask(%x, %i, mask_value=-1f, axis=1)",
        {"x": X, "i": np.array([2, 1], "int32")},
        lambda x, i: np.where(np.arange(3)[None, :, None] < i[:, None, None], x, np.float32(-1)),
    ),
    (
        "unravel_index(%i, %s)",
        {"i": np.array([22, 41], "int32"), "s": np.array([7, 6], "int32")},
        lambda i, s: np.stack(np.unravel_index(i, s)).astype("int32"),
    ),
    # sorting and scans
    ("sort(%x, axis=1)", {"x": X}, lambda x: np.sort(x, 1)),
    ("sort(%x, is_ascend=False)", {"x": X}, lambda x: np.sort(x, -1)[..., ::-1]),
    ('argsort(%x, axis=1, dtype="int32")', {"x": X}, lambda x: x.argsort(1).astype("int32")),
    (
        'topk(%x, k=2, axis=-1, dtype="int32")',
        {"x": X},
        lambda x: [np.sort(x)[..., :-3:-1], x.argsort()[..., :-3:-1].astype("int32")],
    ),
    (
        'topk(%x, k=1, axis=1, ret_type="values", is_ascend=True)',
        {"x": X},
        lambda x: x.min(1, keepdims=True),
    ),
    ("cumsum(%x, axis=1)", {"x": X}, lambda x: x.cumsum(1)),
    ('cumsum(%x, dtype="int64")', {"x": INTS}, lambda x: x.cumsum(dtype="int64")),
    (
        "cumprod(%x, axis=1, exclusive=True)",
        {"x": X},
        lambda x: np.concatenate((np.ones_like(x[:, :1]), x[:, :-1].cumprod(1)), 1),
    ),
    # tensors from nothing
    (
        'add(%x, arange(0f, 4f, 1f, start=0f, stop=4f, step=1f, dtype="float32"))',
        {"x": X},
        lambda x: x + np.arange(4, dtype="float32"),
    ),
    (
        'full(2.5f, shape=[2, 2], dtype="float32") + full_like(%x, 1f)',
        {"x": X[0, :2, :2]},
        lambda x: np.full((2, 2), 3.5, "float32"),
    ),
    (
        'ones(shape=[4], dtype="float32") + zeros_like(%x) * ones_like(%x)',
        {"x": X},
        lambda x: np.ones_like(x),
    ),
    (
        'multiply(shape_of(%x, dtype="int32"), ndarray_size(%x, dtype="int32"))',
        {"x": X},
        lambda x: np.array([48, 72, 96], "int32"),
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


SCATTERS: list[tuple[str, Callable[[np.ndarray, np.ndarray], None]]] = [
    ("scatter(%x, %i, %u, axis=1)", lambda x, u: x.__setitem__(([0, 1], [2, 0]), u[:, 0])),
    ("scatter_add(%x, %i, %u, axis=1)", lambda x, u: np.add.at(x, ([0, 1], [2, 0]), u[:, 0])),
    (
        'scatter_elements(%x, %i, %u, axis=1, reduction="max")',
        lambda x, u: np.maximum.at(x, ([0, 1], [2, 0]), u[:, 0]),
    ),
]


@pytest.mark.parametrize(("body", "change"), SCATTERS)
def test_scatter(body: str, change: Callable[[np.ndarray, np.ndarray], None]) -> None:
    x, updates = numbers(2, 3), numbers(2, 1, seed=1)
    indices = np.array([[2], [0]], "int32")
    (result,) = compute(body, {"x": x, "i": indices, "u": updates})
    expected = x.copy()
    change(expected, updates)
    assert_close(result, expected)


def test_scatter_nd_has_coordinates_first() -> None:
    x, updates = numbers(2, 3), numbers(2, seed=1)
    indices = np.array([[0, 1], [2, 0]], "int32")  # elements (0, 2) and (1, 0)
    body = 'scatter_nd(%x, %i, %u, mode="add")'
    (result,) = compute(body, {"x": x, "i": indices, "u": updates})
    np.add.at(x, (indices[0], indices[1]), updates)
    assert_close(result, x)
