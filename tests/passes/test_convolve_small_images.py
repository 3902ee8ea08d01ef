"""Convolutions of single pixels read images before they are enlarged."""

from __future__ import annotations

from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from numpy import array
from onnx import ModelProto, NodeProto, helper

node = helper.make_node

SIZES = {"half": array([1, 1, 2, 2], "float32"), "quarter": array([1, 1, 4, 4], "float32")}

IMAGES = [
    node("Conv", ["x", "u"], ["large"]),
    node("MaxPool", ["large"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
    node("MaxPool", ["large"], ["tiny"], kernel_shape=[4, 4], strides=[4, 4]),
]


def head(nodes: list[NodeProto], channels: int, **attributes: object) -> ModelProto:
    """A convolution of `channels` of ``i``, of single pixels unless `attributes` say otherwise."""
    tail = [node("Conv", ["i", "w", "b"], ["c"], **attributes), node("Relu", ["c"], ["y"])]
    weights = {
        "u": random(96, 3, 1, 1),
        "w": random(24, channels, *attributes.get("kernel_shape", (1, 1))),
        "b": random(24),
        **SIZES,
    }
    return model_of([*IMAGES, *nodes, *tail], {"x": (1, 3, 8, 12)}, weights)


def enlarged(source: str, size: str, result: str, **attributes: str) -> NodeProto:
    return node("Resize", [source, "", size], [result], **attributes)


def image_sizes(model: ModelProto) -> list[tuple[int, ...]]:
    """Heights and widths of what the convolutions of the lowered model read, first to last."""
    mod = lowered(model)
    names = [name for name in kernels(mod) if "conv2d" in name]
    sizes = [[tuple(map(int, p.shape)) for p in mod[name].params] for name in names]
    return [next(s[1:3] for s in shapes if len(s) == 4) for shapes in sizes][1:]


def test_an_enlarged_image() -> None:
    assert image_sizes(head([enlarged("small", "half", "i", mode="nearest")], 96)) == [(4, 6)]


def test_concatenated_images_of_several_sizes() -> None:
    nodes = [
        enlarged("tiny", "quarter", "t", mode="nearest"),
        enlarged("small", "half", "s", mode="linear"),
        node("Concat", ["t", "large", "s"], ["i"], axis=1),
    ]
    model = head(nodes, 288)
    assert sorted(image_sizes(model)) == [(2, 3), (4, 6), (8, 12)]
    assert_lowers_right(model)


def test_few_enlarged_channels_are_not_worth_several_convolutions() -> None:
    nodes = [
        enlarged("small", "half", "s", mode="linear"),
        node("Concat", ["large", "s"], ["i"], axis=1),
    ]
    assert image_sizes(head(nodes, 192)) == [(8, 12)]


def test_windows_and_images_with_other_readers_stay() -> None:
    nodes = [enlarged("small", "half", "i", mode="linear")]
    assert image_sizes(head(nodes, 96, kernel_shape=[3, 3], pads=[1, 1, 1, 1])) == [(8, 12)]
    nodes = [enlarged("small", "half", "s", mode="linear"), node("Add", ["s", "large"], ["i"])]
    assert image_sizes(head(nodes, 96)) == [(8, 12)]
