"""Operators that change shapes and move elements, but compute nothing."""

import math

import numpy as np
from tvm import relax, topi

from hios_tvm.frontends.relay.operators.call import OperatorCall
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import MAX_DIMENSIONS, check_size, dtype_of, shape_of


def reshape(call: OperatorCall, is_reversed: bool = False) -> Value:
    """Where it is reversed, the special values of the new shape count from the right."""
    data, attributes = call.tensor(0), call.attributes
    old, new_shape = shape_of(data), attributes.integers("newshape")
    if is_reversed or attributes.flag("reverse"):
        return call.reshape(data, _new_shape(call, old[::-1], new_shape[::-1], False)[::-1])
    return call.reshape(data, _new_shape(call, old, new_shape, attributes.flag("allowzero")))


def _new_shape(
    call: OperatorCall, old: tuple[int, ...], new_shape: list[int], keep_zero: bool
) -> list[int]:
    """Resolve Relay's special values.

    0 copies a dimension, -1 is inferred, -2 copies all that remain, -3 multiplies two, and -4
    splits one into the two values that follow, one of which may be -1.
    """
    shape: list[int] = []
    source = iter(old)
    targets = iter(new_shape)
    try:
        for target in targets:
            if target > 0 or (target == 0 and keep_zero):
                shape.append(target)
                next(source, None)
            elif target == 0:
                shape.append(next(source))
            elif target == -1:
                shape.append(-1)
                next(source, None)
            elif target == -2:
                shape.extend(source)
            elif target == -3:
                shape.append(next(source) * next(source))
            elif target == -4:
                shape.extend(_split_dimension(call, next(source), next(targets), next(targets)))
            else:
                raise call.error(f"{target} is no special value of a shape")
    except StopIteration:
        raise call.error(f"newshape {new_shape} takes more dimensions than {list(old)}") from None
    if shape.count(-1) > 1:
        raise call.error(f"newshape {new_shape} leaves more than one dimension open")
    count = math.prod(old)
    if -1 in shape:
        known = -math.prod(shape)
        shape[shape.index(-1)] = count // known if known else 0
    if math.prod(shape) != count:
        raise call.error(f"{list(old)} cannot become {shape} (newshape {new_shape})")
    return shape


def _split_dimension(call: OperatorCall, size: int, first: int, second: int) -> tuple[int, int]:
    if first == -1 and second > 0:
        first = size // second
    elif second == -1 and first > 0:
        second = size // first
    if first * second != size:
        raise call.error(f"a dimension of {size} cannot be split into {first} and {second}")
    return first, second


def reshape_like(call: OperatorCall) -> Value:
    data, like, attributes = call.tensor(0), call.tensor(1), call.attributes
    old, other = shape_of(data), shape_of(like)

    def bounds(side: str, rank: int) -> tuple[int, int]:
        end = attributes.optional_integer(f"{side}_end")
        begin = attributes.integer(f"{side}_begin", 0)
        return begin % rank if begin else 0, rank if end is None else end % (rank + 1)

    begin, end = bounds("lhs", len(old) or 1)
    like_begin, like_end = bounds("rhs", len(other) or 1)
    return call.reshape(data, [*old[:begin], *other[like_begin:like_end], *old[end:]])


def transpose(call: OperatorCall) -> Value:
    data = call.tensor(0)
    rank = len(shape_of(data))
    axes = call.attributes.optional_integers("axes") or list(range(rank))[::-1]
    if sorted(axis % rank if rank else axis for axis in axes) != list(range(rank)):
        raise call.error(f"{axes} is no order of {rank} axes")
    return call.permute(data, [axis % rank for axis in axes])


def expand_dims(call: OperatorCall) -> Value:
    data = call.tensor(0)
    shape = list(shape_of(data))
    axis = call.axis(len(shape) + 1)
    count = min(call.attributes.integer("num_newaxis", 1), MAX_DIMENSIONS + 1)
    return call.reshape(data, [*shape[:axis], *[1] * count, *shape[axis:]])


def squeeze(call: OperatorCall) -> Value:
    data = call.tensor(0)
    shape = shape_of(data)
    axes = call.attributes.optional_integers("axis")
    if axes is None:
        return call.reshape(data, [size for size in shape if size != 1])
    for axis in axes:
        if not -len(shape) <= axis < len(shape) or shape[axis] != 1:
            raise call.error(f"axis {axis} of {list(shape)} is not a dimension of 1")
    gone = {axis % len(shape) for axis in axes}
    return call.reshape(data, [size for i, size in enumerate(shape) if i not in gone])


