"""Recurrent layers: every step is a product of matrices and the gates behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.activations import Activation
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.unrolling import (
    Element,
    Gates,
    Layer,
    State,
    Step,
    layer_of,
    part_of,
    recurrent_bias,
    recurrent_products,
    recurrent_weights,
    unrolled,
)

# --- The operators ---


def lstm(call: OperatorCall) -> Value | list[Value]:
    layer = layer_of(call, ("Sigmoid", "Tanh", "Tanh"))
    couples = call.attributes.flag("input_forget")
    peepholes = call.optional_tensor(7)

    def step_of(direction: int) -> Step:
        matrix = recurrent_weights(layer, direction, 0, 4)
        weights = [] if peepholes is None else [part_of(call, peepholes, direction)]
        functions = layer.activations[direction]

        def step(gates: Gates, state: State) -> State:
            hidden, cell = state
            products = recurrent_products(layer, hidden, matrix)
            compute = _lstm_step(functions, couples, len(products))
            both = call.compute(compute, gates.products, gates.step, cell, *products, *weights)
            cell, hidden = (call.emit(relax.TupleGetItem(both, i)) for i in range(2))
            return hidden, cell

        return step

    return unrolled(layer, step_of, gates=4, added_biases=4, initial=(5, 6))


def gru(call: OperatorCall) -> Value | list[Value]:
    layer = layer_of(call, ("Sigmoid", "Tanh"))
    resets_product = call.version >= 3 and call.attributes.flag("linear_before_reset")
    step_of = _gru_resetting_products if resets_product else _gru_resetting_states
    # The recurrent bias of the hidden gate is added before the reset, the others with the inputs'
    added = 2 if resets_product else 3
    return unrolled(layer, lambda i: step_of(layer, i), gates=3, added_biases=added, initial=(5,))


def rnn(call: OperatorCall) -> Value | list[Value]:
    layer = layer_of(call, ("Tanh",))

    def step_of(direction: int) -> Step:
        matrix = recurrent_weights(layer, direction, 0, 1)
        (function,) = layer.activations[direction]

        def compute(
            inputs: te.Tensor, index: te.Tensor, hidden: te.Tensor, *products: te.Tensor
        ) -> te.Tensor:
            gate = _sum(Gates.of(inputs, index, layer.batch), products)
            return te.compute(hidden.shape, lambda b, j: function(gate(b, j)))

        def step(gates: Gates, state: State) -> State:
            (hidden,) = state
            products = recurrent_products(layer, hidden, matrix)
            return (call.compute(compute, gates.products, gates.step, hidden, *products),)

        return step

    return unrolled(layer, step_of, gates=1, added_biases=1, initial=(5,))


def _gru_resetting_states(layer: Layer, direction: int) -> Step:
    """The hidden gate sees a state that was reset."""
    call, size = layer.call, layer.hidden
    update_and_reset = recurrent_weights(layer, direction, 0, 2)
    matrix = recurrent_weights(layer, direction, 2, 3)
    f, g = layer.activations[direction]

    def reset(
        inputs: te.Tensor, index: te.Tensor, hidden: te.Tensor, products: te.Tensor
    ) -> te.Tensor:
        gate = _sum(Gates.of(inputs, index, layer.batch), [products])
        return te.compute(hidden.shape, lambda b, j: f(gate(b, size + j)) * hidden(b, j))

    def update(
        inputs: te.Tensor, index: te.Tensor, hidden: te.Tensor, *products: te.Tensor
    ) -> te.Tensor:
        of_inputs = Gates.of(inputs, index, layer.batch)

        def element(b: tirx.Var, j: tirx.Var) -> tirx.Expr:
            z = f(_sum(of_inputs, products[:1])(b, j))
            new = of_inputs(b, 2 * size + j)
            for product in products[1:]:
                new = new + product(b, j)
            return _mixed(z, g(new), hidden(b, j))

        return te.compute(hidden.shape, element)

    def step(gates: Gates, state: State) -> State:
        (hidden,) = state
        inputs = (gates.products, gates.step, hidden)
        products = recurrent_products(layer, hidden, update_and_reset)
        if products:
            remembered = call.compute(reset, *inputs, *products)
            products += recurrent_products(layer, remembered, matrix)
        return (call.compute(update, *inputs, *products),)

    return step


def _gru_resetting_products(layer: Layer, direction: int) -> Step:
    """The hidden gate sees a product with the state, bias included, that was reset."""
    call, size = layer.call, layer.hidden
    matrix = recurrent_weights(layer, direction, 0, 3)
    bias = recurrent_bias(layer, direction)
    f, g = layer.activations[direction]

    def update(
        inputs: te.Tensor,
        index: te.Tensor,
        hidden: te.Tensor,
        products: te.Tensor,
        *biases: te.Tensor,
    ) -> te.Tensor:
        of_inputs = Gates.of(inputs, index, layer.batch)
        gate = _sum(of_inputs, [products])

        def element(b: tirx.Var, j: tirx.Var) -> tirx.Expr:
            last = products(b, 2 * size + j)
            for bias in biases:
                last = last + bias(j)
            new = of_inputs(b, 2 * size + j) + f(gate(b, size + j)) * last
            return _mixed(f(gate(b, j)), g(new), hidden(b, j))

        return te.compute(hidden.shape, element)

    def step(gates: Gates, state: State) -> State:
        (hidden,) = state
        products = call.emit(relax.op.matmul(hidden, matrix))
        return (call.compute(update, gates.products, gates.step, hidden, products, *bias),)

    return step


def _lstm_step(
    functions: Sequence[Activation], couples: bool, num_products: int
) -> Callable[..., tuple[te.Tensor, te.Tensor]]:
    """From gates in the order i, o, f, c to the cell state and the hidden state."""
    f, g, h = functions

    def compute(
        inputs: te.Tensor, index: te.Tensor, old: te.Tensor, *others: te.Tensor
    ) -> tuple[te.Tensor, te.Tensor]:
        batch, size = (int(extent) for extent in old.shape)
        total = _sum(Gates.of(inputs, index, batch), others[:num_products])
        peepholes = others[num_products:]

        def gate(place: int, b: tirx.Var, j: tirx.Var, cell: tirx.Expr) -> tirx.Expr:
            result = total(b, place * size + j)
            for peephole in peepholes:
                result = result + peephole(place * size + j) * cell
            return f(result)

        def new_cell(b: tirx.Var, j: tirx.Var) -> tirx.Expr:
            i = gate(0, b, j, old(b, j))
            one = tirx.const(1, old.dtype)
            forget = one - i if couples else gate(2, b, j, old(b, j))
            return forget * old(b, j) + i * g(total(b, 3 * size + j))

        cell = te.compute(old.shape, new_cell, name="cell")
        hidden = te.compute(
            old.shape, lambda b, j: gate(1, b, j, cell(b, j)) * h(cell(b, j)), name="hidden"
        )
        return cell, hidden

    return compute


def _sum(inputs: Element, products: Sequence[te.Tensor]) -> Element:
    """What the inputs and the last state give to the gates."""

    def element(b: tirx.Var, column: tirx.Expr) -> tirx.Expr:
        total = inputs(b, column)
        for product in products:
            total = total + product(b, column)
        return total

    return element


def _mixed(z: tirx.Expr, new: tirx.Expr, old: tirx.Expr) -> tirx.Expr:
    return (tirx.const(1, str(z.ty.dtype)) - z) * new + z * old


OPERATORS: Mapping[str, Converter] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
