"""Fourier transforms, windows and filters."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import assert_same_outputs, make_model, node, noise

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx import from_onnx


@pytest.mark.parametrize("onesided", [0, 1])
def test_frames_of_a_real_signal_are_windowed_and_transformed(onesided: int) -> None:
    transform = node("STFT", "x step window", "y", onesided=onesided)
    weights = {"step": np.array(4), "window": np.hanning(8).astype(np.float32)}
    model = make_model([transform], {"x": (2, 32, 1)}, ["y"], weights)
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 32, 1)})


def test_frames_longer_than_the_signal_are_refused() -> None:
    weights = {"step": np.array(4), "window": np.hanning(64).astype(np.float32)}
    model = make_model([node("STFT", "x step window", "y")], {"x": (1, 32, 1)}, ["y"], weights)
    with pytest.raises(ModelError, match="frames of 64 every 4 samples do not fit 32 samples"):
        from_onnx(model)
