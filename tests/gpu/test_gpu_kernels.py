"""Kernels for GPUs compute what ONNX Runtime does, in an emulator of CUDA's threads."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_models import assert_right, once, run_emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import lowered, model_of, random
from onnx import ModelProto, helper

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.cuda.targets import cuda_target
from hios_tvm.passes.canonicalize_operators import collect_weights
from hios_tvm.schema.precisions import Precision


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.integers(1, 20),
    st.sampled_from([1, 3, 8, 20]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2),
    st.integers(0, 2),
    st.tuples(st.integers(5, 11), st.integers(5, 11)),
)
def test_convolutions(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: int,
    pad: int,
    size: tuple[int, int],
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[stride] * 2, pads=[pad] * 4),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weights = {"w": random(outputs, inputs, *kernel, seed=7), "b": random(outputs, seed=8)}
    assert_right(model_of(nodes, {"x": (1, inputs, *size)}, weights))


@pytest.mark.parametrize("groups", [2, 12])
def test_groups(groups: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups, pads=[1] * 4)
    weights = {"w": random(24, 12 // groups, 3, 3, seed=7)}
    assert_right(model_of([node], {"x": (2, 12, 9, 7)}, weights))


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("GlobalAveragePool", {}),
        ("Softmax", {"axis": 1}),
        ("Transpose", {"perm": [0, 2, 3, 1]}),
        ("Sigmoid", {}),
    ],
)
def test_other_operators(operator: str, attributes: dict[str, object]) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    assert_right(model_of([node], {"x": (1, 40, 9, 7)}))


def test_residual_and_concatenation() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["c", "x"], ["a"]),
        helper.make_node("Concat", ["a", "x"], ["y"], axis=1),
    ]
    assert_right(model_of(nodes, {"x": (1, 16, 6, 7)}, {"w": random(16, 16, 3, 3, seed=7)}))


def test_dense_layers() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("LayerNormalization", ["r", "s", "b"], ["y"]),
    ]
    weights = {"w": random(50, 33, seed=7), "b": random(33, seed=8), "s": random(33, seed=9)}
    assert_right(model_of(nodes, {"x": (5, 50)}, weights))


@pytest.mark.parametrize("batch", [(), (3,), (2, 1, 3)])
def test_products_of_activations(batch: tuple[int, ...]) -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    assert_right(model_of([node], {"a": (*batch, 40, 17), "b": (*batch, 17, 21)}))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.sampled_from(["tf32", "fp16"]),
    st.sampled_from([8, 9, 16, 32, 36, 48]),
    st.sampled_from([8, 20, 70]),
    st.sampled_from([(1, 1), (3, 3), (1, 7)]),
    st.integers(1, 2),
    st.tuples(st.integers(8, 14), st.integers(8, 14)),
)
def test_convolutions_on_tensor_cores(
    precision: Precision,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: int,
    size: tuple[int, int],
) -> None:
    pads = [kernel[0] // 2, kernel[1] // 2] * 2
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[stride] * 2, pads=pads),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weights = {"w": random(outputs, inputs, *kernel, seed=7), "b": random(outputs, seed=8)}
    assert_right(model_of(nodes, {"x": (1, inputs, *size)}, weights), precision)


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_products_on_tensor_cores(precision: Precision, batch: tuple[int, ...]) -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    model = model_of([node], {"a": (*batch, 70, 33), "b": (*batch, 33, 130)})
    assert_right(model, precision)


def test_sums_of_two_slices_in_half_precision() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    model = model_of([node], {"x": (1, 8, 8, 8)}, {"w": random(8, 8, 3, 3, seed=7)})
    assert_right(model, "fp16")


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_weights_of_half_precision_in_memory(precision: Precision) -> None:
    """They are rounded at compile time, to what they would be rounded to on the way."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Reshape", ["c", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    weights = {"w": random(20, 9, 3, 3, seed=7), "v": random(64, 30, seed=8)}
    weights["v"][3, 4] = 1e-6  # not a normal number of half precision
    model = model_of(nodes, {"x": (1, 9, 8, 8)}, {**weights, "flat": np.array([20, 64])})
    mod = lowered(model, cuda_target("sm_90", host_target(), precision))
    found = [array for array in collect_weights(mod).values() if array.ndim > 1]
    half = [array for array in found if array.dtype == np.float16]
    assert len(found) == 2
    assert len(half) == (2 if precision == "fp16" else 0)
    if half:
        np.testing.assert_array_equal(half[1], weights["v"].astype(np.float16))
    assert_right(model, precision)


def test_weights_too_large_for_half_precision_become_infinite() -> None:
    weight = np.full((16, 16), 1.0, np.float32)
    weight[2, 3] = -1e5
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (16, 16)}, {"w": weight}
    )
    (y,) = run_emulated(model, {"x": np.full((16, 16), 2.0, np.float32)}, "fp16")
    np.testing.assert_array_equal(y[:, 3], -np.inf)
    np.testing.assert_array_equal(y[:, :3], 32.0)


def long_convolution() -> ModelProto:
    """Few results, which are long sums: blocks sum parts of them."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)
    weights = {"w": random(12, 64, 3, 3, seed=7), "b": random(12, seed=8)}
    return model_of([node], {"x": (1, 64, 5, 6)}, weights)


ADDING = r"(for \(int \w+ = 0; \w+ < )9(; \+\+\w+\) \{\n\s+\w+\[0\] = \(\w+\[0\] \+ \w+_rf_ptr\[)"


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_parts_of_sums_are_added_up(precision: Precision) -> None:
    assert_right(long_convolution(), precision, once(ADDING, r"\g<1>9\2"))  # which is there


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (ADDING, r"\g<1>8\2"),  # one part is left out
        (r"(_rf_ptr\[.*)\(\(\(int\)blockIdx\.z\) \* (?=.*_rf_local_ptr)", r"\1(0 * "),
    ],
    ids=["a part is not added", "parts are written to one place"],
)
def test_parts_that_are_lost_are_found(pattern: str, replacement: str) -> None:
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_right(long_convolution(), "fp32", once(pattern, replacement))


def test_parts_of_products_of_a_batch() -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    model = model_of([node], {"a": (2, 10, 330), "b": (2, 330, 9)})
    assert_right(model, "fp32", once(r"\w+\[0\] \+ \w+_rf_ptr\[", r"\g<0>"))  # which is there


def convolution_in_stages() -> ModelProto:
    """Nine slices, some of zeros."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    return model_of([node], {"x": (1, 16, 5, 6)}, {"w": random(12, 16, 3, 3, seed=7)})


WAIT = r"(?<=async_commit_group\(\);)\s+tvm_builtin_ptx_cp_async_wait_group_\w+\(\);"


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_slices_are_copied_while_others_are_multiplied(precision: Precision) -> None:
    assert_right(convolution_in_stages(), precision, once(WAIT, r"\g<0>"))  # which is there


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (WAIT, ""),
        (rf"({WAIT})\s+__syncthreads\(\);", r"\1"),
        (r"(async_wait_group_)1(?=\(\);)", r"\g<1>2"),
    ],
    ids=["no wait", "no barrier behind a wait", "a wait that leaves a slice too much"],
)
def test_slices_that_have_not_arrived_are_found(pattern: str, replacement: str) -> None:
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_right(convolution_in_stages(), "fp32", once(pattern, replacement))


def test_slices_go_through_registers_where_they_cannot_be_copied_asynchronously() -> None:
    def unchanged(source: str) -> str:
        assert "cp_async" not in source
        return source

    assert_right(convolution_in_stages(), "fp32", unchanged, "sm_75")
