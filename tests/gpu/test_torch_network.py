"""PyTorch computes what ONNX Runtime does: else it would be no rival."""

from __future__ import annotations

import numpy as np
import pytest
from lowered_models import random, run_onnx_runtime

from hios_tvm.zoo import build

SIDES = {"inception_v3": 107, "nasnet_a_large": 75}  # the smallest that their pooling takes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["inception_v3", "nasnet_a_large", "randwire", "squeezenet1_1", "resnet50", "densenet121"],
)
def test_networks(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch_network import TorchNetwork

    side = SIDES.get(name, 64)
    model = build(name, height=side, width=side)
    x = random(1, 3, side, side)
    (expected,) = run_onnx_runtime(model, {model.graph.input[0].name: x})
    with torch.inference_mode():
        (actual,) = TorchNetwork(model).eval()(torch.from_numpy(x))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