def batch_flatten(call: OperatorCall) -> Value:
    data = call.tensor(0)
    batch, *rest = shape_of(data)
    return call.reshape(data, [batch, math.prod(rest)])


def concatenate(call: OperatorCall) -> Value:
    tensors = call.tensors(0)
    return relax.op.concat(tensors, call.axis(len(shape_of(tensors[0])), default=0))


def stack(call: OperatorCall) -> Value:
    tensors = call.tensors(0)
    return relax.op.stack(tensors, call.axis(len(shape_of(tensors[0])) + 1, default=0))


def split(call: OperatorCall) -> Value:
    data, sections = call.tensor(0), call.attributes.value("indices_or_sections")
    axis = call.axis(len(shape_of(data)), default=0)
    size = shape_of(data)[axis]
    if isinstance(sections, int):
        if sections < 1 or size % sections:
            raise call.error(f"a dimension of {size} cannot be split into {sections} equal parts")
        bounds = list(range(size // sections, size, size // sections)) if size else []
    else:
        bounds = call.attributes.integers("indices_or_sections")
    if not bounds:
        return (data,)
    if sorted(bounds) != bounds or bounds[0] < 0 or bounds[-1] > size:
        raise call.error(f"a dimension of {size} cannot be split at {bounds}")
    parts = call.emit(relax.op.split(data, bounds, axis))
    return tuple(call.emit(relax.TupleGetItem(parts, i)) for i in range(len(bounds) + 1))


def tile(call: OperatorCall) -> Value:
    return relax.op.tile(call.tensor(0), call.attributes.integers("reps"))


def repeat(call: OperatorCall) -> Value:
    repeats, axis = call.attributes.integer("repeats"), call.attributes.optional_integer("axis")
    elements = math.prod(shape_of(call.tensor(0)))
    check_size([elements, max(repeats, 0)], dtype_of(call.tensor(0)), call.operator)
    if not 1 <= repeats < 2**31:  # TVM keeps 32 bits of it
        raise call.error(f"the number of repeats cannot be {repeats}")
    return relax.op.repeat(call.tensor(0), repeats, axis)


def reverse(call: OperatorCall) -> Value:
    data = call.tensor(0)
    return relax.op.flip(data, call.axis(len(shape_of(data))))


def broadcast_to(call: OperatorCall) -> Value:
    return relax.op.broadcast_to(call.tensor(0), call.attributes.integers("shape"))


def broadcast_to_like(call: OperatorCall) -> Value:
    return relax.op.broadcast_to(call.tensor(0), shape_of(call.tensor(1)))


def collapse_sum_to(call: OperatorCall) -> Value:
    return relax.op.collapse_sum_to(call.tensor(0), call.attributes.integers("shape"))


def collapse_sum_like(call: OperatorCall) -> Value:
    return relax.op.collapse_sum_to(call.tensor(0), shape_of(call.tensor(1)))


def meshgrid(call: OperatorCall) -> Value:
    tensors = call.tensors(0)
    indexing = call.attributes.choice("indexing", ("ij", "xy"), "ij")
    grids = call.emit(relax.op.meshgrid(tensors, indexing))
    return tuple(call.emit(relax.TupleGetItem(grids, i)) for i in range(len(tensors)))


def einsum(call: OperatorCall) -> Value:
    return relax.op.einsum(call.tensors(0), call.attributes.text("equation"))


# --- Padding ---


def _pad_width(call: OperatorCall) -> list[tuple[int, int]]:
    width, rank = call.attributes.pairs("pad_width"), len(shape_of(call.tensor(0)))
    if len(width) != rank or min((min(pair) for pair in width), default=0) < 0:
        raise call.error(f"pad_width {width} does not fit {rank} dimensions")
    return width


def pad(call: OperatorCall) -> Value:
    """`nn.pad`: the value is an argument since 0.8, an attribute before."""
    data, width = call.tensor(0), _pad_width(call)
    mode = call.attributes.choice("pad_mode", ("constant", "edge", "reflect"), "constant")
    value = call.attributes.number("pad_value", 0.0)
    if len(call.arguments) > 1:
        value = float(call.constant(1).reshape(-1)[0])
    if not np.isfinite(value) and "float" not in dtype_of(data):
        raise call.error(f"{value} cannot pad a tensor of {dtype_of(data)}")
    flat = [size for pair in width for size in pair]
    relax_mode = {"constant": "constant", "edge": "replicate", "reflect": "reflect"}[mode]
    return relax.op.nn.pad(data, flat, relax_mode, value)


def mirror_pad(call: OperatorCall) -> Value:
    width = _pad_width(call)
    mode = call.attributes.choice("mode", ("SYMMETRIC", "REFLECT"), "SYMMETRIC")
    before, after = zip(*width, strict=True)
    return call.compute(topi.nn.mirror_pad, call.tensor(0), list(before), list(after), mode)


# --- Blocks of pixels ---


def space_to_depth(call: OperatorCall) -> Value:
    size, layout, _ = _block_options(call)
    return call.compute(topi.nn.space_to_depth, call.tensor(0), size, layout)


def depth_to_space(call: OperatorCall) -> Value:
    return call.compute(topi.nn.depth_to_space, call.tensor(0), *_block_options(call))


def _block_options(call: OperatorCall) -> tuple[int, str, str]:
    attributes = call.attributes
    layout = attributes.choice("layout", ("NCHW", "NHWC"), "NCHW")
    mode = attributes.choice("mode", ("DCR", "CDR"), "DCR")
    return attributes.integer("block_size", 1), layout, mode


def space_to_batch(call: OperatorCall) -> Value:
    """Pad, then move the elements of each block to the batch."""
    data, blocks = call.tensor(0), call.attributes.integers("block_shape")
    paddings = _block_pairs(call, blocks, "paddings")
    value = call.attributes.number("pad_value", 0.0)
    batch, *sizes = shape_of(data)
    rest = sizes[len(blocks) :]
    flat = [size for pair in [(0, 0), *paddings, *[(0, 0)] * len(rest)] for size in pair]
    data = call.emit(relax.op.nn.pad(data, flat, "constant", value))
    padded = [size + sum(pair) for size, pair in zip(sizes, paddings, strict=False)]
    if any(size % block for size, block in zip(padded, blocks, strict=True)):
        raise call.error(f"{padded} is not divisible by the blocks {blocks}")
    counts = [size // block for size, block in zip(padded, blocks, strict=True)]
    pairs = [size for pair in zip(counts, blocks, strict=True) for size in pair]
    data = call.reshape(data, [batch, *pairs, *rest])
    inner = [2 * i + 2 for i in range(len(blocks))]
    outer = [2 * i + 1 for i in range(len(blocks))]
    tail = range(len(pairs) + 1, len(pairs) + 1 + len(rest))
    data = call.permute(data, [*inner, 0, *outer, *tail])
    return call.reshape(data, [batch * math.prod(blocks), *counts, *rest])


def batch_to_space(call: OperatorCall) -> Value:
    """The inverse of `space_to_batch`, with crops for the padding."""
    data, blocks = call.tensor(0), call.attributes.integers("block_shape")
    crops = _block_pairs(call, blocks, "crops")
    batch, *sizes = shape_of(data)
    if batch % math.prod(blocks):
        raise call.error(f"a batch of {batch} is not divisible by the blocks {blocks}")
    count, batch = len(blocks), batch // math.prod(blocks)
    rest = sizes[count:]
    data = call.reshape(data, [*blocks, batch, *sizes])
    spatial = [axis for i in range(count) for axis in (count + 1 + i, i)]
    tail = range(2 * count + 1, 2 * count + 1 + len(rest))
    data = call.permute(data, [count, *spatial, *tail])
    whole = [size * block for size, block in zip(sizes, blocks, strict=False)]
    data = call.reshape(data, [batch, *whole, *rest])
    if not any(map(any, crops)):
        return data
    begin = [before for before, _ in crops]
    end = [size - after for size, (_, after) in zip(whole, crops, strict=True)]
    if any(first >= last for first, last in zip(begin, end, strict=True)):
        raise call.error(f"the crops {crops} leave nothing of {whole}")
    axes = list(range(1, count + 1))
    return relax.op.strided_slice(data, axes, begin, end)


def _block_pairs(call: OperatorCall, blocks: list[int], name: str) -> list[tuple[int, int]]:
    """Paddings or crops, one pair for each block axis."""
    pairs = call.attributes.pairs(name)
    fits = len(pairs) == len(blocks) < len(shape_of(call.tensor(0)))
    if not fits or min(blocks, default=0) < 1 or min(min(pair) for pair in pairs) < 0:
        raise call.error(f"blocks {blocks} with {name} {pairs} do not fit the tensor")
    return pairs
