from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import ModelProto, helper
from structure import assert_becomes
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.passes.slice_volumes import SliceVolumes


@st.composite
def convolutions(draw: st.DrawFn) -> ModelProto:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    strides = [draw(st.integers(1, 3)) for _ in range(3)]
    dilations = [draw(st.integers(1, 2)) for _ in range(3)]
    kernel = [draw(st.integers(1, 3)) for _ in range(3)]
    pads = [draw(st.integers(0, 2)) for _ in range(6)]
    size = [draw(st.integers(1, 6)) + (k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    inputs, outputs = (groups * draw(st.integers(1, 5)) for _ in range(2))
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["c"],
            strides=strides, dilations=dilations, pads=pads, group=groups,
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["d"], pads=[1, 0, 0, 0, 0, 0]),
        helper.make_node("Sigmoid", ["d"], ["y"]),
    ]  # fmt: skip
    weights = {
        "w": random(outputs, inputs // groups, *kernel, seed=1),
        "b": random(outputs, seed=2),
        "v": random(4, outputs, 2, 1, 1, seed=3),
    }
    return model_of(nodes, {"x": (draw(st.integers(1, 2)), inputs, *size)}, weights)


@settings(max_examples=13, deadline=None, derandomize=True)
@given(convolutions())
def test_any_convolution_of_volumes(model: ModelProto) -> None:
    assert_lowers_right(model)


def test_a_residual_block_is_two_copies_and_two_convolutions() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 6),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["b"], pads=[1] * 6),
        helper.make_node("Add", ["b", "a"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    weights = {"w": random(8, 8, 3, 3, 3), "v": random(8, 8, 3, 3, 3, seed=1)}
    names = kernels(lowered(model_of(nodes, {"x": (1, 8, 4, 6, 6)}, weights)))
    assert sum("conv2d" in name for name in names) == 2
    assert len(names) == 5  # the copies of slices, and the output's transposition


def test_weights_that_are_inputs_go_the_general_way() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    assert_lowers_right(model_of([node], {"x": (1, 3, 4, 5, 4), "w": (2, 3, 2, 3, 3)}))


def test_channels_of_neighbouring_slices_lie_side_by_side() -> None:
    weight = random(4, 3, 2, 3, 3)
    kernel = R.const(weight)
    image_kernel = R.const(weight.transpose(0, 2, 1, 3, 4).reshape(4, 6, 3, 3).copy())

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 5, 8, 8), "float32")):
            with R.dataflow():
                a = R.nn.conv3d(x, kernel, padding=[1, 1, 1, 0, 1, 1])
                y = R.nn.relu(a)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 5, 8, 8), "float32")):
            with R.dataflow():
                a = R.permute_dims(x, [0, 2, 1, 3, 4])
                images = R.reshape(a, (5, 3, 8, 8))
                padded = R.nn.pad(images, [1, 0, 0, 0, 0, 0, 0, 0])
                first = R.strided_slice(padded, [0], [0], [5], [1])
                second = R.strided_slice(padded, [0], [1], [6], [1])
                both = R.concat((first, second), axis=1)
                b = R.nn.conv2d(both, image_kernel, padding=[1, 1, 1, 1])
                c = R.nn.relu(b)
                d = R.reshape(c, (1, 5, 4, 8, 8))
                y = R.permute_dims(d, [0, 2, 1, 3, 4])
                R.output(y)
            return y

    assert_becomes(SliceVolumes(), Before, Expected)
