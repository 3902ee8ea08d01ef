"""Attention is one kernel of a GPU, and computes what double precision does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from attention_models import ADDED, attention, exact, feeds_of, node
from emulated_models import once, run_emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import Array, kernels, lowered, model_of, random, run_onnx_runtime
from onnx import ModelProto, helper

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.cuda.targets import cuda_target
from hios_tvm.passes.gpu_rules.attention_tiles import (
    MOST_KEYS,
    AttentionSizes,
    choose_attention_tile,
    shared_bytes,
)

Sizes = tuple[int, int, int, int, int, int]


def kernels_of(model: ModelProto) -> list[str]:
    return kernels(lowered(model, cuda_target("sm_90", host_target())))


@pytest.mark.parametrize(
    ("sizes", "mask_shape"),
    [
        ((1, 2, 19, 70, 20, 36), (1, 1, 19, 70)),
        ((1, 1, 1, 64, 70, 5), None),
        ((1, 1, 40, 33, 8, 70), (1, 1, 1, 33)),
    ],
)
def test_numbers(sizes: Sizes, mask_shape: Sequence[int] | None) -> None:
    mask = np.zeros((), np.float32) if mask_shape is None else random(*mask_shape, seed=9)
    model = attention(sizes, [ADDED], {"mask": mask})
    assert len(kernels_of(model)) == 1
    feeds = feeds_of(model)
    (y,) = run_emulated(model, feeds)
    expected = exact(sizes, feeds, mask.astype("float64"))
    np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_rows_without_a_key() -> None:
    """A row whose keys are all masked is NaN, or what the exporter writes for NaN."""
    mask = np.tril(np.ones((10, 10), bool), -1)  # the first query sees nothing
    causal = [node("Where", "mask", "s", "lowest", "t")]
    without_nan = [node("IsNaN", "p", "n"), node("Where", "n", "zero", "p", "w")]
    for tail, first_row in (([], np.nan), (without_nan, 0.0)):
        model = attention((1, 2, 10, 10, 16, 16), causal, {"mask": mask}, tail)
        feeds = feeds_of(model)
        (y,), (theirs,) = run_emulated(model, feeds), run_onnx_runtime(model, feeds)
        np.testing.assert_array_equal(y[:, 0], first_row)
        np.testing.assert_allclose(y, theirs, rtol=0, atol=1e-5)


def test_nan_and_infinity_pass_through() -> None:
    model = attention((1, 1, 19, 35, 16, 16))
    feeds = feeds_of(model)
    feeds["q"][0, 3, 5] = np.nan
    feeds["q"][0, 4] = np.inf
    feeds["k"][0, 30, 2] = 200.0
    (y,) = run_emulated(model, feeds)
    assert np.isnan(y[0, 3:5]).all()
    np.testing.assert_allclose(y, run_onnx_runtime(model, feeds)[0], rtol=0, atol=1e-5)


BARRIER = r"__syncthreads\(\);"


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rf"{BARRIER}(\s+for \(int k = 0;)", r"\1"),
        (rf"{BARRIER}(\s+for \(int copy_2 = 0;)", r"\1"),
        (rf"{BARRIER}(\s+for \(int other_1 = 0;)", r"\1"),
        (r"(float condval_5;\s+if .*\n.*\n.*\n.* = )-CUDART_INF_F", r"\g<1>0.0f"),
    ],
    ids=[
        "keys are not there yet",
        "values are replaced before they are read",
        "sums are not there yet",
        "keys behind the last one count",
    ],
)
def test_broken_kernels_are_found(pattern: str, replacement: str) -> None:
    sizes = (1, 1, 19, 70, 40, 36)
    model = attention(sizes)
    feeds = feeds_of(model)
    (broken,) = run_emulated(model, feeds, "fp32", once(pattern, replacement))
    expected = exact(sizes, feeds, np.zeros(1))
    assert not np.allclose(broken, expected, rtol=0, atol=1e-4)


def test_rows_that_do_not_fit_are_several_kernels() -> None:
    sizes = (1, 1, 4, MOST_KEYS, 8, 8)
    assert len(kernels_of(attention(sizes))) == 1
    assert len(kernels_of(attention((1, 1, 4, MOST_KEYS + 1, 8, 8)))) > 1


counts = st.integers(1, 3000)


@settings(deadline=None)
@given(
    st.builds(AttentionSizes, counts, counts, st.integers(1, MOST_KEYS), counts, counts),
    st.sampled_from([14, 132]),
)
def test_blocks_fit_into_shared_memory(sizes: AttentionSizes, units: int) -> None:
    tile = choose_attention_tile(sizes, units)
    assert shared_bytes(tile, sizes.keys) <= 48 << 10
    for copied in (tile.rows * tile.slicing.depth, tile.columns * tile.slicing.depth):
        assert copied % tile.threads == 0


def test_a_layer_of_a_transformer_is_nine_kernels() -> None:
    """Biases, residuals and GELU are computed where products end."""
    width, wide, count = 32, 64, 12
    shapes = {"split": np.array([1, count, 2, 16]), "joined": np.array([1, count, width])}
    weights: dict[str, Array] = {"scale": np.array(0.25, np.float32), **shapes}
    nodes = []

    def dense(x: str, y: str, inputs: int, outputs: int) -> None:
        weights[f"{y}_w"] = 0.2 * random(inputs, outputs, seed=len(weights))
        weights[f"{y}_b"] = random(outputs, seed=len(weights))
        nodes.extend([node("MatMul", x, f"{y}_w", f"{y}_p"), node("Add", f"{y}_p", f"{y}_b", y)])

    def normalized(x: str, y: str) -> None:
        weights[f"{y}_s"], weights[f"{y}_b"] = random(width, seed=1), random(width, seed=2)
        nodes.append(node("LayerNormalization", x, f"{y}_s", f"{y}_b", y, axis=-1))

    normalized("x", "n")
    for name in "qkv":
        dense("n", name, width, width)
        nodes.append(node("Reshape", name, "split", f"{name}_h"))
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes.append(node("Transpose", f"{name}_h", f"{name}_t", perm=perm))
    nodes += [
        node("MatMul", "q_t", "k_t", "s"),
        node("Mul", "s", "scale", "t"),
        node("Softmax", "t", "p", axis=-1),
        node("MatMul", "p", "v_t", "o"),
        node("Transpose", "o", "o_t", perm=[0, 2, 1, 3]),
        node("Reshape", "o_t", "joined", "a"),
    ]
    dense("a", "d", width, width)
    nodes.append(node("Add", "x", "d", "r"))
    normalized("r", "m")
    dense("m", "h", width, wide)
    nodes.append(helper.make_node("Gelu", ["h"], ["g"]))
    dense("g", "e", wide, width)
    nodes.append(node("Add", "r", "e", "y"))
    model = model_of(nodes, {"x": (1, count, width)}, weights)
    model.opset_import[0].version = 20
    names = kernels_of(model)
    assert len(names) == 9, names
    feeds = feeds_of(model)
    (theirs,) = run_onnx_runtime(model, feeds)
    (y,) = run_emulated(model, feeds, "fp16")
    np.testing.assert_allclose(y, theirs, rtol=0, atol=1e-3 * np.abs(theirs).max())
