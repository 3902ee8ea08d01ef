from __future__ import annotations

import pytest
from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import ModelProto, helper
from tvm.ir import Call

from hios_tvm.passes.cpu_rules.loop_nest import allocate, emitted, serial
from hios_tvm.passes.cpu_rules.weight_stream import WeightStream
from hios_tvm.passes.tir_trees import nodes_of


def convolution(size: int, channels: int, kernel: int) -> ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[kernel // 2] * 4)]
    weights = {"w": random(channels, channels, kernel, kernel)}
    return model_of(nodes, {"x": (1, channels, size, size)}, weights)


def prefetches_of(model: ModelProto) -> int:
    mod = lowered(model)
    (name,) = {name for name in kernels(mod) if "conv2d" in name}
    return str(mod[name].script()).count("T.address_of(B[")


@pytest.mark.parametrize("kernel", [1, 3])
def test_weights_of_a_small_image_are_fetched_ahead(kernel: int) -> None:
    model = convolution(7, 128, kernel)
    assert prefetches_of(model) > 0
    assert_lowers_right(model, tolerance=2e-5)


def test_weights_of_one_block_or_for_many_tiles_are_not() -> None:
    assert prefetches_of(convolution(7, 16, 1)) == 0
    assert prefetches_of(convolution(64, 128, 1)) == 0


@pytest.mark.parametrize(("columns", "tiles"), [(48, 1), (48, 2), (48, 3), (16, 5), (8, 4)])
def test_the_tiles_of_a_part_fetch_every_line_of_the_next_one(columns: int, tiles: int) -> None:
    """With three lines in a row, the first of two tiles fetches two and the second one the rest."""
    fetched = set()
    for tile in range(tiles):

        def write(tile: int = tile) -> None:
            stream = WeightStream(allocate("weight", 2, 10, columns), parts=2, tiles=tiles)
            for row in serial("row", 10):
                stream.prefetch([1, row], tile)

        for call in nodes_of(emitted(write), Call):
            if str(call.op.name) == "tirx.address_of":
                fetched.add(int(call.args[0].indices[-1]))
    assert fetched == set(range(0, columns, 16))
