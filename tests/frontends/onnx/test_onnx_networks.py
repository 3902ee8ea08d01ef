"""Whole networks: those of the zoo, and those that the onnx package carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx_models import assert_same_outputs, input_shapes, noise, run_module
from tvm import relax

from hios_tvm import zoo
from hios_tvm.frontends.onnx import from_onnx, load_onnx

LIGHT_MODELS = sorted(
    (Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx")
)


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet50"])
def test_networks_of_the_zoo(name: str) -> None:
    model = zoo.build(name, height=33, width=32)
    assert_same_outputs(from_onnx(model), model, {"input": noise(1, 3, 33, 32)})


@pytest.mark.parametrize("path", LIGHT_MODELS, ids=lambda path: path.stem)
def test_networks_of_the_onnx_package(path: Path) -> None:
    module = load_onnx(path)
    assert input_shapes(module) == [(1, 3, 224, 224)]
    relax.transform.LegalizeOps()(module)


def test_recorded_output_of_the_onnx_package() -> None:
    path = next(path for path in LIGHT_MODELS if path.stem == "light_squeezenet")
    recorded = TensorProto()
    recorded.ParseFromString(path.with_name("light_squeezenet_output_0.pb").read_bytes())
    expected = numpy_helper.to_array(recorded)
    # The package's own test feeds these images.
    images = np.arange(1 * 3 * 224 * 224, dtype=np.float32).reshape(1, 3, 224, 224)
    images = images / np.float32(images.size)
    np.testing.assert_allclose(run_module(load_onnx(path), images)[0], expected, rtol=1e-3)
