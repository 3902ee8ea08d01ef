"""Operators that change shapes and move elements, but compute nothing."""

import math
from collections.abc import Mapping

import numpy as np
from tvm import relax

from hios_tvm.frontends.onnx.operators.call import (
    Converter,
    OperatorCall,
    Value,
    normalized_axes,
    normalized_axis,
)
from hios_tvm.frontends.tensors import constant, dtype_of, shape_of

# --- What shapes are ---


def shape(call: OperatorCall) -> Value:
    sizes = shape_of(call.tensor(0))
    start = call.attributes.integer("start", 0)
    end = call.attributes.integer("end", len(sizes))
    return constant(sizes[start:end], "int64")


def size(call: OperatorCall) -> Value:
    return constant(math.prod(shape_of(call.tensor(0))), "int64")


# --- Other shapes of the same elements ---


def reshape(call: OperatorCall) -> Value:
    """The shape is an attribute in version 1."""
    data, attributes = call.tensor(0), call.attributes
    if call.version < 5:
        wanted = attributes.integers("shape")
    else:
        wanted = call.integers(1, "the elements of its shape") or []
    return call.reshape(data, _new_shape(shape_of(data), wanted, attributes.flag("allowzero")))


def _new_shape(old: tuple[int, ...], wanted: list[int], allow_zero: bool) -> list[int]:
    """Resolve 0, which copies a dimension, and -1, which is inferred."""
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1 or (allow_zero and {0, -1} <= {*wanted}):
        raise ValueError(f"{wanted} is not a shape")
    if 0 in wanted[len(old) :] and not allow_zero:
        raise ValueError(f"the new shape {wanted} copies more dimensions than {list(old)} has")
    shape = [
        old[axis] if target == 0 and not allow_zero else target
        for axis, target in enumerate(wanted)
    ]
    count, known = math.prod(old), abs(math.prod(shape))
    if -1 in shape and known:
        shape[shape.index(-1)] = count // known
    if math.prod(shape) != count:
        raise ValueError(f"a tensor of shape {list(old)} cannot take the shape {wanted}")
    return shape


def flatten(call: OperatorCall) -> Value:
    data = call.tensor(0)
    sizes = shape_of(data)
    axis = call.attributes.integer("axis", 1)
    if not -len(sizes) <= axis <= len(sizes):
        raise ValueError(f"axis {axis} is not an axis of {len(sizes)} dimensions")
    axis += len(sizes) if axis < 0 else 0
    return call.reshape(data, [math.prod(sizes[:axis]), math.prod(sizes[axis:])])


def squeeze(call: OperatorCall) -> Value:
    data = call.tensor(0)
    sizes = shape_of(data)
    axes = _axes(call)
    if axes is None:
        return call.reshape(data, [extent for extent in sizes if extent != 1])
    gone = normalized_axes(axes, len(sizes))
    for axis in gone:
        if sizes[axis] != 1:
            raise ValueError(f"dimension {axis} of shape {list(sizes)} is not 1")
    return call.reshape(data, [extent for axis, extent in enumerate(sizes) if axis not in gone])


def unsqueeze(call: OperatorCall) -> Value:
    data = call.tensor(0)
    axes = _axes(call)
    if axes is None:
        raise ValueError("it has no axes")
    rank = len(shape_of(data)) + len(axes)
    new, old = normalized_axes(axes, rank), iter(shape_of(data))
    return call.reshape(data, [1 if axis in new else next(old) for axis in range(rank)])


def _axes(call: OperatorCall) -> list[int] | None:
    """An attribute before version 13, an input since."""
    if call.version >= 13:
        return call.integers(1, "its axes")
    return call.attributes.integers("axes") if "axes" in call.attributes else None


def transpose(call: OperatorCall) -> Value:
    data = call.tensor(0)
    rank = len(shape_of(data))
    order = call.attributes.integers("perm", range(rank)[::-1])
    if sorted(order) != list(range(rank)):
        raise ValueError(f"perm {order} is not an order of {rank} axes")
    return call.permute(data, order)


# --- Joining, splitting, slicing ---


def concat(call: OperatorCall) -> Value:
    tensors = call.tensors()
    axis = call.axis(len(shape_of(tensors[0])), default=1 if call.version < 4 else None)
    shapes = [shape_of(tensor) for tensor in tensors]
    if len({(*sizes[:axis], *sizes[axis + 1 :]) for sizes in shapes}) > 1:
        listed = ", ".join(str(list(sizes)) for sizes in shapes)
        raise ValueError(f"the shapes {listed} differ in more than axis {axis}")
    return call.concatenate(tensors, axis)


