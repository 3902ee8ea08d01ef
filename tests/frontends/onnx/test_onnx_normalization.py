"""Normalizations."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import assert_same_outputs, make_model, node, noise

from hios_tvm.frontends.onnx import from_onnx

CHAINS = {
    "1-norm": [node("LpNormalization", "x", "y", p=1, axis=0)],
    "2-norm": [node("LpNormalization", "x", "y")],
    "norm of zero": [node("Mul", "x zero", "z"), node("LpNormalization", "z", "y")],
    "statistics of a layer norm": [node("LayerNormalization", "x three", "y m d")],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_normalizations_that_tvm_lacks_or_converts_wrongly(chain: str) -> None:
    outputs = ["y", *(["m"] if "m" in CHAINS[chain][-1].output else [])]
    weights = {"zero": np.array(0, np.float32), "three": noise(3)}
    model = make_model(CHAINS[chain], {"x": (2, 3)}, outputs, weights)
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 3)})
