"""Where to draw the operators of a graph: in layers from top to bottom, with few crossings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

_SWEEPS = 6
_BEND = 0.2  # width of an edge that passes boxes by
Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Position of each node and path of each edge; x in widths of a node, y the layer's number."""

    position: Mapping[str, Point]
    route: Mapping[tuple[str, str], tuple[Point, ...]]
    width: float
    height: int


def layered_layout(nodes: Sequence[str], edges: Iterable[tuple[str, str]]) -> Layout:
    """Lay out a DAG by the method of Sugiyama, Tagawa and Toda.

    Each node is one layer below its lowest producer; edges over several layers bend around what
    lies between; layers are ordered by the mean place of neighbours, and pulled straight.

    Parameters
    ----------
    nodes
        Names in topological order.
    edges
        Pairs of them, a producer and its consumer.
    """
    edges = list(dict.fromkeys(edges))
    depth = _depths(nodes, edges)
    layers: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=0))]
    for name in nodes:
        layers[depth[name]].append(name)
    links: dict[tuple[str, str], None] = {}  # between neighbouring layers
    chains: dict[tuple[str, str], list[str]] = {}
    bends: dict[str, None] = {}
    for src, dst in edges:
        chain = [src]
        for layer in range(depth[src] + 1, depth[dst]):
            bend = f"{src}\0{layer}"  # edges of one producer go together as far as they can
            if bend not in bends:
                layers[layer].append(bend)
                bends[bend] = None
            chain.append(bend)
        chain.append(dst)
        chains[src, dst] = chain
        links |= dict.fromkeys(pairwise(chain))
    above: dict[str, list[str]] = {name: [] for layer in layers for name in layer}
    below: dict[str, list[str]] = {name: [] for layer in layers for name in layer}
    for src, dst in links:
        below[src].append(dst)
        above[dst].append(src)
    x = _columns(layers, above, below, bends)
    y = {name: i for i, layer in enumerate(layers) for name in layer}
    left = min(x.values(), default=0.0)
    return Layout(
        position={name: (x[name] - left, y[name]) for name in nodes},
        route={
            edge: tuple((x[name] - left, y[name]) for name in chain)
            for edge, chain in chains.items()
        },
        width=max(x.values(), default=0.0) - left,
        height=len(layers),
    )


def _depths(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the layer of each node; what needs nothing comes right above its first consumer."""
    producers: dict[str, list[str]] = {name: [] for name in nodes}
    consumers: dict[str, list[str]] = {name: [] for name in nodes}
    for src, dst in edges:
        producers[dst].append(src)
        consumers[src].append(dst)
    depth: dict[str, int] = {}
    for name in nodes:
        depth[name] = 1 + max((depth[src] for src in producers[name]), default=-1)
    for name in nodes:
        if not producers[name] and consumers[name]:
            depth[name] = min(depth[dst] for dst in consumers[name]) - 1
    return depth


def _columns(
    layers: list[list[str]],
    above: Mapping[str, list[str]],
    below: Mapping[str, list[str]],
    bends: Mapping[str, None],
) -> dict[str, float]:
    """Order the layers in place, and return the x of everything in them."""
    chain = _chains(layers, above, below)
    boxes = {id(members) for name, members in chain.items() if name not in bends}
    # All members of a column get the width of the widest, so that the column stays straight.
    width = {name: 1.0 if id(members) in boxes else _BEND for name, members in chain.items()}
    ends = {name: above[members[0]] + below[members[-1]] for name, members in chain.items()}
    x = {name: float(i) for layer in layers for i, name in enumerate(layer)}

    def settle(layer: list[str], wanted: Mapping[str, float]) -> None:
        places = _spread([wanted[name] for name in layer], [width[name] for name in layer])
        x.update(zip(layer, places, strict=True))

    def mean(name: str, others: Sequence[str]) -> float:
        """Return the mean place of `others`; boxes count more, so that they stand in columns."""
        weights = [_BEND if other in bends else 1.0 for other in others]
        total = sum(weight * x[other] for weight, other in zip(weights, others, strict=True))
        return total / sum(weights) if others else x[name]

    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        for layer in layers if down else reversed(layers):
            wanted = {name: mean(name, neighbours[name]) for name in layer}
            layer.sort(key=lambda name: wanted[name])
            settle(layer, wanted)
    for layer in [*layers, *reversed(layers)] * 2:
        settle(layer, {name: mean(name, ends[name]) for name in layer})
    return x


def _chains(
    layers: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Return for everything the column that it belongs to, where no edge joins or leaves."""
    chain: dict[str, list[str]] = {}
    for layer in layers:
        for name in layer:
            follows = len(above[name]) == 1 and len(below[above[name][0]]) == 1
            chain[name] = chain[above[name][0]] if follows else []
            chain[name].append(name)
    return chain


def _spread(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Return places in this order where nothing overlaps, as near to `wanted` as can be.

    Least squares by pooling adjacent violators: what would overlap becomes one block around its
    mean. What is wide counts more: edges make way for boxes.

    >>> _spread([0.0, 0.0, 5.0], [1.0, 1.0, 1.0])
    [-0.5, 0.5, 5.0]
    """
    offsets = [0.0, *accumulate((a + b) / 2 for a, b in pairwise(widths))]
    blocks: list[tuple[float, float, int]] = []  # mean of wanted - offset, weight, members
    for value, offset, width in zip(wanted, offsets, widths, strict=True):
        mean, weight, count = value - offset, width, 1
        while blocks and blocks[-1][0] > mean:
            other, more, members = blocks.pop()
            mean = (mean * weight + other * more) / (weight + more)
            weight, count = weight + more, count + members
        blocks.append((mean, weight, count))
    starts = [mean for mean, _, count in blocks for _ in range(count)]
    return [start + offset for start, offset in zip(starts, offsets, strict=True)]