def split(call: OperatorCall) -> list[Value]:
    """The sizes are an attribute or, in version 1 and since 13, an input."""
    data, count = call.tensor(0), call.num_outputs
    axis = call.axis(len(shape_of(data)), default=0)
    sizes = None
    if "split" in call.attributes:
        sizes = call.attributes.integers("split")
    elif call.version < 2 or call.version >= 13:
        sizes = call.integers(1, "the sizes of its parts")
    extent = shape_of(data)[axis]
    if call.version >= 18 and sizes is None:
        count = call.attributes.integer("num_outputs")
    if sizes is None:
        sizes = split_sizes(extent, -(-extent // count))
        sizes += [0] * (count - len(sizes))
        if call.version < 18 and len(set(sizes)) > 1:
            raise ValueError(f"a dimension of {extent} has no {count} equal parts")
    if len(sizes) != call.num_outputs:
        raise ValueError(f"it has {call.num_outputs} outputs and {len(sizes)} parts")
    return list(split_tensor(call, data, axis, sizes))


def split_sizes(extent: int, part: int) -> list[int]:
    """Extents of equal parts, of which the last may be smaller."""
    if part == 0:
        return []
    return [min(part, extent - start) for start in range(0, extent, part)]


def split_tensor(
    call: OperatorCall, data: relax.Expr, axis: int, sizes: list[int]
) -> list[relax.Expr]:
    """Slices, which can be fused with what reads them; a split could not."""
    extent = shape_of(data)[axis]
    if min(sizes, default=0) < 0 or sum(sizes) != extent:
        raise ValueError(f"a dimension of {extent} cannot be split into parts of {sizes}")
    starts = np.cumsum([0, *sizes]).tolist()
    return [
        call.slice(data, {axis: range(start, start + part)})
        for start, part in zip(starts, sizes, strict=False)
    ]


def slice_(call: OperatorCall) -> Value:
    """The bounds are attributes before version 10, and inputs since."""
    data = call.tensor(0)
    sizes = shape_of(data)
    starts, ends, axes, steps = _slice_bounds(call)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError("its starts, ends, axes and steps have different lengths")
    if 0 in steps:
        raise ValueError("a step is 0")
    axes = normalized_axes(axes, len(sizes))
    bounds = zip(axes, starts, ends, steps, strict=True)
    return call.slice(data, {axis: _part(sizes[axis], *rest) for axis, *rest in bounds})


def _slice_bounds(call: OperatorCall) -> tuple[list[int], list[int], list[int], list[int]]:
    if call.version < 10:
        starts, ends = call.attributes.integers("starts"), call.attributes.integers("ends")
        axes = call.attributes.integers("axes", range(len(starts)))
        return starts, ends, axes, [1] * len(starts)
    starts, ends = (call.integers(i, "the bounds of its slice") or [] for i in (1, 2))
    given_axes, steps = call.integers(3, "its axes"), call.integers(4, "its steps")
    axes = list(range(len(starts))) if given_axes is None else given_axes
    return starts, ends, axes, [1] * len(starts) if steps is None else steps


def _part(extent: int, start: int, end: int, step: int) -> range:
    """Count from the end once, then clamp; Python clamps starts of negative steps otherwise."""
    if extent == 0:
        return range(0)
    start += extent if start < 0 else 0
    if step > 0:
        end += extent if end < 0 else 0
        return range(_clamp(start, 0, extent), _clamp(end, 0, extent), step)
    end += extent if end < 0 else 0
    return range(_clamp(start, 0, extent - 1), _clamp(end, -1, extent - 1), step)


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


# --- Copies ---


def tile(call: OperatorCall) -> Value:
    """Version 1 takes a number of copies and an axis."""
    data = call.tensor(0)
    sizes = shape_of(data)
    if call.version < 6:
        (count,) = call.integers(1, "its tiles") or [1]
        (axis,) = call.integers(2, "its axis") or [0]
        repeats = [1] * len(sizes)
        repeats[normalized_axis(axis, len(sizes))] = count
    else:
        repeats = call.integers(1, "its repeats") or []
    if len(repeats) != len(sizes) or min(repeats, default=0) < 0:
        raise ValueError(f"{repeats} repeats do not fit the shape {list(sizes)}")
    result = [extent * count for extent, count in zip(sizes, repeats, strict=True)]
    if 0 in result:
        return call.empty(result, dtype_of(data))
    if set(repeats) <= {1}:
        return data
    if all(extent == 1 for extent, count in zip(sizes, repeats, strict=True) if count > 1):
        return call.broadcast(data, result)
    return relax.op.tile(data, repeats)


def expand(call: OperatorCall) -> Value:
    """Broadcasts both ways: a 1 in the new shape keeps the tensor's own extent."""
    data = call.tensor(0)
    wanted = call.integers(1, "the elements of its shape") or []
    return call.broadcast(data, np.broadcast_shapes(shape_of(data), tuple(wanted)))


OPERATORS: Mapping[str, Converter] = {
    "Concat": concat,
    "Expand": expand,
    "Flatten": flatten,
    "Reshape": reshape,
    "Shape": shape,
    "Size": size,
    "Slice": slice_,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
