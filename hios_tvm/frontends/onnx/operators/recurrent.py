"""Recurrent layers, unrolled: every step is one product of matrices and the gates behind it.

The products of the inputs with their weights are those of all steps at once, before the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.activations import Activation, activations
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.tensors import array_of, constant_of, dtype_of, shape_of

__all__ = ["OPERATORS"]

State: TypeAlias = tuple[relax.Expr, ...]
"""The hidden state, and the cell state where there is one; each ``(batch, hidden)``."""

Step: TypeAlias = Callable[[relax.Expr, State], State]
"""From what the inputs give to the gates, ``(batch, gates * hidden)``, and the last state."""


@dataclass(frozen=True, kw_only=True)
class _Layer:
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


# --- The operators ---


def lstm(call: OperatorCall) -> Value | list[Value]:
    layer = _layer(call, ("Sigmoid", "Tanh", "Tanh"))
    couples = call.attributes.flag("input_forget")
    peepholes = call.optional_tensor(7)

    def step_of(direction: int) -> Step:
        matrix = _recurrent_weights(layer, direction, 0, 4)
        weights = [] if peepholes is None else [_part(call, peepholes, direction)]
        functions = layer.activations[direction]

        def step(inputs: relax.Expr, state: State) -> State:
            hidden, cell = state
            gates = _plus_product(layer, inputs, hidden, matrix)
            both = call.compute(_lstm_step(functions, couples), gates, cell, *weights)
            cell, hidden = (call.emit(relax.TupleGetItem(both, i)) for i in range(2))
            return hidden, cell

        return step

    biases = [_input_bias(layer, i, 4, 4) for i in range(len(layer.backward))]
    return _unrolled(layer, step_of, biases, initial=(5, 6))


def gru(call: OperatorCall) -> Value | list[Value]:
    layer = _layer(call, ("Sigmoid", "Tanh"))
    resets_product = call.version >= 3 and call.attributes.flag("linear_before_reset")
    convert = _gru_resetting_products if resets_product else _gru_resetting_states
    # The recurrent bias of the hidden gate is added before the reset, the others with the inputs'
    biases = [
        _input_bias(layer, i, 3, 2 if resets_product else 3) for i in range(len(layer.backward))
    ]
    return _unrolled(layer, lambda i: convert(layer, i), biases, initial=(5,))


def rnn(call: OperatorCall) -> Value | list[Value]:
    layer = _layer(call, ("Tanh",))

    def step_of(direction: int) -> Step:
        matrix = _recurrent_weights(layer, direction, 0, 1)
        (function,) = layer.activations[direction]

        def step(inputs: relax.Expr, state: State) -> State:
            total = _plus_product(layer, inputs, state[0], matrix)
            return (call.compute(lambda x: _map(function, x), total),)

        return step

    biases = [_input_bias(layer, i, 1, 1) for i in range(len(layer.backward))]
    return _unrolled(layer, step_of, biases, initial=(5,))


def _gru_resetting_states(layer: _Layer, direction: int) -> Step:
    """The hidden gate sees a state that was reset."""
    call = layer.call
    update_and_reset = _recurrent_weights(layer, direction, 0, 2)
    matrix = _recurrent_weights(layer, direction, 2, 3)
    f, g = layer.activations[direction]
    size = layer.hidden

    def reset(gates: te.Tensor, hidden: te.Tensor) -> te.Tensor:
        return te.compute(hidden.shape, lambda b, j: f(gates[b, size + j]) * hidden[b, j])

    def update(gates: te.Tensor, new: te.Tensor, hidden: te.Tensor) -> te.Tensor:
        return te.compute(
            hidden.shape, lambda b, j: _mixed(f(gates[b, j]), g(new[b, j]), hidden[b, j])
        )

    def step(inputs: relax.Expr, state: State) -> State:
        (hidden,) = state
        begin, end = (
            _columns(call, inputs, *range_) for range_ in ((0, 2 * size), (2 * size, 3 * size))
        )
        gates = _plus_product(layer, begin, hidden, update_and_reset)
        remembered = hidden if _is_zero(hidden) else call.compute(reset, gates, hidden)
        new = _plus_product(layer, end, remembered, matrix)
        return (call.compute(update, gates, new, hidden),)

    return step


def _gru_resetting_products(layer: _Layer, direction: int) -> Step:
    """The hidden gate sees a product with the state, bias included, that was reset."""
    call = layer.call
    matrix = _recurrent_weights(layer, direction, 0, 3)
    bias = _recurrent_bias(layer, direction)
    f, g = layer.activations[direction]
    size = layer.hidden

    def update(
        inputs: te.Tensor, products: te.Tensor, hidden: te.Tensor, *biases: te.Tensor
    ) -> te.Tensor:
        def element(b: tirx.Var, j: tirx.Var) -> tirx.Expr:
            last = products[b, 2 * size + j]
            for bias in biases:
                last = last + bias[j]
            z = f(inputs[b, j] + products[b, j])
            r = f(inputs[b, size + j] + products[b, size + j])
            return _mixed(z, g(inputs[b, 2 * size + j] + r * last), hidden[b, j])

        return te.compute(hidden.shape, element)

    def step(inputs: relax.Expr, state: State) -> State:
        (hidden,) = state
        products = call.emit(relax.op.matmul(hidden, matrix))
        return (call.compute(update, inputs, products, hidden, *bias),)

    return step


def _lstm_step(
    functions: Sequence[Activation], couples: bool
) -> Callable[..., tuple[te.Tensor, te.Tensor]]:
    """From gates in the order i, o, f, c to the cell state and the hidden state."""
    f, g, h = functions

    def compute(
        gates: te.Tensor, old: te.Tensor, *peepholes: te.Tensor
    ) -> tuple[te.Tensor, te.Tensor]:
        size = int(old.shape[1])

        def gate(index: int, b: tirx.Var, j: tirx.Var, cell: tirx.Expr) -> tirx.Expr:
            total = gates[b, index * size + j]
            for peephole in peepholes:
                total = total + peephole[index * size + j] * cell
            return f(total)

        def new_cell(b: tirx.Var, j: tirx.Var) -> tirx.Expr:
            i = gate(0, b, j, old[b, j])
            one = tirx.const(1, old.dtype)
            forget = one - i if couples else gate(2, b, j, old[b, j])
            return forget * old[b, j] + i * g(gates[b, 3 * size + j])

        cell = te.compute(old.shape, new_cell, name="cell")
        hidden = te.compute(
            old.shape, lambda b, j: gate(1, b, j, cell[b, j]) * h(cell[b, j]), name="hidden"
        )
        return cell, hidden

    return compute


def _mixed(z: tirx.Expr, new: tirx.Expr, old: tirx.Expr) -> tirx.Expr:
    return (tirx.const(1, str(z.ty.dtype)) - z) * new + z * old


def _map(function: Activation, x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *index: function(x[index]))


# --- The parts of a layer ---


def _layer(call: OperatorCall, default_activations: Sequence[str]) -> _Layer:
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
    return _Layer(
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
    numbers = constant_of(np.arange(steps, dtype=dtype_of(lengths)).reshape(steps, 1))
    reached = call.emit(relax.op.less(numbers, call.reshape(lengths, [1, batch])))
    rows = _rows(call, call.reshape(reached, [steps * batch, 1]), steps)
    return tuple(rows), lengths


def _unrolled(
    layer: _Layer,
    step_of: Callable[[int], Step],
    biases: Sequence[relax.Expr | None],
    initial: Sequence[int],
) -> list[Value]:
    """All outputs of a layer, given the inputs that hold its first states."""
    call = layer.call
    outputs, finals = [], []
    for direction, bias in enumerate(biases):
        state = tuple(_initial_state(layer, index, direction) for index in initial)
        inputs = _input_products(layer, direction, bias)
        hidden, state = _run_steps(layer, step_of(direction), inputs, state, direction)
        outputs.append(hidden)
        finals.append([_of_sequences(layer, part) for part in state])
    sequence: relax.Expr
    shape = [layer.steps, len(outputs), layer.batch, layer.hidden]
    if layer.steps:
        in_order = [part for parts in zip(*outputs, strict=True) for part in parts]
        sequence = call.reshape(_stacked(call, in_order), shape)
    else:
        sequence = constant_of(np.zeros(shape, np.dtype(layer.dtype)))
    last = [_stacked(call, list(parts)) for parts in zip(*finals, strict=True)]
    if layer.layout:
        sequence = call.permute(sequence, [2, 0, 1, 3])
        last = [call.permute(part, [1, 0, 2]) for part in last]
    return [sequence, *last]


def _run_steps(
    layer: _Layer, step: Step, inputs: Sequence[relax.Expr], state: State, direction: int
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
        new = step(inputs[i], state)
        hidden[i] = new[0]
        if mask is not None:
            hidden[i] = call.emit(relax.op.where(mask, new[0], zeros))
            new = tuple(
                call.emit(relax.op.where(mask, *parts)) for parts in zip(new, state, strict=True)
            )
        state = new
    return hidden, state


def _initial_state(layer: _Layer, index: int, direction: int) -> relax.Expr:
    tensor = layer.call.optional_tensor(index)
    if tensor is None:
        return layer.zeros()
    return _part(layer.call, tensor, direction, axis=1 if layer.layout else 0)


def _of_sequences(layer: _Layer, state: relax.Expr) -> relax.Expr:
    """The last state; of an empty sequence zero, as in ONNX Runtime, for the standard is silent."""
    if layer.lengths is None:
        return state
    call = layer.call
    zero = constant_of(np.zeros((), dtype_of(layer.lengths)))
    lengths = call.reshape(layer.lengths, [layer.batch, 1])
    is_there = call.emit(relax.op.greater(lengths, zero))
    return call.emit(relax.op.where(is_there, state, layer.zeros()))


def _input_products(layer: _Layer, direction: int, bias: relax.Expr | None) -> Sequence[relax.Expr]:
    """What the inputs give to the gates: for every step ``(batch, gates * hidden)``."""
    call = layer.call
    if not layer.steps:
        return ()
    inputs = shape_of(layer.x)[2]
    rows = call.reshape(layer.x, [layer.steps * layer.batch, inputs])
    weights = call.permute(_part(call, call.tensor(1), direction), [1, 0])
    products = call.emit(relax.op.matmul(rows, weights))
    if bias is not None:
        products = call.emit(relax.op.add(products, bias))
    return _rows(call, products, layer.steps)


def _input_bias(layer: _Layer, direction: int, gates: int, added: int) -> relax.Expr | None:
    """The bias of the inputs, plus that of the recurrence for the first `added` gates."""
    call = layer.call
    if call.argument(3) is None:
        return None
    both = _part(call, call.tensor(3), direction)
    size, count = gates * layer.hidden, added * layer.hidden
    own = _columns(call, both, 0, size)
    recurrent = _columns(call, both, size, size + count)
    if added < gates:
        rest = constant_of(np.zeros(size - count, np.dtype(layer.dtype)))
        recurrent = call.emit(relax.op.concat([recurrent, rest], 0))
    return call.emit(relax.op.add(own, recurrent))


def _recurrent_bias(layer: _Layer, direction: int) -> list[relax.Expr]:
    """The recurrent bias of a GRU's hidden gate, if there is one."""
    call = layer.call
    if call.argument(3) is None:
        return []
    bias = _part(call, call.tensor(3), direction)
    return [_columns(call, bias, 5 * layer.hidden, 6 * layer.hidden)]


