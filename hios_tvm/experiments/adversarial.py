"""Adversarial search: simulated annealing over graphs for those where a scheduler does badly.

References
----------
.. [1] Coleman and Krishnamachari, "PISA: An Adversarial Approach To Comparing Task Graph Scheduling
   Algorithms", arXiv 2403.07120.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hios_tvm.errors import HiosError, UsageError
from hios_tvm.experiments.comparison import schedule_instance
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.plain_graph import DEVICE_MODEL, graph_of_edges
from hios_tvm.schema.platform import Platform

MOST_OPERATORS = 12
LEAST_MS = 0.1  # of an operator, as in the paper's random graphs; transfers may be zero
MOST_MS = 4.0


@dataclass(frozen=True, kw_only=True)
class AnnealingOptions:
    """The cooling schedule of the search; the defaults are those of the publication.

    A step multiplies the temperature by `cooling`; the search ends at `coldest` or after `steps`.
    """

    steps: int = 1000
    hottest: float = 10.0
    coldest: float = 0.1
    cooling: float = 0.99

    def __post_init__(self) -> None:
        if not (0.0 < self.coldest <= self.hottest and 0.0 < self.cooling < 1.0 <= self.steps):
            raise UsageError(f"not a valid cooling schedule: {self}")


@dataclass(frozen=True)
class Finding:
    """The worst graph that was found: `ratio` is the makespan over that of `rival`, the best."""

    ratio: float
    rival: str
    instance: Instance


@dataclass(frozen=True)
class _Graph:
    """Operators are numbers in topological order; edges lead from smaller to larger ones."""

    latency_ms: tuple[float, ...]
    utilization: tuple[float, ...]
    transfer_ms: Mapping[tuple[int, int], float]
    devices: int

    def instance(self) -> Instance:
        names = [f"v{v}" for v in range(len(self.latency_ms))]
        transfer = {
            (names[u], names[v]): Measurement(ms) for (u, v), ms in self.transfer_ms.items()
        }
        latency = {name: Measurement(ms) for name, ms in zip(names, self.latency_ms, strict=True)}
        return Instance(
            graph_of_edges(names, transfer, name="adversarial"),
            CostTable(
                {DEVICE_MODEL: latency},
                transfer=transfer,
                utilization={DEVICE_MODEL: dict(zip(names, self.utilization, strict=True))},
            ),
            Platform.uniform(self.devices),
        )


def find_worst(
    scheduler: str,
    rivals: Sequence[str],
    *,
    devices: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    annealing: AnnealingOptions | None = None,
) -> Finding:
    """Search for the graph on which `scheduler` is worst against the best of `rivals`.

    Graphs start as chains of three to five operators, as in the publication. A step changes one
    time, adds or removes an edge or an operator, and is taken back with a probability that grows
    with the loss and falls with the temperature.

    Parameters
    ----------
    options : mapping, optional
        Given to each scheduler that has them.

    Raises
    ------
    UsageError
        If there is no rival.
    HiosError
        If `scheduler` refuses a graph.
    """
    if not rivals:
        raise UsageError(f"{scheduler} has no rival to be compared with")
    annealing = annealing or AnnealingOptions()
    rng = random.Random(seed)

    def judged(graph: _Graph) -> Finding:
        instance = graph.instance()
        makespan_ms = _makespan_ms(scheduler, instance, options or {})
        times = {}
        for name in rivals:
            try:
                times[name] = _makespan_ms(name, instance, options or {})
            except HiosError:  # who refuses a graph is no rival on it
                times[name] = math.inf
        rival = min(times, key=times.__getitem__)
        ratio = makespan_ms / times[rival] if times[rival] > 0.0 else 1.0
        return Finding(ratio, rival, instance)

    graph = _chain(devices, rng)
    current = worst = judged(graph)
    temperature = annealing.hottest
    for _ in range(annealing.steps):
        if temperature < annealing.coldest:
            break
        changed = rng.choice(_CHANGES)(graph, rng)
        found = judged(changed)
        if found.ratio >= current.ratio or rng.random() < math.exp(
            -(worst.ratio / max(found.ratio, 1e-9)) / temperature
        ):
            graph, current = changed, found
        if found.ratio > worst.ratio:
            worst = found
        temperature *= annealing.cooling
    return worst


def _makespan_ms(scheduler: str, instance: Instance, options: Mapping[str, Any]) -> float:
    schedule = schedule_instance(instance, scheduler, options)
    return evaluate(instance.graph, instance.costs, instance.platform, schedule).makespan_ms


def _time_ms(rng: random.Random) -> float:
    return rng.uniform(LEAST_MS, MOST_MS)


def _chain(devices: int, rng: random.Random) -> _Graph:
    count = rng.randint(3, 5)
    return _Graph(
        tuple(_time_ms(rng) for _ in range(count)),
        tuple(rng.uniform(0.6, 1.0) for _ in range(count)),
        {(v, v + 1): _time_ms(rng) for v in range(count - 1)},
        devices,
    )


def _near(value: float, low: float, high: float, rng: random.Random) -> float:
    """Return a value up to a tenth of the range away."""
    step = 0.1 * (high - low)
    return min(max(value + rng.uniform(-step, step), low), high)


def _change_latency(graph: _Graph, rng: random.Random) -> _Graph:
    v = rng.randrange(len(graph.latency_ms))
    times = list(graph.latency_ms)
    times[v] = _near(times[v], LEAST_MS, MOST_MS, rng)
    return replace(graph, latency_ms=tuple(times))


def _change_utilization(graph: _Graph, rng: random.Random) -> _Graph:
    v = rng.randrange(len(graph.utilization))
    shares = list(graph.utilization)
    shares[v] = _near(shares[v], 0.1, 1.0, rng)
    return replace(graph, utilization=tuple(shares))


def _change_transfer(graph: _Graph, rng: random.Random) -> _Graph:
    if not graph.transfer_ms:
        return graph
    edge = rng.choice(list(graph.transfer_ms))
    ms = _near(graph.transfer_ms[edge], 0.0, MOST_MS, rng)
    return replace(graph, transfer_ms={**graph.transfer_ms, edge: ms})


def _add_edge(graph: _Graph, rng: random.Random) -> _Graph:
    count = len(graph.latency_ms)
    pairs = [(u, v) for v in range(count) for u in range(v) if (u, v) not in graph.transfer_ms]
    if not pairs:
        return graph
    return replace(graph, transfer_ms={**graph.transfer_ms, rng.choice(pairs): _time_ms(rng)})


def _remove_edge(graph: _Graph, rng: random.Random) -> _Graph:
    if not graph.transfer_ms:
        return graph
    gone = rng.choice(list(graph.transfer_ms))
    return replace(graph, transfer_ms={e: ms for e, ms in graph.transfer_ms.items() if e != gone})


def _add_operator(graph: _Graph, rng: random.Random) -> _Graph:
    count = len(graph.latency_ms)
    if count == MOST_OPERATORS:
        return graph
    return replace(
        graph,
        latency_ms=(*graph.latency_ms, _time_ms(rng)),
        utilization=(*graph.utilization, rng.uniform(0.6, 1.0)),
        transfer_ms={**graph.transfer_ms, (rng.randrange(count), count): _time_ms(rng)},
    )


def _remove_operator(graph: _Graph, rng: random.Random) -> _Graph:
    count = len(graph.latency_ms)
    if count == 1:
        return graph
    gone = rng.randrange(count)
    kept = [v for v in range(count) if v != gone]
    return replace(
        graph,
        latency_ms=tuple(graph.latency_ms[v] for v in kept),
        utilization=tuple(graph.utilization[v] for v in kept),
        transfer_ms={
            (u - (u > gone), v - (v > gone)): ms
            for (u, v), ms in graph.transfer_ms.items()
            if gone not in (u, v)
        },
    )


_CHANGES: tuple[Callable[[_Graph, random.Random], _Graph], ...] = (
    _change_latency,
    _change_utilization,
    _change_transfer,
    _add_edge,
    _remove_edge,
    _add_operator,
    _remove_operator,
)
