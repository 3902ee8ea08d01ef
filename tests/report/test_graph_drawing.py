"""Graphs of operators, whole and in blocks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from drawn_networks import manifest_of
from test_timeline import MANIFEST
from test_timeline_drawing import boxes, texts

from hios_tvm.report.blocks import Block, fold
from hios_tvm.report.graph_drawing import draw_blocks, draw_graph
from hios_tvm.report.svg import to_svg
from hios_tvm.report.timeline import OperatorView


def test_a_graph_has_every_operator_with_its_time() -> None:
    found = texts(to_svg(draw_graph(OperatorView(MANIFEST), {"a": 1.25})))
    assert {"1 a", "1.25 ms", "2 c", "3 b", "cpu@0", "cpu@1"} <= set(found)


def test_colours_are_those_of_types_where_one_device_has_all() -> None:
    view = OperatorView(manifest_of("squeezenet1_1", "sequential"))
    found = texts(to_svg(draw_graph(view, {})))
    assert {"convolution", "pooling", "data movement"} <= set(found)
    assert not any(text.startswith("cpu@") for text in found)


def cells(count: int, size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return a graph of cells: all operators of one read its first, and its last reads them."""
    names = [[f"{cell}.{i}" for i in range(size)] for cell in range(count)]
    edges = [(cell[0], name) for cell in names for name in cell[1:-1]]
    edges += [(name, cell[-1]) for cell in names for name in cell[1:-1]]
    edges += [(first[-1], second[0]) for first, second in pairwise(names)]
    return [name for cell in names for name in cell], edges


@pytest.mark.parametrize("size", [24, 30, 36])
def test_blocks_are_the_cells_of_a_network(size: int) -> None:
    blocks = fold(*cells(8, size))
    assert [block.number for block in blocks] == list(range(1, 9))
    for i, block in enumerate(blocks):
        assert {name.split(".")[0] for name in block.operators} == {str(i)}


@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_blocks_hold_every_operator_once_in_order(count: int) -> None:
    names = [f"op{i}" for i in range(count)]
    blocks = fold(names, list(pairwise(names)))
    assert [name for block in blocks for name in block.operators] == names
    assert all(isinstance(block, Block) and block.operators for block in blocks)


def test_a_large_graph_is_drawn_in_blocks() -> None:
    """An overview whose boxes are links, and every operator once."""
    view = OperatorView(manifest_of("densenet121", "sequential"))
    overview, blocks = draw_blocks(view, {})
    links = [link.get("href") for link in overview.iter("a")]
    assert links == [f"#block-{block.number}" for block, _, _ in blocks]
    assert sum(len(boxes(to_svg(picture))) for _, _, picture in blocks) == len(view.nodes)
    assert len(boxes(to_svg(draw_graph(view, {})))) == len(view.nodes)
