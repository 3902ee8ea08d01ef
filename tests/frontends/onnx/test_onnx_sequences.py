"""Sequences and optional values."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import assert_same_outputs, make_model, node, noise, run_module, tensor_names

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx import from_onnx


def test_outputs_that_are_sequences_become_one_for_each_tensor() -> None:
    nodes = [node("SequenceConstruct", "x n", "y"), node("Neg", "x", "n")][::-1]
    model = make_model(nodes, {"x": (2,)}, ["y", "n"])
    module = from_onnx(model)
    assert tensor_names(module, "output_names") == ["y/0", "y/1", "n"]
    first, second, third = run_module(module, noise(2))
    np.testing.assert_array_equal(first, noise(2))
    np.testing.assert_array_equal(second, third)


def test_outputs_without_a_value_are_refused() -> None:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, (2,))
    optional = node("Optional", "", "y", type=element)
    model = make_model([node("Neg", "x", "n"), optional], {"x": (2,)}, ["n", "y"])
    with pytest.raises(ModelError, match="output 'y' has no value"):
        from_onnx(model)
    with pytest.raises(ModelError, match="all its outputs are empty sequences"):
        from_onnx(make_model([node("SequenceEmpty", "", "y")], {"x": (2,)}, ["y"]))


CHAINS = {
    "a sequence, from behind": [
        node("Constant", "", "last", value_int=-1),
        node("SequenceConstruct", "x x", "two"),
        node("Neg", "x", "n"),
        node("SequenceInsert", "two n last", "three_tensors"),
        node("ConcatFromSequence", "three_tensors", "y", axis=0),
    ],
    "parts of one row": [
        node("SplitToSequence", "x", "parts", axis=1, keepdims=0),
        node("Constant", "", "last", value_int=-1),
        node("SequenceAt", "parts last", "y"),
    ],
    "parts of one size": [
        node("Constant", "", "size", value_int=2),
        node("SplitToSequence", "x size", "parts", axis=1),
        node("ConcatFromSequence", "parts", "c", axis=1),
        node("Constant", "", "second", value_int=1),
        node("SequenceAt", "parts second", "last"),
        node("Concat", "c last", "y", axis=1),
    ],
    "parts of given sizes": [
        node("Constant", "", "sizes", value_ints=[1, 2]),
        node("SplitToSequence", "x sizes", "parts", axis=1),
        node("Constant", "", "first", value_int=0),
        node("SequenceAt", "parts first", "y"),
    ],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_sequences_that_tvm_lacks_or_converts_wrongly(chain: str) -> None:
    model = make_model(CHAINS[chain], {"x": (2, 3)}, ["y"])
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 3)})
