"""A pass that merges reshapes and transpositions, and moves them behind other operators.

A chain of reshapes and transpositions is one rearrangement of elements (`Rearrangement`). It
becomes at most a reshape, a transposition and a reshape, and often less::

    a = permute_dims(x, [0, 2, 1])              # [1, 3136, 32] to [1, 32, 3136]
    b = reshape(a, [1, 32, 56, 56])
    y = permute_dims(b, [0, 2, 3, 1])           # becomes reshape(x, [1, 56, 56, 32])

Element-wise operators and reductions that read a rearranged tensor are computed of the tensor as
it is, and their result is rearranged instead: there it may cancel out with the next rearrangement,
and is smaller after a reduction. So a normalization of channels-last images reads them as they
are, though models write it as a reduction of channels-first ones in another shape.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.channels_last import ELEMENTWISE
from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main
from hios_tvm.passes.rearrangement import Rearrangement, Split

_TRANSPOSITION = "relax.permute_dims"
_MOVES = (
    *("relax.expand_dims", "relax.flatten", "relax.reshape", "relax.squeeze"),
    _TRANSPOSITION,
)
_REDUCTIONS = ("relax.max", "relax.mean", "relax.min", "relax.sum")


@tvm.transform.module_pass(opt_level=0, name="MoveRearrangements")
class MoveRearrangements:
    """Merge reshapes and transpositions, and move them behind element-wise operators and sums."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, _rewrite)


def _rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    name = operator_name(value)
    moved = None
    if name in _MOVES:
        source, rearrangement = _rearranged(rewriter, value)
        is_alone = source is value.args[0] and not rearrangement.is_reshape
        return value if is_alone else _emitted(rewriter, source, rearrangement)
    if name in ELEMENTWISE:
        moved = _elementwise(rewriter, value)
    elif name in _REDUCTIONS:
        moved = _reduction(rewriter, value)
    return value if moved is None else moved


def _shape(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape)


def _rearranged(rewriter: Rewriter, value: relax.Expr) -> tuple[relax.Expr, Rearrangement]:
    """Return what `value` is a rearrangement of; of itself, if nothing else."""
    moves = []
    source = value
    call = value if isinstance(value, Call) else rewriter.producer(value, _MOVES)
    while call is not None and 0 not in _shape(call):
        moves.append(call)
        source = call.args[0]
        call = rewriter.producer(source, _MOVES)
    rearrangement = Rearrangement.of(_shape(source))
    for move in reversed(moves):
        longer = _after(rearrangement, move)
        if longer is None:
            source = move.args[0]
            longer = _after(Rearrangement.of(_shape(source)), move)
            assert longer is not None  # any reshape of a whole tensor
        rearrangement = longer
    return source, rearrangement


def _after(rearrangement: Rearrangement, move: Call) -> Rearrangement | None:
    if operator_name(move) != _TRANSPOSITION:
        return rearrangement.reshaped(_shape(move))
    axes = move.attrs.axes
    rank = len(rearrangement.axes)
    order = range(rank)[::-1] if axes is None else [int(axis) % rank for axis in axes]
    return rearrangement.transposed(order)


def _emitted(rewriter: Rewriter, source: relax.Expr, rearrangement: Rearrangement) -> relax.Expr:
    """Return the rearrangement of `source` with as few operators as it takes."""
    if rearrangement.is_reshape:
        return _reshaped(source, rearrangement.shape)
    split = rearrangement.split()
    operand = _bound(rewriter, _reshaped(source, split.shape))
    transposed = _bound(rewriter, relax.op.permute_dims(operand, split.order))
    return _reshaped(transposed, rearrangement.shape)


def _reshaped(value: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
    return value if _shape(value) == shape else relax.op.reshape(value, shape)


def _bound(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    return rewriter.emit(value) if isinstance(value, Call) else value


def _elementwise(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Return an element-wise operator on tensors before a rearrangement, with that behind it."""
    if not isinstance(call.ty, relax.TensorType):
        return None
    for operand in call.args:
        if _is_tensor(operand) and _shape(operand) == _shape(call):
            _, rearrangement = _rearranged(rewriter, operand)
            if not rearrangement.is_reshape:
                break
    else:
        return None
    split = rearrangement.split()
    operands = [_operand(rewriter, arg, split, _shape(call)) for arg in call.args]
    if any(operand is None for operand in operands):
        return None
    result = rewriter.emit(Call(call.op, operands, call.attrs, call.ty_args))
    return _emitted(rewriter, result, Rearrangement(split.shape, rearrangement.axes))


def _is_tensor(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TensorType)


def _operand(
    rewriter: Rewriter, value: relax.Expr, split: Split, shape: tuple[int, ...]
) -> relax.Expr | None:
    """Return an operand as it broadcasts to a tensor of the shape of `split`.

    Before, it broadcasts to the rearrangement of that, which has this `shape`. None if it would
    have to be transposed.
    """
    if not _is_tensor(value) or value.ty.ndim == 0:
        return value
    extents = (1,) * (len(shape) - value.ty.ndim) + _shape(value)
    whole = {number for i, axis in enumerate(split.axes) for number in axis if extents[i] > 1}
    parts = [split.shape[number] if number in whole else 1 for number in split.order]
    back = [split.order.index(number) for number in range(len(split.order))]
    array = constant_value(value)
    if array is not None and array.size == 1:
        return relax.const(array.reshape(()), array.dtype.name)
    if array is not None:
        moved = np.ascontiguousarray(array.reshape(parts).transpose(back))
        return relax.const(moved, moved.dtype.name)
    source, rearrangement = _rearranged(rewriter, value)
    in_parts = rearrangement.reshaped(parts)
    if in_parts is None or not in_parts.transposed(back).is_reshape:
        return None
    return _bound(rewriter, _reshaped(source, in_parts.transposed(back).shape))


def _reduction(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Return a reduction of a tensor before a rearrangement, with the rest of that behind it."""
    data, attrs = call.args[0], call.attrs
    if 0 in _shape(data):
        return None
    source, rearrangement = _rearranged(rewriter, data)
    rank = len(rearrangement.axes)
    reduced = range(rank) if attrs.axis is None else [int(axis) % rank for axis in attrs.axis]
    split = rearrangement.split()
    numbers = sorted(number for axis in reduced for number in split.axes[axis])
    if rearrangement.is_reshape or not numbers:
        return None
    operand = _bound(rewriter, _reshaped(source, split.shape))
    reduce = getattr(relax.op, operator_name(call).removeprefix("relax."))
    result = rewriter.emit(reduce(operand, numbers, keepdims=attrs.keepdims))
    kept = [i for i in range(len(split.shape)) if attrs.keepdims or i not in numbers]
    whole = Rearrangement.of(_shape(result))
    axes = [
        tuple(part for number in axis for part in whole.axes[kept.index(number)])
        for i, axis in enumerate(split.axes)
        if attrs.keepdims or i not in reduced
    ]
    return _emitted(rewriter, result, Rearrangement(whole.source, tuple(axes)))
