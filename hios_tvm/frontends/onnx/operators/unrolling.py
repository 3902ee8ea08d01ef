"""What recurrent layers have in common: unrolling over steps, directions, states and masks.

The products of the inputs with their weights are those of all steps at once, before the first.
Steps read their part of them by an index that is an argument, so that all have the same kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tvm import relax, te, tirx, topi

from hios_tvm.frontends.onnx.operators.activations import Activation, activations
from hios_tvm.frontends.onnx.operators.call import OperatorCall, Value
from hios_tvm.frontends.tensors import array_of, constant_of, dtype_of, shape_of
from hios_tvm.schema.value_checks import ValidValues

MOST_JOINED = 16
"""Outputs of steps that one kernel copies side by side."""

OPAQUE = 8
"""TVM's pattern of kernels that are not fused with others."""

State: TypeAlias = tuple[relax.Expr, ...]
"""The hidden state, and the cell state where there is one; each ``(batch, hidden)``."""

Step: TypeAlias = Callable[["Gates", State], State]
"""From what the inputs give to the gates, and the last state."""

Element: TypeAlias = Callable[[tirx.Var, tirx.Expr], tirx.Expr]
"""A sum of gates, by sequence and column."""


@dataclass(frozen=True)
class Gates:
    """What the inputs give to the gates of a step.

    Attributes
    ----------
    products : relax.Expr
        Of all steps: ``(steps * batch, gates * hidden)``
    step : relax.Expr
        A vector of one element, the step.
    """

    products: relax.Expr
    step: relax.Expr

    @staticmethod
    def of(products: te.Tensor, step: te.Tensor, batch: int) -> Element:
        return lambda b, column: products(step(0) * batch + b, column)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What recurrent layers have in common.

    Attributes
    ----------
    x : relax.Expr
        ``(steps, batch, inputs)``
    masks : tuple
        For each step: None where all sequences reach it, False where none does, else a tensor
        ``(batch, 1)`` that says which do.
    lengths : relax.Expr, optional
        The lengths of the sequences, where some may be empty.
    backward : tuple of bool
        For each direction.
    activations : list
        For each direction.
    """

    call: OperatorCall
    x: relax.Expr
    hidden: int
    layout: int
    masks: tuple[relax.Expr | bool | None, ...]
    lengths: relax.Expr | None
    backward: tuple[bool, ...]
    activations: list[tuple[Activation, ...]]

    @property
    def steps(self) -> int:
        return shape_of(self.x)[0]

    @property
    def batch(self) -> int:
        return shape_of(self.x)[1]

    @property
    def dtype(self) -> str:
        return dtype_of(self.x)

    def zeros(self) -> relax.Expr:
        """An empty state, or the output behind the end of all sequences."""
        return constant_of(np.zeros((self.batch, self.hidden), np.dtype(self.dtype)))


# --- The parts of a layer ---


def layer_of(call: OperatorCall, default_activations: Sequence[str]) -> Layer:
    attributes = call.attributes
    attributes.ignore("output_sequence")  # whether the first output is there: the node says it too
    allowed = ("forward", "reverse", "bidirectional")
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[
        attributes.choice("direction", allowed, "forward")
    ]
    hidden = shape_of(call.tensor(2))[2]
    if attributes.integer("hidden_size", hidden) != hidden:
        raise ValueError(f"its hidden_size is not that of its weights, {hidden}")
    if shape_of(call.tensor(1))[0] != len(backward):
        raise ValueError(f"its weights are not those of {len(backward)} directions")
    layout = attributes.integer("layout", 0)
    x = call.tensor(0)
    if layout:
        x = call.permute(x, [1, 0, 2])
    masks, lengths = _masks(call, *shape_of(x)[:2])
    return Layer(
        call=call,
        x=x,
        hidden=hidden,
        layout=layout,
        masks=masks,
        lengths=lengths,
        backward=backward,
        activations=activations(call, default_activations, len(backward)),
    )


def _masks(
    call: OperatorCall, steps: int, batch: int
) -> tuple[tuple[relax.Expr | bool | None, ...], relax.Expr | None]:
    lengths = call.optional_tensor(4)
    if lengths is None:
        return (None,) * steps, None
    known = array_of(lengths)
    if known is not None:
        reached = [known > i for i in range(steps)]
        masks = tuple(
            None if mask.all() else constant_of(mask.reshape(batch, 1)) if mask.any() else False
            for mask in reached
        )
        return masks, None if (known > 0).all() else lengths
    lengths = call.checked(lengths, ValidValues(0, "length", 0, steps))
    column = call.reshape(lengths, [batch, 1])
    numbers = [constant_of(np.full((1, 1), i, dtype_of(lengths))) for i in range(steps)]
    return tuple(call.emit(relax.op.less(number, column)) for number in numbers), lengths


def unrolled(
    layer: Layer,
    step_of: Callable[[int], Step],
    *,
    gates: int,
    added_biases: int,
    initial: Sequence[int],
) -> list[Value]:
    """All outputs of a layer.

    Parameters
    ----------
    layer : Layer
    step_of : callable
        The step of each direction.
    gates, added_biases : int
        How many gates there are, and for how many of them, from the first, the recurrent bias is
        added to that of the inputs.
    initial : sequence of int
        The inputs that hold the first states.
    """
    call, shape = layer.call, [layer.batch, layer.steps, layer.hidden]
    outputs, finals = [], []
    for direction in range(len(layer.backward)):
        bias = _input_bias(layer, direction, gates, added_biases)
        state = tuple(_initial_state(layer, index, direction) for index in initial)
        hidden = [constant_of(np.zeros((layer.batch, 0), np.dtype(layer.dtype)))]
        if layer.steps:
            products = _input_products(layer, direction, bias)
            hidden, state = _run_steps(layer, step_of(direction), products, state, direction)
        outputs.append(call.reshape(_side_by_side(call, hidden), shape))
        finals.append([_of_sequences(layer, part) for part in state])
    axis = 2 if layer.layout else 1  # of directions
    order = [0, 1, 2] if layer.layout else [1, 0, 2]
    sequence = _stacked(call, [call.permute(output, order) for output in outputs], axis)
    axis = 1 if layer.layout else 0
    last = [_stacked(call, list(parts), axis) for parts in zip(*finals, strict=True)]
    return [sequence, *last]


def _run_steps(
    layer: Layer, step: Step, products: relax.Expr, state: State, direction: int
) -> tuple[list[relax.Expr], State]:
    """The output of every step, and the state after the last one.

    Where a sequence has ended its state stays, and its output is zero. A backward direction begins
    at the end, and so at the end of each sequence.
    """
    call = layer.call
    zeros = layer.zeros()
    hidden = [zeros] * layer.steps
    order = range(layer.steps)
    for i in reversed(order) if layer.backward[direction] else order:
        mask = layer.masks[i]
        if mask is False:
            continue
        new = step(Gates(products, constant_of(np.array([i]))), state)
        hidden[i] = new[0]
        if mask is not None:
            hidden[i] = call.emit(relax.op.where(mask, new[0], zeros))
            new = tuple(
                call.emit(relax.op.where(mask, *parts)) for parts in zip(new, state, strict=True)
            )
        state = new
    return hidden, state


def _initial_state(layer: Layer, index: int, direction: int) -> relax.Expr:
    tensor = layer.call.optional_tensor(index)
    if tensor is None:
        return layer.zeros()
    return part_of(layer.call, tensor, direction, axis=1 if layer.layout else 0)


def _of_sequences(layer: Layer, state: relax.Expr) -> relax.Expr:
    """The last state; of an empty sequence zero, as in ONNX Runtime, for the standard is silent."""
    if layer.lengths is None:
        return state
    call = layer.call
    zero = constant_of(np.zeros((), dtype_of(layer.lengths)))
    lengths = call.reshape(layer.lengths, [layer.batch, 1])
    is_there = call.emit(relax.op.greater(lengths, zero))
    return call.emit(relax.op.where(is_there, state, layer.zeros()))


def _input_products(layer: Layer, direction: int, bias: relax.Expr | None) -> relax.Expr:
    """What the inputs give to the gates of all steps: ``(steps * batch, gates * hidden)``."""
    call = layer.call
    rows = call.reshape(layer.x, [layer.steps * layer.batch, shape_of(layer.x)[2]])
    weights = call.permute(part_of(call, call.tensor(1), direction), [1, 0])
    products = call.emit(relax.op.matmul(rows, weights))
    return products if bias is None else call.emit(relax.op.add(products, bias))


def _input_bias(layer: Layer, direction: int, gates: int, added: int) -> relax.Expr | None:
    """The bias of the inputs, plus that of the recurrence for the first `added` gates."""
    call = layer.call
    if call.argument(3) is None:
        return None
    both = part_of(call, call.tensor(3), direction)
    size, count = gates * layer.hidden, added * layer.hidden
    own = _columns(call, both, 0, size)
    recurrent = _columns(call, both, size, size + count)
    if added < gates:
        rest = constant_of(np.zeros(size - count, np.dtype(layer.dtype)))
        recurrent = call.emit(relax.op.concat([recurrent, rest], 0))
    return call.emit(relax.op.add(own, recurrent))


def recurrent_bias(layer: Layer, direction: int) -> list[relax.Expr]:
    """The recurrent bias of a GRU's hidden gate, if there is one."""
    call = layer.call
    if call.argument(3) is None:
        return []
    bias = part_of(call, call.tensor(3), direction)
    return [_columns(call, bias, 5 * layer.hidden, 6 * layer.hidden)]


