"""Operator graphs as SVG, from top to bottom; large ones in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from hios_tvm.report.blocks import LARGE, Block, fold
from hios_tvm.report.layout import Layout, Point, layered_layout
from hios_tvm.report.operator_types import OPERATOR_TYPES
from hios_tvm.report.rows import units_of
from hios_tvm.report.svg import FILLS, LETTER, LONGEST_LABEL, add, drawing, shortened
from hios_tvm.report.timeline import Node, OperatorView
from hios_tvm.report.words import milliseconds

_STEP_X, _STEP_Y = 176, 60  # pixels from box to box
_BOX_WIDTH, _BOX_HEIGHT = 164, 36
_MARGIN = 16
_HEAD = 30  # pixels of a legend or a heading
_LETTERS = int((_BOX_WIDTH - 8) / LETTER)
_SHELF = 1700  # pixels after which blocks continue below


@dataclass(frozen=True)
class _Box:
    """What is drawn for an operator, or (without `colour`) for a block.

    `bar` is its time as parts of the longest time, of an operator one part, of a block one for each
    colour in it.
    """

    lines: tuple[str, ...]
    facts: tuple[str, ...] = ()
    colour: int | None = None
    bar: tuple[tuple[int | None, float], ...] = ()
    link: str | None = None


@dataclass(frozen=True)
class _Part:
    """A graph that is drawn as one: boxes by name, edges with whether they cross devices."""

    title: str
    boxes: Mapping[str, _Box]
    edges: Mapping[tuple[str, str], bool]


def draw_graph(view: OperatorView, times_ms: Mapping[str, float]) -> Element:
    """Draw the operator graph; if it is large, an overview of its blocks and each block.

    Operators have the colour of their device, or of their type where one device has all. Edges
    between devices are dashed. The bar in a box is its time, relative to the longest.
    """
    graph = _Graph(view, times_ms)
    if len(view.nodes) <= LARGE:
        parts = [graph.whole()]
    else:
        blocks = fold(view.in_order, graph.pairs)
        parts = [graph.overview(blocks), *(graph.block(block, blocks) for block in blocks)]
    return _draw(parts, graph.legend, f"Operator graph of {view.manifest.model}")


def draw_blocks(
    view: OperatorView, times_ms: Mapping[str, float]
) -> tuple[Element, list[tuple[Block, str, Element]]]:
    """Draw a large graph for a page: the overview, and blocks with what they are called.

    The boxes of the overview are links to ``#block-1``, ``#block-2``, ...
    """
    graph = _Graph(view, times_ms)
    blocks = fold(view.in_order, graph.pairs)
    overview = graph.overview(blocks, linked=True)
    pictures = []
    for block in blocks:
        part = graph.block(block, blocks)
        pictures.append((block, part.title, _draw([part], graph.legend, part.title, titled=False)))
    return _draw([overview], graph.legend, "Blocks of the graph", titled=False), pictures


class _Graph:
    """What the drawings of one graph share: times, colours and edges."""

    def __init__(self, view: OperatorView, times_ms: Mapping[str, float]) -> None:
        self.view = view
        self.times_ms = times_ms
        self.longest_ms = max(times_ms.values(), default=0.0) or 1.0
        self.pairs = [(edge.src, edge.dst) for edge in view.edges]
        self.units = units_of(device.name for device in view.manifest.devices)
        busy = {device for device, _ in view.stream.values()}
        self.devices = [d.name for d in view.manifest.devices if d.name in busy]

    @property
    def legend(self) -> list[tuple[str, int]]:
        """What colours mean."""
        if len(self.devices) > 1:
            names = [shortened(name, LONGEST_LABEL) for name in self.devices]
            return [(name, i % len(FILLS)) for i, name in enumerate(names)]
        used = {node.type for node in self.view.nodes.values()}
        return [(name, i) for i, name in enumerate(OPERATOR_TYPES) if name in used]

    def whole(self) -> _Part:
        boxes = {name: self._box(self.view.nodes[name]) for name in self.view.in_order}
        return _Part("", boxes, {pair: self._crosses(*pair) for pair in self.pairs})

    def overview(self, blocks: Sequence[Block], *, linked: bool = False) -> _Part:
        block_of = _block_of(blocks)
        total = {b.number: sum(self.times_ms.get(n, 0.0) for n in b.operators) for b in blocks}
        longest, whole = max(total.values()) or 1.0, sum(total.values()) or 1.0
        boxes = {}
        for block in blocks:
            ms = total[block.number]
            lines = (
                f"{block.name}: {len(block.operators)} operators",
                f"{milliseconds(ms)}, {ms / whole:.0%}" if ms else "",
            )
            link = f"#block-{block.number}" if linked else None
            first, last = block.operators[0], block.operators[-1]
            facts = f"from {first}", f"to {last}", *self.view.nodes[last].facts[-1:]
            boxes[block.name] = _Box(lines, facts, None, self._bar(block, longest), link)
        edges = {
            (block_of[src].name, block_of[dst].name): False
            for src, dst in self.pairs
            if block_of[src] != block_of[dst]
        }
        return _Part("Blocks", boxes, edges)

    def block(self, block: Block, blocks: Sequence[Block]) -> _Part:
        """Return one block, with the blocks that it reads from and hands over to."""
        block_of = _block_of(blocks)
        own = set(block.operators)
        boxes: dict[str, _Box] = {}
        edges: dict[tuple[str, str], bool] = {}
        behind: dict[str, _Box] = {}
        for src, dst in self.pairs:
            if src in own and dst in own:
                edges[src, dst] = self._crosses(src, dst)
            elif dst in own:
                name = f"from {block_of[src].name}"
                boxes[name] = _Box((name, shortened(src, _LETTERS)), (src,))
                edges[name, dst] = self._crosses(src, dst)
            elif src in own:
                name = f"to {block_of[dst].name}"
                behind[name] = _Box((name,))
                edges[src, name] = self._crosses(src, dst)
        boxes |= {name: self._box(self.view.nodes[name]) for name in block.operators} | behind
        ms = sum(self.times_ms.get(name, 0.0) for name in block.operators)
        time = f", {milliseconds(ms)}" if ms else ""
        title = f"{block.name}: {len(block.operators)} operators{time}"
        return _Part(title.capitalize(), boxes, edges)

    def _box(self, node: Node) -> _Box:
        device, stream = self.view.stream[node.name]
        ms = self.times_ms.get(node.name)
        time = "" if ms is None else milliseconds(ms)
        number = str(node.number)
        lines = f"{number} {shortened(node.name, _LETTERS - len(number) - 1)}", time
        where = f"{device}, stream {stream}" if stream else device
        facts = f"{node.number} {node.name}: {node.type}", f"{where}: {time}", *node.facts
        return _Box(lines, facts, self._colour(node), ((None, (ms or 0.0) / self.longest_ms),))

    def _colour(self, node: Node) -> int:
        if len(self.devices) > 1:
            return self.devices.index(self.view.stream[node.name][0]) % len(FILLS)
        return OPERATOR_TYPES.index(node.type)

    def _bar(self, block: Block, longest_ms: float) -> tuple[tuple[int | None, float], ...]:
        """Return the time of a block by colour."""
        spent: dict[int, float] = {}
        for name in block.operators:
            colour = self._colour(self.view.nodes[name])
            spent[colour] = spent.get(colour, 0.0) + self.times_ms.get(name, 0.0)
        return tuple((colour, spent[colour] / longest_ms) for colour in sorted(spent))

    def _crosses(self, src: str, dst: str) -> bool:
        """Whether the two run on different devices that share no core."""
        one, other = (self.units[self.view.stream[name][0]] for name in (src, dst))
        return not set(one) & set(other)


def _block_of(blocks: Sequence[Block]) -> dict[str, Block]:
    return {name: block for block in blocks for name in block.operators}


def _draw(
    parts: Sequence[_Part], legend: Sequence[tuple[str, int]], name: str, *, titled: bool = True
) -> Element:
    """Draw graphs beside each other as far as there is room, the legend above."""
    layouts = [layered_layout(list(part.boxes), part.edges) for part in parts]
    places: list[Point] = []
    x, y, shelf, right = float(_MARGIN), float(_HEAD), 0.0, _MARGIN + _legend_width(legend)
    head = _HEAD if titled and len(parts) > 1 else 0
    for layout in layouts:
        width, height = _size(layout)
        if x > _MARGIN and x + width > _SHELF:
            x, y, shelf = _MARGIN, y + shelf, 0.0
        places.append((x, y + head))
        x, shelf = x + width + 2 * _MARGIN, max(shelf, height + head + _MARGIN)
        right = max(right, x - 2 * _MARGIN)
    root = drawing(right + _MARGIN, y + shelf + _MARGIN, name)
    _draw_legend(root, legend)
    for part, layout, (left, top) in zip(parts, layouts, places, strict=True):
        group = add(root, "g", transform=f"translate({left:g} {top:g})")
        if head:
            add(group, "text", part.title, class_="title", x=0, y=-8)
        _draw_part(group, part, layout)
    return root


def _size(layout: Layout) -> Point:
    return layout.width * _STEP_X + _BOX_WIDTH, layout.height * _STEP_Y


def _legend_width(legend: Sequence[tuple[str, int]]) -> float:
    return sum(24 + LETTER * len(name) + 12 for name, _ in legend)


def _draw_legend(root: Element, legend: Sequence[tuple[str, int]]) -> None:
    x = float(_MARGIN)
    for name, colour in legend:
        group = add(root, "g", class_=f"c{colour}")
        add(group, "rect", x=x, y=10, width=11, height=11, rx=2)
        add(root, "text", name, class_="mono", x=x + 16, y=19.5)
        x += 24 + LETTER * len(name) + 12


def _draw_part(group: Element, part: _Part, layout: Layout) -> None:
    for points, crosses in _segments(part, layout).items():
        (x0, y0), *bends = points
        path = f"M{x0:.1f} {y0:.1f}C" + " ".join(f"{x:.1f} {y:.1f}" for x, y in bends)
        add(group, "path", class_="edge crossing" if crosses else "edge", d=path)
    boxes = add(group, "g", role="list", aria_label=part.title or "Operators")
    for name, box in part.boxes.items():
        _draw_box(boxes, box, *_place(layout.position[name]))


def _draw_box(parent: Element, box: _Box, x: float, y: float) -> None:
    """Draw a box around (x, y)."""
    if box.link is not None:
        parent = add(parent, "a", href=box.link)
    colour = "neighbour" if box.colour is None else f"box c{box.colour}"
    group = add(parent, "g", class_=colour, role="listitem")
    add(group, "title", "\n".join(box.facts or box.lines))
    left, top = x - _BOX_WIDTH / 2, y - _BOX_HEIGHT / 2
    add(group, "rect", x=left, y=top, width=_BOX_WIDTH, height=_BOX_HEIGHT, rx=5)
    bar_left, bottom = left + 5, top + _BOX_HEIGHT - 5
    for bar_colour, share in box.bar:
        width = share * (_BOX_WIDTH - 10)
        own = add(group, "g", class_="own" if bar_colour is None else f"c{bar_colour}")
        add(own, "rect", x=bar_left, y=bottom, width=width, height=3)
        bar_left += width
    lines = [line for line in box.lines if line]
    for i, line in enumerate(lines):
        baseline = top + (13 if len(lines) > 1 else 21) + 13 * i
        add(group, "text", line, class_="mono middle", x=x, y=baseline)


def _place(point: Point) -> Point:
    """Return the middle of a box in pixels."""
    return point[0] * _STEP_X + _BOX_WIDTH / 2, point[1] * _STEP_Y + _BOX_HEIGHT / 2


def _segments(part: _Part, layout: Layout) -> dict[tuple[Point, ...], bool]:
    """Return what edges consist of, each curve once.

    They are Bezier curves between rows of boxes and straight lines beside boxes. True for those all
    of whose edges cross devices.
    """
    crosses: dict[tuple[Point, ...], bool] = {}
    half = _BOX_HEIGHT / 2
    for (src, dst), between in part.edges.items():
        route = [_place(point) for point in layout.route[src, dst]]
        ends = [point for x, y in route for point in ((x, y - half), (x, y + half))]
        for (x0, y0), (x1, y1) in pairwise(ends[1:-1]):
            middle = (y0 + y1) / 2
            points = (x0, y0), (x0, middle), (x1, middle), (x1, y1)
            crosses[points] = crosses.get(points, True) and between
    return crosses
