"""Kernels that would never end are refused, and steps are counted as loops nest."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import make_model, node, noise
from tvm import tirx

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.check_work import steps_of, work_limit
from hios_tvm.passes.pipeline import lower_to_kernels


def test_steps_of_a_product_are_its_multiplications() -> None:
    model = make_model([node("MatMul", "x w", "y")], {"x": (6, 7)}, ["y"], {"w": noise(7, 5)})
    kernels = lower_to_kernels(from_onnx(model))
    (kernel,) = (f for _, f in kernels.functions_items() if isinstance(f, tirx.PrimFunc))
    assert steps_of(kernel.body) == 6 * 7 * 5


def test_an_operator_without_an_end_is_named() -> None:
    """Regions take no memory for their samples: 10^9 of them, each of 10^6 samples."""
    regions = {"r": np.zeros((10**6, 4), np.float32), "b": np.zeros(10**6, int)}
    sizes = {"output_height": 16, "output_width": 16, "sampling_ratio": 1024}
    model = make_model(
        [node("RoiAlign", "x r b", "y", **sizes)], {"x": (1, 1, 4, 4)}, ["y"], regions
    )
    with pytest.raises(ModelError, match=r"the operator y would take 2\.7e\+14 steps"):
        lower_to_kernels(from_onnx(model))


def test_the_limit_can_be_lower() -> None:
    model = make_model([node("MatMul", "x w", "y")], {"x": (6, 7)}, ["y"], {"w": noise(7, 5)})
    with work_limit(210):
        lower_to_kernels(from_onnx(model))
    with work_limit(209), pytest.raises(ModelError, match=r"y would take 2\.1e\+02 steps, more"):
        lower_to_kernels(from_onnx(model))
