from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import ModelProto, helper

from hios_tvm.backends.cpu.targets import host_target, parse_target


def convolution(
    data: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    *,
    groups: int = 1,
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    activation: bool = True,
) -> ModelProto:
    """A convolution with bias, followed by Relu if there is an `activation`."""
    nodes = [
        helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["c" if activation else "y"],
            kernel_shape=kernel,
            strides=strides,
            dilations=dilations,
            pads=pads,
            group=groups,
        )
    ]
    if activation:
        nodes.append(helper.make_node("Relu", ["c"], ["y"]))
    weight = random(outputs, data[1] // groups, *kernel, seed=7)
    return model_of(nodes, {"x": data}, {"w": weight, "b": random(outputs, seed=8)})


@st.composite
def convolutions(draw: st.DrawFn) -> ModelProto:
    small, size = st.integers(1, 3), st.integers(1, 19)
    groups = draw(st.sampled_from([1, 1, 1, 2, 5]))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    height = max(draw(size), reach[0] - pads[0] - pads[2])
    width = max(draw(size), reach[1] - pads[1] - pads[3])
    return convolution(
        (draw(small), groups * draw(st.integers(1, 20)), height, width),
        groups * draw(st.integers(1, 40)),
        kernel,
        groups=groups,
        strides=draw(st.tuples(small, small)),
        dilations=dilations,
        pads=pads,
        activation=draw(st.booleans()),
    )


@settings(max_examples=18, deadline=None, derandomize=True)
@given(convolutions())
def test_any_convolution(model: ModelProto) -> None:
    assert_lowers_right(model)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(convolutions())
def test_any_convolution_without_avx512(model: ModelProto) -> None:
    assert_lowers_right(model, target=parse_target("portable"))


@pytest.mark.parametrize("width", [35, 73, 147, 149])
def test_awkward_widths(width: int) -> None:
    assert_lowers_right(convolution((1, 3, 5, width), 32, (3, 3), pads=(1, 1, 1, 1)))


@pytest.mark.parametrize(
    ("kernel", "pads"), [((1, 7), (0, 3, 0, 3)), ((7, 1), (3, 0, 3, 0)), ((3, 3), (9, 9, 0, 9))]
)
def test_windows_mostly_outside(kernel: tuple[int, int], pads: tuple[int, int, int, int]) -> None:
    assert_lowers_right(convolution((2, 17, 5, 6), 33, kernel, pads=pads))


def test_large_kernels_share_rows_among_chunks() -> None:
    assert_lowers_right(convolution((2, 256, 40, 41), 40, (3, 3), pads=(1, 1, 1, 1)))


def test_many_pixels_and_a_rest() -> None:
    assert_lowers_right(convolution((3, 300, 31, 37), 40, (1, 1)))


@pytest.mark.parametrize("target", ["host", "portable"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_last_block_of_channels_is_narrower(kernel: int, target: str) -> None:
    model = convolution((1, 20, 49, 49), 104, (kernel, kernel), strides=(2, 2))
    assert_lowers_right(model, target=parse_target(target))


def test_bias_residual_and_activation_are_one_kernel() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("Add", ["n", "s"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["t"]),
        helper.make_node("Mul", ["a", "t"], ["y"]),
    ]
    weights = {name: np.abs(random(24, seed=i)) for i, name in enumerate("gbmv")}
    weights["w"] = random(24, 5, 3, 3)
    shapes = {"x": (1, 5, 9, 9), "r": (1, 24, 9, 9)}
    model = model_of(nodes, shapes, weights)
    assert len([name for name in kernels(lowered(model)) if "conv2d" in name]) == 1
    assert_lowers_right(model)


def test_weights_that_are_inputs() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    assert_lowers_right(model_of([node], {"x": (1, 3, 8, 9), "w": (6, 3, 3, 3)}))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_any_product(rows: int, inputs: int, outputs: int, batched: bool) -> None:
    shape = (2, rows, inputs) if batched else (rows, inputs)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    weights = {"w": random(inputs, outputs, seed=1), "b": random(outputs, seed=2)}
    assert_lowers_right(model_of(nodes, {"x": shape}, weights))


def test_sums_stay_in_registers() -> None:
    """The tile that the register model chose leaves no vector of sums in memory."""
    model = convolution((1, 64, 28, 28), 64, (3, 3), pads=(1, 1, 1, 1))
    mod = lowered(model)
    (name,) = (name for name in kernels(mod) if "conv2d" in name)
    func = mod[name].with_attr("global_symbol", "kernel")
    assembly = tvm_assembly(func)
    inner = [line for line in assembly.splitlines() if "vfmadd" in line or "fmla" in line]
    assert inner
    assert not [line for line in inner if line.rstrip().endswith("(%rsp)")]


def tvm_assembly(func: object) -> str:
    import tvm

    return str(tvm.compile(func, target=host_target()).mod.inspect_source("asm"))
