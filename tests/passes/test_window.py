from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import ModelProto, helper

from hios_tvm.backends.cpu.targets import parse_target

small, size = st.integers(1, 3), st.integers(4, 17)
channels = st.sampled_from([1, 3, 16, 19, 32, 47, 70])


@st.composite
def depthwise(draw: st.DrawFn) -> ModelProto:
    count = draw(channels.filter(lambda n: n > 1))
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    height = max(draw(size), reach[0] - pads[0] - pads[2])
    width = max(draw(size), reach[1] - pads[1] - pads[3])
    nodes = [
        helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["c"],
            kernel_shape=kernel,
            strides=draw(st.tuples(small, small)),
            dilations=dilations,
            pads=pads,
            group=count,
        ),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weights = {"w": random(count, 1, *kernel, seed=3), "b": random(count, seed=4)}
    return model_of(nodes, {"x": (draw(small), count, height, width)}, weights)


@st.composite
def poolings(draw: st.DrawFn) -> ModelProto:
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    pads = [draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4)]
    operator = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    attributes: dict[str, object] = {}
    if operator == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    node = helper.make_node(
        operator,
        ["x"],
        ["y"],
        kernel_shape=kernel,
        strides=draw(st.tuples(small, small)),
        pads=pads,
        **attributes,
    )
    return model_of([node], {"x": (draw(small), draw(channels), draw(size), draw(size))})


@settings(max_examples=15, deadline=None, derandomize=True)
@given(depthwise())
def test_any_depthwise_convolution(model: ModelProto) -> None:
    assert_lowers_right(model)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(depthwise())
def test_any_depthwise_convolution_without_avx512(model: ModelProto) -> None:
    assert_lowers_right(model, target=parse_target("portable"))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(poolings())
def test_any_pooling(model: ModelProto) -> None:
    assert_lowers_right(model)


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("count", [5, 130])
def test_pooling_of_whole_images(operator: str, count: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(operator, ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    model = model_of(nodes, {"x": (2, 3, 7, 9)}, {"w": random(count, 3, 1, 1)})
    assert any("pool2d" in name for name in kernels(lowered(model)))
    assert_lowers_right(model)


def test_windows_that_only_see_padding() -> None:
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], pads=[5, 5, 5, 5], kernel_shape=[3, 3], group=20
    )
    assert_lowers_right(model_of([node], {"x": (1, 20, 2, 3)}, {"w": random(20, 1, 3, 3)}))


@pytest.mark.parametrize("group", [1, 20])
def test_wide_padding_is_left_to_general_loops(group: int) -> None:
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], pads=[0, 0, 0, 40_000], kernel_shape=[1, 3], group=group
    )
    weights = {"w": random(20, 20 // group, 1, 3)}
    assert_lowers_right(model_of([node], {"x": (1, 20, 1, 3)}, weights))
