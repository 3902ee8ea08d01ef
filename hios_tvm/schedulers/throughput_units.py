"""What a placement for many inputs moves as one: operators of a colour, with their transfers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import networkx as nx

from hios_tvm.errors import InfeasibleError
from hios_tvm.schedulers.throughput import ThroughputProblem


@dataclass(frozen=True)
class Net:
    """Outputs that are read in the same `readers`; each device that has a part of them pays.

    Every device with the `source` or a reader takes part in the transfers, unless one has them all.
    """

    source: int
    readers: frozenset[int]
    transfer_ms: float

    @property
    def units(self) -> frozenset[int]:
        """The source and the readers."""
        return self.readers | {self.source}


@dataclass(frozen=True)
class Units:
    """Operators that lie on one device, and what they move.

    Attributes
    ----------
    of_operator : tuple of int
        The unit of each operator.
    latency_ms : tuple of tuple of float
        For each unit its time on each device; infinite where it has no place.
    memory_bytes : tuple of float
    nets : tuple of Net
        Outputs that another unit reads.
    """

    of_operator: tuple[int, ...]
    latency_ms: tuple[tuple[float, ...], ...]
    memory_bytes: tuple[float, ...]
    nets: tuple[Net, ...]

    def place(self, device_of: Sequence[int]) -> tuple[int, ...]:
        """Return the device of each operator, given that of each unit."""
        return tuple(device_of[unit] for unit in self.of_operator)

    def placed(self, device_of: Sequence[int]) -> list[int]:
        """Return the device of each unit, given that of each operator."""
        of_unit = dict(zip(self.of_operator, device_of, strict=True))
        return [of_unit[v] for v in range(len(self.latency_ms))]


def units_of_colour(problem: ThroughputProblem) -> Units:
    """Return a unit for each colour, and for each operator without one.

    Raises
    ------
    InfeasibleError
        If a colour fits on no device.
    """
    return _units(problem, _colours(problem))


def contiguous_units(problem: ThroughputProblem) -> Units:
    """Return the units of a contiguous split: the contraction of the paper's authors.

    Units that reach each other are one. So are a unit without work and its only neighbour, which
    keeps the number of ideals small.

    Raises
    ------
    InfeasibleError
        If a unit fits on no device.
    """
    colours = _merged_cycles(problem, _colours(problem))
    while True:
        merged = _merged_leaf(problem, colours)
        if merged is None:
            return _units(problem, colours)
        colours = merged


def _colours(problem: ThroughputProblem) -> list[Hashable]:
    return [
        v if operator.colour is None else operator.colour
        for v, operator in enumerate(problem.operators)
    ]


def _crossing(problem: ThroughputProblem, colours: Sequence[Hashable]) -> Iterable[tuple[int, int]]:
    return ((u, v) for u, v in problem.edges if colours[u] != colours[v])


def _merged_cycles(problem: ThroughputProblem, colours: Sequence[Hashable]) -> list[Hashable]:
    graph = nx.DiGraph()
    graph.add_nodes_from(colours)
    graph.add_edges_from((colours[u], colours[v]) for u, v in _crossing(problem, colours))
    of = {
        colour: number
        for number, together in enumerate(nx.strongly_connected_components(graph))
        for colour in together
    }
    return [of[colour] for colour in colours]


def _merged_leaf(problem: ThroughputProblem, colours: Sequence[Hashable]) -> list[Hashable] | None:
    """Return the colours with one without work as its only neighbour's; None if there is none."""
    neighbours: dict[Hashable, set[Hashable]] = defaultdict(set)
    for u, v in _crossing(problem, colours):
        neighbours[colours[u]].add(colours[v])
        neighbours[colours[v]].add(colours[u])
    busy = {
        colour
        for colour, operator in zip(colours, problem.operators, strict=True)
        if any(operator.latency_ms)
    }
    for colour in dict.fromkeys(colours):
        if colour not in busy and len(neighbours[colour]) == 1:
            (other,) = neighbours[colour]
            return [other if each == colour else each for each in colours]
    return None


def _units(problem: ThroughputProblem, colours: Sequence[Hashable]) -> Units:
    numbers = {colour: number for number, colour in enumerate(dict.fromkeys(colours))}
    unit = tuple(numbers[colour] for colour in colours)
    kinds = range(1 + max(device.kind for device in problem.devices))
    time = [[0.0 for _ in kinds] for _ in numbers]
    memory = [0.0] * len(numbers)
    for v, operator in zip(unit, problem.operators, strict=True):
        memory[v] += operator.memory_bytes
        for kind in kinds:
            time[v][kind] += operator.latency_ms[kind]
    latency = tuple(
        tuple(
            time[v][device.kind] if memory[v] <= device.memory_bytes else math.inf
            for device in problem.devices
        )
        for v in range(len(numbers))
    )
    for colour, v in numbers.items():
        if math.isinf(min(latency[v])):
            first = problem.operators[unit.index(v)].name
            raise InfeasibleError(
                f"no device can run operator {first!r} with all that must lie beside it "
                f"(colour {colour!r}, {memory[v]:.0f} bytes); give devices more memory"
            )
    return Units(unit, latency, tuple(memory), _nets(problem, unit))


def _nets(problem: ThroughputProblem, unit: Sequence[int]) -> tuple[Net, ...]:
    readers: dict[int, set[int]] = defaultdict(set)
    for u, v in problem.edges:
        if unit[u] != unit[v] and problem.operators[u].transfer_ms > 0.0:
            readers[u].add(unit[v])
    total_ms: dict[tuple[int, frozenset[int]], float] = defaultdict(float)
    for u in sorted(readers):
        total_ms[unit[u], frozenset(readers[u])] += problem.operators[u].transfer_ms
    return tuple(Net(source, units, ms) for (source, units), ms in total_ms.items())
