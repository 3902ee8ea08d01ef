"""RandWire, the small network (C = 78) with Watts-Strogatz wiring: WS(k = 4, p = 0.75).

Xie et al., "Exploring randomly wired neural networks for image recognition", ICCV 2019, table 1
"small regime": three stages of 32 nodes. A node adds up its inputs with positive weights, then
ReLU, 3x3 separable convolution, batch norm.
"""

import functools

import numpy as np

from hios_tvm.zoo.builder import GraphBuilder, Tensor

CHANNELS = 78
NODES = 32
NEIGHBOURS = 4
REWIRING = 0.75
WIRING_SEED = 1
"""The wiring is part of the architecture: it is the same for every seed of the weights."""


def randwire(g: GraphBuilder, x: Tensor) -> Tensor:
    """Append the network to `g`: logits ``[batch, 1000]`` of images ``[batch, 3, h, w]``."""
    with g.scope("stem"):
        x = g.batch_norm(g.conv(x, CHANNELS // 2, 3, stride=2, padding=1))
        x = g.batch_norm(g.conv(g.relu(x), CHANNELS, 3, stride=2, padding=1))
    rng = np.random.default_rng(WIRING_SEED)
    for stage in range(3):
        edges = watts_strogatz(NODES, NEIGHBOURS, REWIRING, rng)
        with g.scope(f"stage_{stage + 3}"):
            x = _stage(g, x, edges, CHANNELS * 2**stage)
    with g.scope("head"):
        x = g.batch_norm(g.conv(g.relu(x), 1280, 1))
        return g.dense(g.flatten(g.global_average_pool(g.relu(x))), 1000)


def watts_strogatz(
    nodes: int, neighbours: int, rewiring: float, rng: np.random.Generator
) -> set[tuple[int, int]]:
    """Edges ``(a, b)``, a < b, of a ring whose edges were rewired at random.

    Each node starts joined to `neighbours` / 2 nodes on either side; going round, each edge gets a
    new end with probability `rewiring`, without loops and double edges. An edge then
    leads from the lower to the higher number, which makes the graph acyclic.

    Examples
    --------
    >>> sorted(watts_strogatz(4, 2, 0.0, np.random.default_rng(0)))
    [(0, 1), (0, 3), (1, 2), (2, 3)]
    """
    joined = np.zeros((nodes, nodes), bool)
    steps = range(1, neighbours // 2 + 1)
    for step in steps:
        for node in range(nodes):
            end = (node + step) % nodes
            joined[node, end] = joined[end, node] = True
    for step in steps:
        for node in range(nodes):
            free = np.flatnonzero(~joined[node] & (np.arange(nodes) != node))
            if rng.random() < rewiring and len(free):
                old, new = (node + step) % nodes, int(rng.choice(free))
                joined[node, old] = joined[old, node] = False
                joined[node, new] = joined[new, node] = True
    return {(int(a), int(b)) for a, b in np.argwhere(np.triu(joined))}


def _stage(g: GraphBuilder, x: Tensor, edges: set[tuple[int, int]], channels: int) -> Tensor:
    """Nodes without predecessors read `x` with stride 2; those without successors are averaged."""
    outputs: list[Tensor] = []
    for node in range(NODES):
        sources = [outputs[a] for a, b in sorted(edges) if b == node]
        with g.scope(f"node_{node}"):
            joined = _weighted_sum(g, sources) if sources else x
            outputs.append(_node(g, joined, channels, stride=1 if sources else 2))
    ends = [outputs[node] for node in range(NODES) if all(a != node for a, _ in edges)]
    with g.scope("mean"):
        return g.scale(functools.reduce(g.add, ends), 1 / len(ends))


def _weighted_sum(g: GraphBuilder, tensors: list[Tensor]) -> Tensor:
    """Sum with one weight per edge: the sigmoid of a learned number, a constant at inference."""
    if len(tensors) == 1:
        # The authors weigh a single input as well; the batch norm behind it would undo that.
        return tensors[0]
    weights = 1 / (1 + np.exp(-g.rng.standard_normal(len(tensors))))
    scaled = [g.scale(tensor, float(w)) for tensor, w in zip(tensors, weights, strict=True)]
    return functools.reduce(g.add, scaled)


def _node(g: GraphBuilder, x: Tensor, channels: int, *, stride: int) -> Tensor:
    x = g.relu(x)
    x = g.conv(x, x.channels, 3, stride=stride, padding=1, groups=x.channels)
    return g.batch_norm(g.conv(x, channels, 1))
