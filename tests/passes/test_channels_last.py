from __future__ import annotations

from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import NodeProto, helper
from structure import assert_becomes
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.passes.channels_last import ChannelsLast


def make(operator: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def transpositions(names: list[str]) -> int:
    return sum("transpose" in name for name in names)


def test_only_the_borders_transpose() -> None:
    nodes = [
        make("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        make("Relu", "a", "b"),
        make("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[2, 2]),
        make("Conv", "c v", "d"),
        make("Sigmoid", "d", "e"),
        make("Mul", "e c", "f"),
        make("AveragePool", "f", "g", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        make("Concat", "f g c", "h", axis=1),
        make("Pad", "h p", "i"),
        make("Slice", "i starts ends axes", "j"),
        make("Clip", "j", "k"),
        make("Softmax", "k", "y", axis=1),
    ]
    weights = {
        "w": random(6, 5, 3, 3),
        "v": random(6, 6, 1, 1, seed=1),
    }
    model = model_of(nodes, {"x": (2, 5, 12, 14)}, weights)
    for name, values in {
        "p": [0, 0, 1, 0, 0, 0, 2, 1],
        "starts": [1, 1],
        "ends": [8, 7],
        "axes": [2, 3],
    }.items():
        model.graph.initializer.append(helper.make_tensor(name, 7, [len(values)], values))
    assert transpositions(kernels(lowered(model))) == 2
    assert_lowers_right(model)


def test_images_of_one_pixel_flatten_as_they_are() -> None:
    nodes = [
        make("Conv", "x w", "a"),
        make("GlobalAveragePool", "a", "b"),
        make("Flatten", "b", "c"),
        make("Gemm", "c v", "y", transB=1),
    ]
    weights = {"w": random(20, 3, 1, 1), "v": random(10, 20, seed=1)}
    model = model_of(nodes, {"x": (2, 3, 6, 5)}, weights)
    assert transpositions(kernels(lowered(model))) == 1
    assert_lowers_right(model)


def test_reductions_over_parts_of_images() -> None:
    nodes = [
        make("Conv", "x w", "a"),
        make("ReduceMean", "a", "b", axes=[1], keepdims=1),
        make("ReduceMax", "a", "c", axes=[2], keepdims=1),
        make("Add", "b c", "d"),
        make("ReduceMean", "d", "e", axes=[2, 3], keepdims=0),
        make("ReduceMean", "a", "f", axes=[3], keepdims=0),
        make("ReduceMean", "f", "g", axes=[2], keepdims=0),
        make("Add", "e g", "y"),
    ]
    assert_lowers_right(model_of(nodes, {"x": (2, 3, 6, 5)}, {"w": random(20, 3, 1, 1)}))


def test_operators_that_know_no_layout_see_channels_first() -> None:
    nodes = [
        make("Conv", "x w", "a"),
        make("Reshape", "a s", "b"),
        make("Transpose", "b", "c", perm=[0, 2, 1, 3, 4]),
        make("Reshape", "c t", "d"),
        make("Conv", "d v", "e"),
        make("Transpose", "e", "y", perm=[0, 2, 3, 1]),
    ]
    weights = {"w": random(8, 3, 1, 1), "v": random(4, 8, 1, 1)}
    model = model_of(nodes, {"x": (1, 3, 6, 5)}, weights)
    for name, values in {"s": [1, 2, 4, 6, 5], "t": [1, 8, 6, 5]}.items():
        model.graph.initializer.append(helper.make_tensor(name, 7, [len(values)], values))
    assert_lowers_right(model)


def test_constants_and_vectors_broadcast_as_before() -> None:
    nodes = [
        make("Conv", "x w", "a"),
        make("Add", "a row", "b"),
        make("Mul", "column b", "c"),
        make("Max", "c scalar", "d"),
        make("Sub", "d z", "y"),
    ]
    weights = {
        "w": random(7, 3, 1, 1),
        "row": random(5),
        "column": random(7, 6, 1),
        "scalar": random(1),
    }
    assert_lowers_right(model_of(nodes, {"x": (2, 3, 6, 5), "z": (7, 1, 1)}, weights))


def test_neighbouring_images_are_transposed_once_each_way() -> None:
    weight = R.const(random(2, 3, 1, 1))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 5), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, weight)
                b = R.nn.relu(a)
                y = R.nn.max_pool2d(b, pool_size=[2, 2])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 5), "float32")):
            with R.dataflow():
                last = R.permute_dims(x, [0, 2, 3, 1])
                a = R.nn.conv2d(last, weight, data_layout="NHWC", out_layout="NHWC")
                b = R.nn.relu(a)
                c = R.nn.max_pool2d(b, pool_size=[2, 2], layout="NHWC", out_layout="NHWC")
                y = R.permute_dims(c, [0, 3, 1, 2])
                R.output(y)
            return y

    assert_becomes(ChannelsLast(), Before, Expected)


def test_constants_move_to_the_last_axis() -> None:
    weight, bias = R.const(random(2, 3, 1, 1)), random(2, 1, 1)
    first, last = R.const(bias), R.const(bias.reshape(1, 1, 1, 2))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 5), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, weight)
                y = R.add(a, first)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 5), "float32")):
            with R.dataflow():
                moved = R.permute_dims(x, [0, 2, 3, 1])
                a = R.nn.conv2d(moved, weight, data_layout="NHWC", out_layout="NHWC")
                b = R.add(a, last)
                y = R.permute_dims(b, [0, 3, 1, 2])
                R.output(y)
            return y

    assert_becomes(ChannelsLast(), Before, Expected)


def test_a_mean_over_an_image_is_a_pooling() -> None:
    weight = R.const(random(2, 3, 1, 1))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 5), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, weight)
                y = R.mean(a, axis=[2, 3])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 5), "float32")):
            with R.dataflow():
                last = R.permute_dims(x, [0, 2, 3, 1])
                a = R.nn.conv2d(last, weight, data_layout="NHWC", out_layout="NHWC")
                b = R.nn.avg_pool2d(a, pool_size=[4, 5], layout="NHWC", out_layout="NHWC")
                y = R.squeeze(b, [1, 2])
                R.output(y)
            return y

    assert_becomes(ChannelsLast(), Before, Expected)


def test_element_wise_operators_alone_stay() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 5), "float32")):
            with R.dataflow():
                a = R.nn.relu(x)
                y = R.nn.softmax(a, axis=1)
                R.output(y)
            return y

    assert_becomes(ChannelsLast(), Before, Before)
