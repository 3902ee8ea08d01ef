"""Where to draw the operators of a graph: in layers from top to bottom, with few crossings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Layout", "layered_layout"]

_SWEEPS = 6
Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Place of each node and way of each edge; x in widths of a node, y the number of a layer."""

    position: Mapping[str, Point]
    route: Mapping[tuple[str, str], tuple[Point, ...]]
    width: float
    height: int


def layered_layout(nodes: Sequence[str], edges: Iterable[tuple[str, str]]) -> Layout:
    """Lay out a DAG as Sugiyama, Tagawa and Toda do.

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
    links: list[tuple[str, str]] = []  # between neighbouring layers
    chains: dict[tuple[str, str], list[str]] = {}
    for src, dst in edges:
        chain = [src]
        for layer in range(depth[src] + 1, depth[dst]):
            bend = f"{src}\0{dst}\0{layer}"
            layers[layer].append(bend)
            chain.append(bend)
        chain.append(dst)
        chains[src, dst] = chain
        links += pairwise(chain)
    above: dict[str, list[str]] = {name: [] for layer in layers for name in layer}
    below: dict[str, list[str]] = {name: [] for layer in layers for name in layer}
    for src, dst in links:
        below[src].append(dst)
        above[dst].append(src)
    x = _columns(layers, above, below)
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
    layers: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]
) -> dict[str, float]:
    """Order the layers in place, and return the x of everything in them."""
    x = {name: float(i) for layer in layers for i, name in enumerate(layer)}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        for layer in layers if down else reversed(layers):
            wanted = {name: _mean([x[n] for n in neighbours[name]], x[name]) for name in layer}
            layer.sort(key=lambda name: wanted[name])
            x.update(zip(layer, _spread([wanted[name] for name in layer]), strict=True))
    for layer in [*layers, *reversed(layers)]:
        wanted = {name: _mean([x[n] for n in above[name] + below[name]], x[name]) for name in layer}
        x.update(zip(layer, _spread([wanted[name] for name in layer]), strict=True))
    return x


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _spread(wanted: Sequence[float]) -> list[float]:
    """Return places at least 1 apart, in this order, with the least squared distance from `wanted`.

    Pool adjacent violators: what would overlap becomes one block around its mean.

    >>> _spread([0.0, 0.0, 5.0])
    [-0.5, 0.5, 5.0]
    """
    blocks: list[tuple[float, int]] = []  # mean of `wanted` less the index, number of members
    for i, value in enumerate(wanted):
        mean, count = value - i, 1
        while blocks and blocks[-1][0] > mean:
            other, members = blocks.pop()
            mean = (mean * count + other * members) / (count + members)
            count += members
        blocks.append((mean, count))
    starts = [mean for mean, count in blocks for _ in range(count)]
    return [start + i for i, start in enumerate(starts)]
