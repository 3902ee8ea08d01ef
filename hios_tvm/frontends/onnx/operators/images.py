"""Blocks of images, and images sampled on a grid."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.tensors import constant, dtype_of, shape_of

_OPAQUE = 8  # TVM's number for kernels that are not fused with others


# --- Blocks ---


def depth_to_space(call: OperatorCall) -> Value:
    data = call.tensor(0)
    block, mode = _block(call, data)
    batch, channels, height, width = shape_of(data)
    if channels % block**2:
        raise ValueError(f"{channels} channels are not a multiple of blocksize {block} squared")
    depth = channels // block**2
    if mode == "DCR":
        split, axes = [batch, block, block, depth, height, width], [0, 3, 4, 1, 5, 2]
    else:
        split, axes = [batch, depth, block, block, height, width], [0, 1, 4, 2, 5, 3]
    moved = call.permute(call.reshape(data, split), axes)
    return call.reshape(moved, [batch, depth, height * block, width * block])


def space_to_depth(call: OperatorCall) -> Value:
    data = call.tensor(0)
    block, mode = _block(call, data)
    batch, channels, height, width = shape_of(data)
    if height % block or width % block:
        raise ValueError(f"an image of {height} x {width} has no whole blocks of {block}")
    rows, columns = height // block, width // block
    split = call.reshape(data, [batch, channels, rows, block, columns, block])
    moved = call.permute(split, [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4])
    return call.reshape(moved, [batch, channels * block**2, rows, columns])


def _block(call: OperatorCall, data: relax.Expr) -> tuple[int, str]:
    block = call.attributes.integer("blocksize")
    if len(shape_of(data)) != 4 or block < 1:
        raise ValueError(f"blocks of {block} need an input of 4 dimensions")
    return block, call.attributes.choice("mode", ("DCR", "CRD"), "DCR")


# --- Grids ---


def affine_grid(call: OperatorCall) -> Value:
    """The places where an affine map takes the pixels of an image."""
    theta = call.tensor(0)
    batch, channels, *image = call.integers(1, "the extents of its image") or []
    align_corners = call.attributes.flag("align_corners")
    rank = len(image)
    if shape_of(theta) != (batch, rank, rank + 1):
        raise ValueError(
            f"theta of shape {list(shape_of(theta))} does not fit a size of "
            f"{[batch, channels, *image]}"
        )
    axes = [
        np.linspace(-1, 1, size) if align_corners else (2 * np.arange(size) + 1) / size - 1
        for size in image
    ]
    # The first column belongs to the last axis
    columns = [*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(image)]
    pixels = np.stack([column.ravel() for column in columns], axis=1)
    moved = call.emit(
        relax.op.matmul(constant(pixels[None], dtype_of(theta)), call.permute(theta, [0, 2, 1]))
    )
    return call.reshape(moved, [batch, *image, rank])


@dataclass(frozen=True)
class _Sampling:
    """How GridSample reads an image; the names are those of its attributes, from version 20."""

    image: tuple[int, ...]
    mode: str
    padding: str
    align_corners: bool

    @property
    def reach(self) -> range:
        """Taps along an axis, from the element before a place."""
        return {"nearest": range(1), "linear": range(2), "cubic": range(-1, 3)}[self.mode]


def grid_sample(call: OperatorCall) -> Value:
    data, grid = call.tensor(0), call.tensor(1)
    image = shape_of(data)[2:]
    if len(shape_of(grid)) != len(shape_of(data)) or shape_of(grid)[-1] != len(image):
        raise ValueError(
            f"a grid of shape {list(shape_of(grid))} does not fit {len(image)} spatial axes"
        )
    names = {"bilinear": "linear", "bicubic": "cubic"}
    modes = ("linear", "nearest", "cubic", *names)
    mode = call.attributes.choice("mode", modes, "linear")
    how = _Sampling(
        image,
        names.get(mode, mode),
        call.attributes.choice("padding_mode", ("zeros", "border", "reflection"), "zeros"),
        call.attributes.flag("align_corners"),
    )
    dtype = dtype_of(data)
    if how.mode != "nearest" and not dtype.startswith(("float", "bfloat")):
        raise call.unsupported(f"it interpolates {dtype}; cast its input to float32")
    work = "float64" if "float64" in (dtype, dtype_of(grid)) else "float32"
    data = data if how.mode == "nearest" else call.cast(data, work)
    # Kernels of their own, so that they are computed once for all channels
    apart = {"primfunc_attrs": {"op_pattern": _OPAQUE}}
    places = call.elements(
        shape_of(grid), partial(_source, how=how), call.cast(grid, work), **apart
    )
    table = (*shape_of(grid), len(how.reach))
    tables = [call.elements(table, partial(_index, how=how), places, **apart)]
    if how.mode != "nearest":
        tables.append(call.elements(table, partial(_weight, how=how), places, **apart))
    return call.cast(call.compute(partial(_sampled, how=how), data, *tables), dtype)


def _sampled(
    data: te.Tensor, indices: te.Tensor, weights: te.Tensor | None = None, *, how: _Sampling
) -> te.Tensor:
    rank, count = len(how.image), len(how.reach)
    batch, *out = indices.shape[:-2]

    def element(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> tirx.Expr:
        total = None
        for taps in itertools.product(range(count), repeat=rank):
            # The grid's first column is the last axis
            columns = [(n, *at, rank - 1 - axis, tap) for axis, tap in enumerate(taps)]
            where = [indices[column] for column in columns]
            value = data[(n, c, *(te.max(index, 0) for index in where))]
            if how.padding == "zeros":
                inside = tirx.all(*(index >= 0 for index in where))
                value = tirx.Select(inside, value, tirx.const(0, data.dtype))
            if weights is not None:
                for column in columns:
                    value = value * weights[column]
            total = value if total is None else total + value
        return total

    return te.compute((batch, data.shape[1], *out), element, name="sampled")


def _source(at: tuple[tirx.Var, ...], grid: te.Tensor, how: _Sampling) -> tirx.Expr:
    """A coordinate from -1..1 as a position in elements."""
    return _of_column(at[-1], how, lambda size: _source_place(grid(*at), size, how))


def _index(at: tuple[tirx.Var, ...], places: te.Tensor, how: _Sampling) -> tirx.Expr:
    """An element around a place, along an axis; -1 for one outside that counts as 0."""
    place = te.floor(places(*at[:-1])) + (at[-1] + how.reach[0]).astype(places.dtype)
    return _of_column(at[-2], how, lambda size: _element(place, size, how))


def _weight(at: tuple[tirx.Var, ...], places: te.Tensor, how: _Sampling) -> tirx.Expr:
    """The weight of an element around a place, along an axis."""
    place = places(*at[:-1])
    choices = _WEIGHTS[how.mode](place - te.floor(place))
    result = choices[-1]
    for tap, choice in enumerate(choices[:-1]):
        result = tirx.Select(at[-1] == tap, choice, result)
    return result


def _of_column(
    column: tirx.Expr, how: _Sampling, function: Callable[[int], tirx.Expr]
) -> tirx.Expr:
    """What `function` makes of the extent of a column's axis; the first column is the last axis."""
    *others, first = (function(size) for size in how.image)
    result = first
    for i, other in enumerate(reversed(others), start=1):
        result = tirx.Select(column == i, other, result)
    return result


