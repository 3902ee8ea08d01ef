from __future__ import annotations

from collections.abc import Callable

from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import NodeProto, helper
from structure import assert_becomes, module_of
from tvm.relax import Expr, Var, const
from tvm.relax.op import add, mean, permute_dims, squeeze
from tvm.relax.op.nn import avg_pool2d, conv2d, max_pool2d, relu, softmax

from hios_tvm.passes.channels_last import ChannelsLast

LAST = {"data_layout": "NHWC", "out_layout": "NHWC"}
POOL_LAST = {"layout": "NHWC", "out_layout": "NHWC"}


def make(operator: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def transpositions(names: list[str]) -> int:
    return sum("transpose" in name for name in names)


def assert_becomes_last(before: Callable[[Var], Expr], expected: Callable[[Var], Expr]) -> None:
    shape = (1, 3, 4, 5)
    assert_becomes(ChannelsLast(), module_of(before, shape), module_of(expected, shape))


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
    weight = const(random(2, 3, 1, 1))

    def expected(x: Var) -> Expr:
        last = relu(conv2d(permute_dims(x, [0, 2, 3, 1]), weight, **LAST))
        return permute_dims(max_pool2d(last, [2, 2], **POOL_LAST), [0, 3, 1, 2])

    assert_becomes_last(lambda x: max_pool2d(relu(conv2d(x, weight)), [2, 2]), expected)


def test_constants_move_to_the_last_axis() -> None:
    weight, bias = const(random(2, 3, 1, 1)), random(2, 1, 1)

    def expected(x: Var) -> Expr:
        last = conv2d(permute_dims(x, [0, 2, 3, 1]), weight, **LAST)
        return permute_dims(add(last, const(bias.reshape(1, 1, 1, 2))), [0, 3, 1, 2])

    assert_becomes_last(lambda x: add(conv2d(x, weight), const(bias)), expected)


def test_a_mean_over_an_image_is_a_pooling() -> None:
    weight = const(random(2, 3, 1, 1))

    def expected(x: Var) -> Expr:
        last = conv2d(permute_dims(x, [0, 2, 3, 1]), weight, **LAST)
        return squeeze(avg_pool2d(last, [4, 5], **POOL_LAST), [1, 2])

    assert_becomes_last(lambda x: mean(conv2d(x, weight), [2, 3]), expected)


def test_element_wise_operators_alone_stay() -> None:
    def before(x: Var) -> Expr:
        return softmax(relu(x), axis=1)

    assert_becomes_last(before, before)
