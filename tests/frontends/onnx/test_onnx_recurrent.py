"""Recurrent layers, compared with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_models import (
    Array,
    NodeCase,
    assert_same_outputs,
    case,
    feeds_of,
    joined_model,
    make_model,
    noise,
    run_onnx_runtime,
)

from hios_tvm import onnx_backend
from hios_tvm.errors import ModelError, UnsupportedOperatorError
from hios_tvm.frontends.onnx import from_onnx

STEPS, BATCH, INPUTS, HIDDEN = 4, 3, 5, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ORDER = ["x", "w", "r", "b", "lengths", "h", "c", "p"]
LENGTHS = np.array([2, 4, 1], np.int32)
EMPTY = np.array([0, 3, 2], np.int32)


def layer(
    op: str,
    *,
    given: str = "",
    lengths: Array | None = None,
    are_lengths_known: bool = True,
    are_weights_known: bool = True,
    batch: int = BATCH,
    steps: int = STEPS,
    **attributes: Any,
) -> NodeCase:
    """A layer; `given` names the optional inputs that it has besides its lengths."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    count = GATES[op]
    layout = attributes.get("layout", 0)
    state = (batch, directions, HIDDEN) if layout else (directions, batch, HIDDEN)
    tensors = {
        "x": noise(*((batch, steps) if layout else (steps, batch)), INPUTS),
        "w": noise(directions, count * HIDDEN, INPUTS, seed=1) / 2,
        "r": noise(directions, count * HIDDEN, HIDDEN, seed=2) / 2,
        "b": noise(directions, 2 * count * HIDDEN, seed=3),
        "h": noise(*state, seed=4),
        "c": noise(*state, seed=5),
        "p": noise(directions, 3 * HIDDEN, seed=6),
    }
    present = {name: tensors[name] for name in ["x", "w", "r", *given]}
    if lengths is not None:
        present["lengths"] = lengths
    known = {"w", "r", "b", "p"} if are_weights_known else set()
    known |= {"lengths"} if are_lengths_known else set()
    return case(
        op,
        {name: array for name, array in present.items() if name not in known},
        {name: array for name, array in present.items() if name in known},
        order=[name if name in present else "" for name in ORDER[: 8 if op == "LSTM" else 6]],
        outputs=["y", "yh", "yc"][: 3 if op == "LSTM" else 2],
        hidden_size=HIDDEN,
        **attributes,
    )


def forms(op: str) -> dict[str, NodeCase]:
    """What all three operators have in common."""
    both: Any = {"direction": "bidirectional"}
    return {
        "plain": layer(op),
        "bias-and-state": layer(op, given="bhc" if op == "LSTM" else "bh"),
        "reverse": layer(op, given="b", direction="reverse"),
        "both": layer(op, given="bh", **both),
        "lengths": layer(op, given="bh", lengths=LENGTHS, **both),
        "empty-sequence": layer(op, given="bh", lengths=EMPTY),
        "unknown-lengths": layer(op, given="b", lengths=EMPTY, are_lengths_known=False, **both),
        "unknown-weights": layer(op, given="bh", are_weights_known=False, **both),
        "one-step": layer(op, given="b", steps=1, batch=1),
        "many-steps": layer(op, given="b", steps=35, batch=1),
        "clip": layer(op, given="bh", clip=0.3),
    }


def assert_agree(cases: dict[str, NodeCase], opset: int = 17) -> None:
    model = joined_model(cases, opset=opset)
    assert_same_outputs(from_onnx(model), model, feeds_of(cases))


@pytest.mark.parametrize("op", GATES)
def test_forms_of_layers(op: str) -> None:
    assert_agree(forms(op))


def test_forms_of_lstm() -> None:
    assert_agree(
        {
            "peepholes": layer("LSTM", given="bhcp"),
            "coupled": layer("LSTM", given="bc", input_forget=1),
            "coupled-peepholes-clip": layer(
                "LSTM", given="bhcp", input_forget=1, clip=0.5, direction="bidirectional"
            ),
        }
    )


def test_gru_that_resets_products() -> None:
    assert_agree(
        {
            "no-bias": layer("GRU", linear_before_reset=1),
            "all": layer(
                "GRU", given="bh", lengths=LENGTHS, linear_before_reset=1, direction="bidirectional"
            ),
        }
    )


@pytest.mark.parametrize("op", GATES)
def test_batch_first(op: str) -> None:
    """ONNX Runtime does not implement it: the same layer, with permuted inputs and outputs."""
    plain = layer(op, given="bh", direction="bidirectional")
    first = layer(op, given="bh", direction="bidirectional", layout=1)
    feeds = {f"plain/{name}": array for name, array in plain.inputs.items()}
    expected = run_onnx_runtime(joined_model({"plain": plain}), feeds)
    swapped = {name: array.swapaxes(0, 1) for name, array in plain.inputs.items()}
    model = joined_model({"first": first})
    named = {f"first/{name}": array for name, array in swapped.items()}
    actual = onnx_backend.prepare(model).run(named)
    orders = [(2, 0, 1, 3), (1, 0, 2), (1, 0, 2)]
    for ours, theirs, order in zip(actual, expected, orders, strict=False):
        np.testing.assert_allclose(ours, theirs.transpose(order), atol=1e-6)


def test_activations_take_their_numbers_in_order() -> None:
    names = ["Relu", "LeakyRelu", "HardSigmoid", "Elu", "Softsign", "Softplus"]
    cases = {name: layer("RNN", given="b", activations=[name]) for name in [*names, "Sigmoid"]}
    numbers: dict[str, Any] = {"activation_alpha": [0.3, 0.7], "activation_beta": [0.4, 0.2]}
    for name in ("LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Elu", "Affine", "ScaledTanh"):
        cases[f"{name}-with-numbers"] = layer("RNN", given="b", activations=[name], **numbers)
    cases["two"] = layer(
        "LSTM", given="b", activations=["HardSigmoid", "Tanh", "ScaledTanh"], **numbers
    )
    assert_agree(cases)


def test_whole_compiler() -> None:
    cases = {
        "lstm": layer("LSTM", given="bhc", lengths=LENGTHS, direction="bidirectional"),
        "gru": layer("GRU", given="bh", steps=20),
    }
    model, feeds = joined_model(cases), feeds_of(cases)
    actual = onnx_backend.prepare(model).run(feeds)
    for ours, theirs in zip(actual, run_onnx_runtime(model, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_damaged_layers_are_refused() -> None:
    def model(**attributes: Any) -> Any:
        node = helper.make_node("RNN", ["x", "w", "r"], ["y"], **attributes)
        weights = {"w": noise(1, HIDDEN, INPUTS), "r": noise(1, HIDDEN, HIDDEN)}
        return make_model([node], {"x": [STEPS, BATCH, INPUTS]}, ["y"], weights)

    with pytest.raises(ModelError, match="hidden_size is not that of its weights, 6"):
        from_onnx(model(hidden_size=5))
    with pytest.raises(ModelError, match="not those of 2 directions"):
        from_onnx(model(direction="bidirectional"))
    with pytest.raises(ModelError, match="'Cube' is not one of affine, elu"):
        from_onnx(model(activations=["Cube"]))
    with pytest.raises(ModelError, match="'Affine' needs activation_alpha"):
        from_onnx(model(activations=["Affine"]))
    with pytest.raises(UnsupportedOperatorError, match="the attributes speed are not known"):
        from_onnx(model(speed=1))