def _source_place(value: tirx.Expr, size: int, how: _Sampling) -> tirx.Expr:
    if how.align_corners:
        place = (value + 1.0) / 2.0 * float(size - 1)
    else:
        place = ((value + 1.0) * float(size) - 1.0) / 2.0
    if how.mode == "nearest":
        place = te.nearbyint(place)
    if how.padding == "reflection":
        place = _reflected(place, size, how.align_corners)
    # Further away nothing changes any more, and indices must stay in the range of their type
    return te.max(te.min(place, float(size + 2)), -3.0)


def _element(place: tirx.Expr, size: int, how: _Sampling) -> tirx.Expr:
    """The index of the element at a whole place."""
    if how.padding == "zeros":
        inside = tirx.all(place >= 0.0, place < float(size))
        return tirx.Select(inside, place, place * 0.0 - 1.0).astype("int64")
    if how.padding == "reflection":
        place = _reflected(place, size, how.align_corners)
    return te.max(te.min(place, float(size - 1)), 0.0).astype("int64")


def _reflected(place: tirx.Expr, size: int, align_corners: bool) -> tirx.Expr:
    """Reflect a position at the borders until it is between them."""
    least, most = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    width = most - least
    if width == 0:
        return place * 0.0
    distance = te.max(least - place, place - most)
    times = te.floor(distance / width)
    rest = distance - times * width
    is_even = te.floor(times / 2.0) * 2.0 == times
    from_least = tirx.Select(place < least, is_even, tirx.Not(is_even))
    reflected = tirx.Select(from_least, least + rest, most - rest)
    return tirx.Select(distance > 0, reflected, place)


def _cubic_weights(fraction: tirx.Expr) -> list[tirx.Expr]:
    a = -0.75

    def near(x: tirx.Expr) -> tirx.Expr:
        return ((a + 2) * x - (a + 3)) * x * x + 1.0

    def far(x: tirx.Expr) -> tirx.Expr:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(fraction + 1.0), near(fraction), near(1.0 - fraction), far(2.0 - fraction)]


_WEIGHTS: Mapping[str, Callable[[tirx.Expr], list[tirx.Expr]]] = {
    "linear": lambda fraction: [1.0 - fraction, fraction],
    "cubic": _cubic_weights,
}


OPERATORS: Mapping[str, Converter] = {
    "AffineGrid": affine_grid,
    "DepthToSpace": depth_to_space,
    "GridSample": grid_sample,
    "SpaceToDepth": space_to_depth,
}
