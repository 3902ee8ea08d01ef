"""The layered random graphs of the paper's simulation."""

import itertools
import math
import random
from dataclasses import dataclass

from hios_tvm.errors import UsageError
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.plain_graph import DEVICE_MODEL, graph_of_edges
from hios_tvm.schema.platform import Platform

LATENCY_MS = (0.1, 4.0)
UTILIZATION = (0.6, 1.0)
LEAST_TRANSFER_MS = 0.1


@dataclass(frozen=True, kw_only=True)
class LayeredGraphOptions:
    """What `layered_graph` makes; the defaults are the paper's.

    Attributes
    ----------
    operators, edges, layers : int
        Sizes of the graph.
    transfer_ratio : float
        Transfer time of an edge over the latency of the operator that it leads to.
    devices : int
        Equal devices of the platform, each with two streams.
    """

    operators: int = 200
    edges: int = 400
    layers: int = 8
    transfer_ratio: float = 0.8
    devices: int = 4

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise UsageError(f"a layered graph needs at least 2 layers, got {self.layers}")
        least = 2 + (self.layers - 2) * self.least_layer
        if self.operators < least or (self.layers == 2 and self.operators > 2):
            raise UsageError(
                f"{self.operators} operators do not fit into {self.layers} layers: the first and "
                f"the last have one, the others at least {self.least_layer}"
            )
        if not 0.0 <= self.transfer_ratio < math.inf:
            raise UsageError(
                f"the transfer ratio must be finite and not negative: {self.transfer_ratio}"
            )

    @property
    def least_layer(self) -> int:
        """Operators that an inner layer has at least."""
        return math.ceil(self.layers / 2)


def layered_graph(options: LayeredGraphOptions, *, seed: int) -> Instance:
    """Draw a graph as the simulation of the paper does; a seed always gives the same one.

    The first and last layer have one operator, the others a random number. Each operator gets a
    random successor in the next layer and a random predecessor in the one before; further edges
    lead from a random operator of a random inner layer to one of a random later layer. Latencies
    are uniform in 0.1..4 ms, utilizations in 0.6..1; a transfer takes `transfer_ratio` times the
    latency of its consumer, at least 0.1 ms.

    Raises
    ------
    UsageError
        If the edges do not fit: fewer than these successors and predecessors, or more than there
        are pairs of operators to join.

    References
    ----------
    .. [1] Kundu and Shu, "HIOS: Hierarchical Inter-Operator Scheduler for Real-Time Inference of
       DAG-Structured Deep Learning Models on Multiple GPUs", IEEE CLUSTER 2023, section VI.
    """
    rng = random.Random(seed)
    layers = _layers(options, rng)
    edges = _edges(layers, options.edges, rng)
    names = [f"v{v}" for v in range(options.operators)]
    latency_ms = [rng.uniform(*LATENCY_MS) for _ in names]
    utilization = {name: rng.uniform(*UTILIZATION) for name in names}
    transfer = {
        (names[u], names[v]): Measurement(
            max(LEAST_TRANSFER_MS, options.transfer_ratio * latency_ms[v])
        )
        for u, v in edges
    }
    latency = {name: Measurement(ms) for name, ms in zip(names, latency_ms, strict=True)}
    return Instance(
        graph_of_edges(names, transfer, name=f"layered-{seed}"),
        CostTable(
            {DEVICE_MODEL: latency}, transfer=transfer, utilization={DEVICE_MODEL: utilization}
        ),
        Platform.uniform(options.devices),
    )


def _layers(options: LayeredGraphOptions, rng: random.Random) -> list[range]:
    """Give each inner layer the least number, then go round with random numbers up to it."""
    inner = options.layers - 2
    sizes = [1, *[options.least_layer] * inner, 1]
    spare = options.operators - sum(sizes)
    while spare:
        for i in range(1, inner + 1):
            more = min(rng.randint(0, options.least_layer), spare)
            sizes[i] += more
            spare -= more
    ends = list(itertools.accumulate(sizes))
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _edges(layers: list[range], count: int, rng: random.Random) -> list[tuple[int, int]]:
    edges: dict[tuple[int, int], None] = {}  # in the order in which they were drawn
    layer_of = {v: i for i, layer in enumerate(layers) for v in layer}
    for layer, following in itertools.pairwise(layers):
        for u in layer:
            edges[u, rng.choice(following)] = None
        for v in following:
            edges[rng.choice(layer), v] = None
    # Further edges start in an inner layer. For each, the edges that still fit to later ones.
    free = {
        i: {j: len(layers[i]) * len(layers[j]) for j in range(i + 1, len(layers))}
        for i in range(1, len(layers) - 1)
    }
    for u, v in edges:
        if layer_of[u]:
            _take(free, layer_of[u], layer_of[v])
    most = len(edges) + sum(sum(targets.values()) for targets in free.values())
    if not len(edges) <= count <= most:
        raise UsageError(
            f"{count} edges do not fit: one successor and predecessor for each operator make "
            f"{len(edges)}, and at most {most} are possible"
        )
    while len(edges) < count:
        i = rng.choice(list(free))
        j = rng.choice(list(free[i]))
        edge = (rng.choice(layers[i]), rng.choice(layers[j]))
        if edge not in edges:
            edges[edge] = None
            _take(free, i, j)
    return list(edges)


def _take(free: dict[int, dict[int, int]], i: int, j: int) -> None:
    free[i][j] -= 1
    if not free[i][j]:
        del free[i][j]
    if not free[i]:
        del free[i]