def recurrent_weights(layer: Layer, direction: int, first: int, end: int) -> relax.Expr:
    """The transposed weights of some gates, ``(hidden, gates * hidden)``."""
    call = layer.call
    weights = call.permute(part_of(call, call.tensor(2), direction), [1, 0])
    return _columns(call, weights, first * layer.hidden, end * layer.hidden)


def recurrent_products(layer: Layer, state: relax.Expr, matrix: relax.Expr) -> list[relax.Expr]:
    """The product of a state with its weights; nothing where the state is zero."""
    array = array_of(state)
    if array is not None and not array.any():
        return []
    return [layer.call.emit(relax.op.matmul(state, matrix))]


# --- Tensors ---


def part_of(call: OperatorCall, tensor: relax.Expr, index: int, axis: int = 0) -> relax.Expr:
    """The elements at `index` of an axis, which goes."""
    array = array_of(tensor)
    if array is not None:
        return constant_of(array.take(index, axis))
    shape = [size for i, size in enumerate(shape_of(tensor)) if i != axis]
    sliced = call.emit(relax.op.strided_slice(tensor, [axis], [index], [index + 1]))
    return call.reshape(sliced, shape)


def _columns(call: OperatorCall, tensor: relax.Expr, first: int, end: int) -> relax.Expr:
    """Elements `first` to `end` along the last axis."""
    *others, size = shape_of(tensor)
    if (first, end) == (0, size):
        return tensor
    array = array_of(tensor)
    if array is not None:
        return constant_of(array[..., first:end])
    return call.emit(relax.op.strided_slice(tensor, [len(others)], [first], [end]))


def _side_by_side(call: OperatorCall, parts: Sequence[relax.Expr]) -> relax.Expr:
    """Join matrices along their columns.

    Some at a time, so that most of these kernels are equal, and apart from what computes the parts:
    compiling takes long for kernels with many operands.
    """
    while len(parts) > 1:
        groups = [parts[i : i + MOST_JOINED] for i in range(0, len(parts), MOST_JOINED)]
        apart = {"primfunc_attrs": {"op_pattern": OPAQUE}}
        parts = [
            group[0]
            if len(group) == 1
            else call.compute(lambda *tensors: topi.concatenate(tensors, 1), *group, **apart)
            for group in groups
        ]
    return parts[0]


def _stacked(call: OperatorCall, parts: Sequence[relax.Expr], axis: int) -> relax.Expr:
    """Join parts along a new axis."""
    if len(parts) == 1:
        shape = list(shape_of(parts[0]))
        return call.reshape(parts[0], [*shape[:axis], 1, *shape[axis:]])
    return call.emit(relax.op.stack(list(parts), axis=axis))
