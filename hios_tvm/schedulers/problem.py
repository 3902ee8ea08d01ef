"""A scheduling problem in arrays: what the inner loops of schedulers read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

Groups = tuple[tuple[int, ...], ...]
"""Stream groups of a stage: operators by position in the graph."""


class PlacedStage(NamedTuple):
    """A stage on a device.

    `inputs` holds a pair for each tensor from outside the stage: the operator that writes it, and
    the time of its copy to `device` from each device. `overlapping` are the other devices that
    share a core with `device`, which stand still meanwhile.
    """

    device: int
    ms: float
    operators: tuple[int, ...]
    inputs: tuple[tuple[int, Sequence[float]], ...]
    groups: Groups
    overlapping: tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """Operators are their positions in the graph, devices theirs in the platform.

    `latency_ms[v][d]` is infinite where device d cannot run operator v. `predecessors[v]` holds
    pairs (operator, edge), `arrival_ms[e][d][s]` the time of edge e to device d from s.
    """

    graph: OperatorGraph
    costs: CostTable
    platform: Platform
    latency_ms: list[tuple[float, ...]]
    predecessors: list[list[tuple[int, int]]]
    successors: list[list[tuple[int, int]]]
    arrival_ms: list[tuple[tuple[float, ...], ...]]

    @staticmethod
    def of(graph: OperatorGraph, costs: CostTable, platform: Platform) -> Problem:
        """Read all costs once."""
        index = {op.name: v for v, op in enumerate(graph.operators)}
        latency_ms = [
            tuple(
                costs.latency_ms(op.name, d.model) if costs.runs_on(op.name, d.model) else math.inf
                for d in platform.devices
            )
            for op in graph.operators
        ]
        predecessors: list[list[tuple[int, int]]] = [[] for _ in graph.operators]
        successors: list[list[tuple[int, int]]] = [[] for _ in graph.operators]
        for e, edge in enumerate(graph.edges):
            predecessors[index[edge.dst]].append((index[edge.src], e))
            successors[index[edge.src]].append((index[edge.dst], e))
        names = [device.name for device in platform.devices]
        arrival_ms = [
            tuple(tuple(costs.transfer_ms(edge, platform, s, d) for s in names) for d in names)
            for edge in graph.edges
        ]
        return Problem(graph, costs, platform, latency_ms, predecessors, successors, arrival_ms)

    @property
    def operators(self) -> range:
        """All operators, in topological order."""
        return range(len(self.latency_ms))

    @property
    def devices(self) -> range:
        """All devices."""
        return range(len(self.platform.devices))

    @cached_property
    def overlapping(self) -> list[tuple[int, ...]]:
        """For each device the others that share a core with it."""
        units = [set(own) for own in self.platform.units]
        return [
            tuple(d for d, other in enumerate(units) if other is not own and other & own)
            for own in units
        ]

    @cached_property
    def next_sizes(self) -> list[tuple[int, ...]]:
        """For each device those of `overlapping` with the next larger and next smaller width."""
        width = [device.width for device in self.platform.devices]
        sizes = []
        for own, others in zip(width, self.overlapping, strict=True):
            larger = min((width[d] for d in others if width[d] > own), default=own)
            smaller = max((width[d] for d in others if width[d] < own), default=own)
            sizes.append(tuple(d for d in others if width[d] in (larger, smaller)))
        return sizes

    @cached_property
    def of_one_size(self) -> list[tuple[int, ...]]:
        """For each width of devices that share cores: these, and the devices that share none."""
        shared = [d for d in self.devices if self.overlapping[d]]
        width = [device.width for device in self.platform.devices]
        return [
            tuple(d for d in self.devices if d not in shared or width[d] == size)
            for size in sorted({width[d] for d in shared})
        ]

    def runs_on(self, v: int) -> list[int]:
        """Devices that can run operator `v`."""
        return [d for d, ms in enumerate(self.latency_ms[v]) if ms < math.inf]

    @cached_property
    def mean_latency_ms(self) -> list[float]:
        """Latency of each operator, averaged over the devices that can run it."""
        result = []
        for times in self.latency_ms:
            finite = [ms for ms in times if ms < math.inf]
            result.append(sum(finite) / len(finite))
        return result

    @cached_property
    def mean_transfer_ms(self) -> list[float]:
        """Time of each edge between two different devices, averaged over the pairs."""
        pairs = len(self.devices) * (len(self.devices) - 1)
        return [sum(map(sum, times)) / pairs if pairs else 0.0 for times in self.arrival_ms]

    @cached_property
    def upward_rank_ms(self) -> list[float]:
        """Longest path from each operator to the end, with its latency and all transfers."""
        rank = [0.0] * len(self.latency_ms)
        for v in reversed(self.operators):
            tail = max(
                (self.mean_transfer_ms[e] + rank[w] for w, e in self.successors[v]), default=0.0
            )
            rank[v] = self.mean_latency_ms[v] + tail
        return rank

    @cached_property
    def priority(self) -> list[int]:
        """Operators by descending upward rank; ties in topological order."""
        rank = self.upward_rank_ms
        return sorted(self.operators, key=lambda v: (-rank[v], v))

    @cached_property
    def descendants(self) -> list[int]:
        """For each operator the set of operators that depend on it, as a bit mask."""
        reached = [0] * len(self.latency_ms)
        for v in reversed(self.operators):
            for w, _ in self.successors[v]:
                reached[v] |= reached[w] | 1 << w
        return reached

    @cached_property
    def _single(self) -> dict[tuple[int, int], PlacedStage]:
        return {}

    def single(self, v: int, device: int) -> PlacedStage:
        """Operator `v` alone on `device`."""
        stage = self._single.get((v, device))
        if stage is None:
            inputs = tuple((u, self.arrival_ms[e][device]) for u, e in self.predecessors[v])
            ms, overlapping = self.latency_ms[v][device], self.overlapping[device]
            stage = PlacedStage(device, ms, (v,), inputs, ((v,),), overlapping)
            self._single[v, device] = stage
        return stage

    def stage(self, groups: Groups, device: int) -> PlacedStage:
        """Return the stream groups `groups` as one stage on `device`, with their joint time."""
        operators = tuple(v for group in groups for v in group)
        if len(operators) == 1:
            return self.single(operators[0], device)
        inside = set(operators)
        inputs = tuple(
            (u, self.arrival_ms[e][device])
            for v in operators
            for u, e in self.predecessors[v]
            if u not in inside
        )
        if any(self.latency_ms[v][device] == math.inf for v in operators):
            ms = math.inf
        else:
            names = [[self.graph.operators[v].name for v in group] for group in groups]
            ms = self.costs.stage_ms(names, self.platform.devices[device].model)
        return PlacedStage(device, ms, operators, inputs, groups, self.overlapping[device])

    def schedule(self, scheduler: str, order: Sequence[PlacedStage]) -> Schedule:
        """Return stages in a topological order as the schedule of each device.

        Those of devices that share cores get their positions in `order`.
        """
        names = [op.name for op in self.graph.operators]
        stages: list[list[Stage]] = [[] for _ in self.devices]
        for i, stage in enumerate(order):
            groups = tuple(tuple(names[v] for v in group) for group in stage.groups)
            stages[stage.device].append(Stage(groups, i if stage.overlapping else None))
        return Schedule(
            scheduler,
            tuple(
                DeviceSchedule(device.name, tuple(stages[d]), device.memory)
                for d, device in enumerate(self.platform.devices)
            ),
        )
