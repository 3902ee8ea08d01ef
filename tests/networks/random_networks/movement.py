"""Operators that move, repeat or choose elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from random_networks.broadcasting import upward
from random_networks.builder import Builder, Tensor
from random_networks.menu import pattern

ANY = "fffib"
"""Kinds of tensors that can be moved; most are floats."""


def _integers(b: Builder, values: Any) -> Tensor:
    return b.constant(values, "int64")


@pattern(weight=2)
def transpose(b: Builder) -> None:
    x = b.pick(2, 3, 4, 5, kind=ANY)
    order = [int(axis) for axis in b.rng.permutation(x.rank)]
    b.add("Transpose", x, perm=b.one_of(order, order, order, None))


@pattern(weight=2)
def reshape(b: Builder) -> None:
    """Join two axes or split one; 0 keeps an extent, -1 is found out."""
    x = b.pick(2, 3, 4, kind=ANY)
    axis = b.integer(0, x.rank - 2)
    shape = list(x.shape)
    if b.chance(0.5):
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    else:
        factors = [n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]
        first = b.one_of(*factors)
        shape[axis : axis + 1] = [first, shape[axis] // first]
    if axis > 0 and b.chance(0.3):
        shape[0] = 0
    if b.chance(0.4):
        shape[b.integer(1, len(shape) - 1) if len(shape) > 1 else 0] = -1
    b.add("Reshape", x, _integers(b, shape))


@pattern()
def flatten(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, 5, kind=ANY)
    b.add("Flatten", x, axis=b.one_of(b.integer(0, x.rank), None))


@pattern(weight=2)
def squeeze_unsqueeze(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, kind=ANY)
    ones = [axis for axis, extent in enumerate(x.shape) if extent == 1]
    if ones and b.chance(0.6):
        operator, axes = "Squeeze", b.one_of([b.one_of(*ones)], ones, None)
    else:
        operator, axes = "Unsqueeze", [b.integer(0, x.rank)]
    if b.opset < 13:
        b.add(operator, x, axes=axes)
    else:
        b.add(operator, x, *([] if axes is None else [_integers(b, axes)]))


@pattern(weight=2)
def concat(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, 5, kind=ANY)
    axis = b.integer(0, x.rank - 1)
    others = []
    for _ in range(b.integer(1, 3)):
        shape = list(x.shape)
        shape[axis] = b.integer(1, 5)
        others.append(b.operand(shape, x.dtype))
    at = b.integer(0, len(others))
    negative = b.opset >= 11 and b.chance(0.3)
    b.add("Concat", *others[:at], x, *others[at:], axis=axis - x.rank if negative else axis)


@pattern(weight=2)
def split(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, kind="ffi", where=lambda t: max(t.shape) > 1)
    axis = b.one_of(*[i for i, extent in enumerate(x.shape) if extent > 1])
    extent = x.shape[axis]
    cuts = sorted({b.integer(1, extent - 1) for _ in range(b.integer(1, 3))})
    sizes = [int(n) for n in np.diff([0, *cuts, extent])]
    if b.opset < 13:
        parts = b.add_many("Split", x, outputs=len(sizes), axis=axis, split=sizes)
    elif b.opset >= 18 and b.chance(0.4):
        count = -(-extent // -(-extent // b.integer(2, min(4, extent))))
        parts = b.add_many("Split", x, outputs=count, axis=axis, num_outputs=count)
    else:
        parts = b.add_many("Split", x, _integers(b, sizes), outputs=len(sizes), axis=axis)
    if b.chance(0.5):
        b.add("Concat", *reversed(parts), axis=axis)


@pattern(weight=2)
def slices(b: Builder) -> None:
    """A slice with steps; starts and ends may count from the end, or lie outside."""
    x = b.pick(1, 2, 3, 4, 5, kind=ANY)
    axes = b.axes(x.rank) if b.opset >= 10 else [a % x.rank for a in b.axes(x.rank)]
    starts, ends, steps = [], [], []
    for axis in axes:
        extent = x.shape[axis]
        start = b.integer(0, extent - 1)
        end = b.integer(start + 1, extent)
        step = b.one_of(1, 1, 2, 3)
        if b.opset >= 10 and b.chance(0.25):
            start, end, step = end - 1, start - 1 if start else -extent - 1, -step
        elif b.chance(0.3):
            start, end = start - extent, b.one_of(end, 2**31 - 1, 2**62)
        starts.append(start)
        ends.append(end)
        steps.append(step)
    if b.opset < 10:
        b.add("Slice", x, starts=starts, ends=ends, axes=axes)
    else:
        b.add("Slice", x, *[_integers(b, values) for values in (starts, ends, axes, steps)])


@pattern(weight=2)
def pad(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, kind="fffi" if b.opset >= 11 else "f")
    modes = ["constant", "reflect", "edge"] + (["wrap"] if b.opset >= 19 else [])
    mode = b.one_of(*modes)
    most = [max(0, min(3, n - 1)) if mode == "reflect" else 3 for n in x.shape]
    pads = [b.integer(0, limit) if b.chance(0.6) else 0 for limit in most * 2]
    if mode == "constant" and b.chance(0.15):
        pads[b.integer(0, len(pads) - 1)] = -1
    if b.opset < 11:
        number = 0.5 if mode == "constant" and b.chance(0.5) else None
        b.add("Pad", x, mode=mode, pads=pads, value=number)
        return
    value = b.constant(2, x.dtype) if mode == "constant" and b.chance(0.6) else None
    if b.opset >= 18 and b.chance(0.3):
        axes = [axis % x.rank for axis in b.axes(x.rank)]
        chosen = [pads[a] for a in axes] + [pads[a + x.rank] for a in axes]
        b.add("Pad", x, _integers(b, chosen), value, _integers(b, axes), mode=mode)
    else:
        b.add("Pad", x, _integers(b, pads), *([] if value is None else [value]), mode=mode)


@pattern(since=8)
def expand(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, kind=ANY, where=lambda t: t.value.size < 2000)
    shape = [1 if b.chance(0.2) else n for n in upward(b, x.shape)]
    b.add("Expand", x, _integers(b, shape))


@pattern()
def tile(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, kind=ANY, where=lambda t: t.value.size < 2000)
    b.add("Tile", x, _integers(b, [b.one_of(1, 1, 2, 3) for _ in x.shape]))


def _indices(b: Builder, shape: tuple[int, ...], extent: int, *, negative: bool = True) -> Tensor:
    low = -extent if negative and b.opset >= 11 else 0
    values = b.rng.integers(low, extent, shape).astype(b.one_of("int64", "int32"))
    return b.constant(values) if b.chance(0.6) else b.feed(values)


@pattern(weight=2)
def gather(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, kind=ANY)
    axis = b.integer(0, x.rank - 1)
    shape = b.one_of((), (1,), (4,), (2, 3))
    b.add("Gather", x, _indices(b, shape, x.shape[axis]), axis=axis)


@pattern(since=11)
def gather_elements(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, kind=ANY)
    axis = b.integer(0, x.rank - 1)
    shape = tuple(b.integer(1, 5) if i == axis else n for i, n in enumerate(x.shape))
    b.add("GatherElements", x, _indices(b, shape, x.shape[axis]), axis=axis)


@pattern(since=12)
def gather_nd(b: Builder) -> None:
    x = b.pick(2, 3, 4, kind=ANY)
    batch_dims = b.integer(0, x.rank - 2)
    depth = b.integer(1, x.rank - batch_dims)
    extents = x.shape[batch_dims : batch_dims + depth]
    columns = [b.rng.integers(0, n, (*x.shape[:batch_dims], 3)) for n in extents]
    b.add("GatherND", x, _integers(b, np.stack(columns, -1)), batch_dims=batch_dims)


def _scatter_reduction(b: Builder) -> str | None:
    kinds: list[str | None] = [None]
    kinds += ["add", "mul"] if b.opset >= 16 else []
    kinds += ["max", "min"] if b.opset >= 18 else []
    return kinds[b.integer(0, len(kinds) - 1)]


@pattern(since=11)
def scatter_elements(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4)
    axis = b.integer(0, x.rank - 1)
    count = b.integer(1, x.shape[axis])
    shape = tuple(count if i == axis else n for i, n in enumerate(x.shape))
    order = np.argsort(b.rng.random(x.shape), axis)
    indices = np.take(order, range(count), axis)  # no index twice along the axis
    updates = b.operand(shape, x.dtype)
    reduction = _scatter_reduction(b)
    b.add("ScatterElements", x, _integers(b, indices), updates, axis=axis, reduction=reduction)


@pattern(since=11)
def scatter_nd(b: Builder) -> None:
    x = b.pick(2, 3, 4)
    rows = b.rng.permutation(x.shape[0])[: b.integer(1, x.shape[0])]
    updates = b.operand((len(rows), *x.shape[1:]), x.dtype)
    b.add("ScatterND", x, _integers(b, rows[:, None]), updates, reduction=_scatter_reduction(b))


@pattern(since=9)
def one_hot(b: Builder) -> None:
    depth = b.integer(1, 6)
    index_type = b.one_of("int64", "int32", "float32")
    values = b.rng.integers(-1, depth + 1, b.one_of((3,), (2, 4))).astype(index_type)
    indices = b.feed(values)
    pair = b.constant(b.noise((2,), b.float_type))
    depths = b.constant(b.one_of(depth, [depth]), "int64")
    b.add("OneHot", indices, depths, pair, axis=b.one_of(None, -1, 0, 1))


@pattern()
def top_k(b: Builder) -> None:
    x = b.pick(1, 2, 3, 4, where=lambda t: np.unique(t.value).size == t.value.size)
    axis = b.axis(x.rank) if b.opset >= 11 else b.integer(0, x.rank - 1)
    count = b.integer(1, x.shape[axis])
    if b.opset < 10:
        b.add_many("TopK", x, outputs=2, axis=axis, k=count)
        return
    largest = b.one_of(None, 0, 1) if b.opset >= 11 else None
    b.add_many("TopK", x, _integers(b, [count]), outputs=2, axis=axis, largest=largest)


@pattern(since=14)
def triangle(b: Builder) -> None:
    x = b.pick(2, 3, 4, kind="fi")
    diagonal = [_integers(b, b.integer(-3, 3))] if b.chance(0.6) else []
    b.add("Trilu", x, *diagonal, upper=b.one_of(None, 0, 1))


@pattern(since=9, weight=0.5)
def eye(b: Builder) -> None:
    x = b.pick(2)
    b.add("Mul", x, b.add("EyeLike", x, k=b.integer(-2, 2)))


@pattern(weight=0.7)
def shape_arithmetic(b: Builder) -> None:
    """A reshape to a shape that is computed from the tensor's own, as exporters write it."""
    x = b.pick(3, 4, kind=ANY)
    shape = b.add("Shape", x)
    first = b.add("Gather", shape, _integers(b, [0]), axis=0)
    b.add("Reshape", x, b.add("Concat", first, _integers(b, [-1]), axis=0))


