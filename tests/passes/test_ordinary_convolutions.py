from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import assert_lowers_right, lowered, model_of, random
from onnx import ModelProto, helper
from structure import assert_becomes
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.passes.ordinary_convolutions import OrdinaryConvolutions, phase_weights

sizes = st.integers(1, 9)


def convolution(
    operator: str,
    data: tuple[int, ...],
    weight: tuple[int, ...],
    **attributes: object,
) -> ModelProto:
    nodes = [
        helper.make_node(operator, ["x", "w", "b"], ["c"], **attributes),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    groups = int(str(attributes.get("group", 1)))
    outputs = weight[1] * groups if operator == "ConvTranspose" else weight[0]
    weights = {"w": random(*weight, seed=7), "b": random(outputs, seed=8)}
    return model_of(nodes, {"x": data}, weights)


@st.composite
def transposed(draw: st.DrawFn, rank: int) -> ModelProto:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    kernel = [draw(st.integers(1, 5)) for _ in range(rank)]
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    before = [draw(st.integers(0, min(3, r))) for r in reach]
    after = [draw(st.integers(0, min(3, r))) for r in reach]
    # Enough inputs that some outputs are left
    data = [draw(sizes) + (b + a) // s for b, a, s in zip(before, after, strides, strict=True)]
    more = [draw(st.integers(0, step - 1)) for step in strides]
    inputs = groups * draw(st.integers(1, 5))
    return convolution(
        "ConvTranspose",
        (draw(st.integers(1, 2)), inputs, *data),
        (inputs, draw(st.integers(1, 20)), *kernel),
        group=groups,
        strides=strides,
        dilations=dilations,
        pads=[*before, *after],
        output_padding=more,
    )


@settings(max_examples=16, deadline=None, derandomize=True)
@given(transposed(rank=2))
def test_any_transposed_convolution(model: ModelProto) -> None:
    assert_lowers_right(model)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(transposed(rank=1))
def test_any_transposed_convolution_of_sequences(model: ModelProto) -> None:
    assert_lowers_right(model)


@settings(max_examples=14, deadline=None, derandomize=True)
@given(
    st.sampled_from([1, 1, 2]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(10, 50),
)
def test_any_convolution_of_sequences(
    groups: int, stride: int, dilation: int, kernel: int, padding: int, length: int
) -> None:
    model = convolution(
        "Conv",
        (2, 6 * groups, length),
        (5 * groups, 6, kernel),
        group=groups,
        strides=[stride],
        dilations=[dilation],
        pads=[padding, 1],
    )
    assert_lowers_right(model)


@pytest.mark.parametrize(
    "model",
    [
        convolution("ConvTranspose", (1, 4, 6, 6), (4, 8, 4, 4), strides=[2, 2], pads=[1] * 4),
        convolution("ConvTranspose", (1, 4, 6), (4, 8, 4), strides=[2]),
        convolution("Conv", (1, 4, 20), (8, 4, 3)),
    ],
)
def test_packed_weights_take_them(model: ModelProto) -> None:
    """The rule of dense convolutions, whose weights are (blocks, height, width, inputs, block)."""
    mod = lowered(model)
    (name,) = {var.name_hint for var, _ in mod.functions_items() if "conv2d" in var.name_hint}
    assert any(len(param.shape) == 5 for param in mod[name].params)


def test_weights_that_are_inputs_go_the_general_way() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    assert_lowers_right(model_of([node], {"x": (1, 3, 5, 4), "w": (3, 2, 3, 3)}))


def test_a_sequence_is_an_image_of_one_row() -> None:
    weight = random(4, 3, 5)
    kernel, image_kernel = R.const(weight), R.const(weight[:, :, None])

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3, 20), "float32")):
            with R.dataflow():
                y = R.nn.conv1d(x, kernel, strides=2, padding=[1, 2])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 3, 20), "float32")):
            with R.dataflow():
                image = R.expand_dims(x, [2])
                a = R.nn.conv2d(image, image_kernel, strides=[1, 2], padding=[0, 1, 0, 2])
                y = R.squeeze(a, [2])
                R.output(y)
            return y

    assert_becomes(OrdinaryConvolutions(), Before, Expected)


def test_phases_of_a_transposed_convolution_are_channels() -> None:
    """Steps of 2 in both dimensions make 4 phases for each of 3 channels of 5 x 6 outputs."""
    weight = random(2, 3, 2, 2)
    kernel = R.const(weight)
    phases = R.const(phase_weights(weight, strides=(2, 2), dilation=(1, 1), groups=1))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 2, 5, 6), "float32")):
            with R.dataflow():
                y = R.nn.conv2d_transpose(x, kernel, strides=[2, 2])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 2, 5, 6), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, phases)
                b = R.reshape(a, (1, 1, 2, 2, 3, 5, 6))
                c = R.permute_dims(b, [0, 1, 4, 5, 2, 6, 3])
                d = R.reshape(c, (1, 3, 10, 12))
                y = R.strided_slice(d, [2, 3], [0, 0], [10, 12])
                R.output(y)
            return y

    assert_becomes(OrdinaryConvolutions(), Before, Expected)


def test_computed_weights_stay() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3, 20), "float32"), w: R.Tensor((4, 3, 5), "float32")):
            with R.dataflow():
                y = R.nn.conv1d(x, w)
                R.output(y)
            return y

    assert_becomes(OrdinaryConvolutions(), Before, Before)
