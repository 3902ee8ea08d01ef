"""Operators that change shapes, take elements and sort against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from relay_programs import assert_close, compute, numbers

X = numbers(2, 3, 4)
Y = numbers(3, 4, seed=1)
INTS = numbers(2, 3, 4, dtype="int32")

Case = tuple[str, dict[str, np.ndarray], Callable[..., Any]]

BLOCKS = np.arange(24, dtype="float32").reshape(1, 4, 2, 3)
INDICES = np.array([[2, 0], [1, 1]], "int32")

# An expression of %x (and others), its inputs, and the same in NumPy.
CASES: list[Case] = [
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