def _recurrent_weights(layer: _Layer, direction: int, first: int, end: int) -> relax.Expr:
    """The transposed weights of some gates, ``(hidden, gates * hidden)``."""
    call = layer.call
    weights = call.permute(_part(call, call.tensor(2), direction), [1, 0])
    return _columns(call, weights, first * layer.hidden, end * layer.hidden)


def _plus_product(
    layer: _Layer, inputs: relax.Expr, state: relax.Expr, matrix: relax.Expr
) -> relax.Expr:
    """Add the product of a state with its weights to what the inputs give."""
    if _is_zero(state):
        return inputs
    call = layer.call
    return call.emit(relax.op.add(call.emit(relax.op.matmul(state, matrix)), inputs))


# --- Tensors ---


def _part(call: OperatorCall, tensor: relax.Expr, index: int, axis: int = 0) -> relax.Expr:
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


def _rows(call: OperatorCall, tensor: relax.Expr, parts: int) -> list[relax.Expr]:
    """Equal parts of the first axis, which one kernel copies: steps have the same kernels so."""
    if parts == 1:
        return [tensor]
    both = call.emit(relax.op.split(tensor, parts, 0))
    return [call.emit(relax.TupleGetItem(both, i)) for i in range(parts)]


def _stacked(call: OperatorCall, parts: list[relax.Expr]) -> relax.Expr:
    """Parts side by side along a new first axis."""
    if len(parts) == 1:
        return call.reshape(parts[0], [1, *shape_of(parts[0])])
    return call.emit(relax.op.stack(parts, axis=0))


def _is_zero(tensor: relax.Expr) -> bool:
    array = array_of(tensor)
    return array is not None and not array.any()


OPERATORS: Mapping[str, Converter] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