@pattern(weight=0.5)
def channel_shuffle(b: Builder) -> None:
    x = b.pick(4, where=lambda t: t.shape[1] % 2 == 0)
    n, c, h, w = x.shape
    y = b.add("Reshape", x, _integers(b, [n, 2, c // 2, h, w]))
    y = b.add("Transpose", y, perm=[0, 2, 1, 3, 4])
    b.add("Reshape", y, _integers(b, [n, c, h, w]))


@pattern(since=10, weight=0.5)
def reverse_sequence(b: Builder) -> None:
    x = b.pick(2, 3)
    batch_axis = b.integer(0, 1)
    count, length = x.shape[batch_axis], x.shape[1 - batch_axis]
    lengths = _integers(b, b.rng.integers(1, length + 1, count))
    b.add("ReverseSequence", x, lengths, batch_axis=batch_axis, time_axis=1 - batch_axis)


@pattern(weight=0.5, since=11)
def made_from_numbers(b: Builder) -> None:
    """ConstantOfShape and Range of constants, which no input reaches."""
    x = b.pick(1, 2)
    ones = onnx.helper.make_tensor("value", x.element, [1], [1.5])
    filled = b.add("ConstantOfShape", _integers(b, x.shape), value=ones)
    b.add("Add", x, filled)
    steps = b.add("Range", *(_integers(b, number) for number in (0, x.shape[-1], 1)))
    b.add("Add", x, b.add("Cast", steps, to=x.element))
