from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import (
    assert_lowers_right,
    kernels,
    lowered,
    model_of,
    random,
    run_lowered,
    uses_winograd,
)
from onnx import ModelProto, helper

from hios_tvm.backends.cpu.targets import parse_target
from hios_tvm.passes.cpu_rules import winograd_shape
from hios_tvm.passes.cpu_rules.transformed_weights import TransformedWeights
from hios_tvm.passes.cpu_rules.winograd_matrices import MATRICES, TILE

TOLERANCE = 5e-6  # of the largest output


def convolution(
    data: tuple[int, int, int, int],
    outputs: int,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    *,
    residual: bool = False,
) -> ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=pads)]
    inputs = {"x": data}
    if residual:
        height, width = data[2] + pads[0] + pads[2] - 2, data[3] + pads[1] + pads[3] - 2
        inputs["r"] = (data[0], outputs, height, width)
        nodes.append(helper.make_node("Add", ["c", "r"], ["a"]))
    nodes.append(helper.make_node("Relu", ["a" if residual else "c"], ["y"]))
    weights = {"w": random(outputs, data[1], 3, 3, seed=7), "b": random(outputs, seed=8)}
    return model_of(nodes, inputs, weights)


@contextmanager
def wherever_possible() -> Iterator[None]:
    """Take Winograd's method for every convolution that it can compute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd_shape, "_LEAST_GAIN", math.inf)
        yield


def test_sums_of_many_channels_are_as_exact_as_direct_ones() -> None:
    """Against double precision; tiles of 4 with the usual points are 12 times worse."""
    data, weight = random(1, 256, 12, 12), random(16, 256, 3, 3, seed=1)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = model_of([node], {"x": data.shape}, {"w": weight})
    windows = np.lib.stride_tricks.sliding_window_view(data.astype("float64"), (3, 3), (2, 3))
    exact = np.einsum("nchwij,ocij->nohw", windows, weight)
    errors = []
    for context in (wherever_possible(), nullcontext()):
        with context:
            (result,) = run_lowered(model, {"x": data})
        errors.append(np.sqrt(np.mean((result - exact) ** 2) / np.mean(exact**2)))
    assert max(errors) < 5e-7


def test_matrices_compute_a_filter() -> None:
    matrices = MATRICES
    data, window = random(TILE + 2).astype("float64"), random(3, seed=1).astype("float64")
    inputs, filters, outputs = map(np.array, (matrices.inputs, matrices.filters, matrices.outputs))
    expected = np.correlate(data, window, "valid")
    np.testing.assert_allclose(outputs @ ((filters @ window) * (inputs @ data)), expected)


def test_halves_make_the_matrices() -> None:
    pairs = np.eye(TILE + 2)
    for i in range(1, TILE + 1, 2):
        pairs[i : i + 2, i : i + 2] = [[1, 1], [1, -1]]
    np.testing.assert_array_equal(pairs @ np.array(MATRICES.half_inputs), MATRICES.inputs)
    np.testing.assert_array_equal(np.array(MATRICES.half_outputs) @ pairs, MATRICES.outputs)


def test_transformed_weights_are_padded_to_blocks() -> None:
    weights = random(3, 3, 3, 5)
    packed = TransformedWeights(block=4)(weights)
    assert packed.shape == (2, 16, 3, 4)
    assert not packed[1, :, :, 1:].any()
    matrix = np.array(MATRICES.filters)
    expected = matrix @ weights[:, :, 2, 4] @ matrix.T
    np.testing.assert_allclose(packed[1, :, 2, 0].reshape(4, 4), expected, rtol=1e-5)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(9, 40),
    st.integers(9, 40),
    st.integers(1, 70),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.booleans(),
)
def test_any_image(
    batch: int,
    vectors: int,
    height: int,
    width: int,
    outputs: int,
    pads: tuple[int, int, int, int],
    residual: bool,
) -> None:
    model = convolution((batch, 16 * vectors, height, width), outputs, pads, residual=residual)
    with wherever_possible():
        assert_lowers_right(model, tolerance=TOLERANCE)


@pytest.mark.parametrize(
    ("data", "outputs"),
    [
        ((1, 64, 56, 56), 64),  # many chunks
        ((1, 128, 28, 28), 40),  # a rest of tiles, and of channels
        ((1, 256, 14, 14), 48),  # few chunks: threads share the channels
        ((2, 48, 33, 35), 33),
    ],
)
def test_sizes_of_networks(data: tuple[int, int, int, int], outputs: int) -> None:
    model = convolution(data, outputs)
    with wherever_possible():
        assert uses_winograd(lowered(model))
        assert_lowers_right(model, tolerance=TOLERANCE)


def test_narrower_vectors() -> None:
    model, target = convolution((1, 24, 21, 18), 20), parse_target("portable")
    with wherever_possible():
        assert uses_winograd(lowered(model, target))
        assert_lowers_right(model, target=target, tolerance=TOLERANCE)


def test_bias_residual_and_activation_are_one_kernel() -> None:
    model = convolution((1, 32, 20, 20), 32, residual=True)
    with wherever_possible():
        mod = lowered(model)
    assert len([name for name in kernels(mod) if "conv2d" in name]) == 1
    assert uses_winograd(mod)


def test_weights_of_few_tiles_decide_against_it() -> None:
    """Transformed weights are 1.8 times as many: too many to read for few tiles."""
    few, many = convolution((1, 512, 7, 7), 512), convolution((1, 64, 56, 56), 64)
    assert not uses_winograd(lowered(few))
    assert uses_winograd(lowered(many))


@pytest.mark.parametrize("attributes", [{"strides": [2, 2]}, {"dilations": [2, 2]}, {"group": 2}])
def test_other_convolutions_stay_direct(attributes: dict[str, object]) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], **attributes)
    weight = random(32, 32 // int(attributes.get("group", 1)), 3, 3)
    model = model_of([node], {"x": (1, 32, 30, 30)}, {"w": weight})
    assert not uses_winograd(lowered(model))
