"""A scheduling problem in arrays: what the inner loops of schedulers read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from hios_tvm.costs.table import CostTable
from hios_tvm.devices import Platform
from hios_tvm.graph import OperatorGraph

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """Operators are their positions in the graph, devices theirs in the platform.

    `latency_ms[v][d]` is infinite where device d cannot run operator v. `predecessors[v]` holds
    pairs (operator, edge), `transfer_ms[e][s][d]` the time of edge e from device s to d.
    """

    graph: OperatorGraph
    costs: CostTable
    platform: Platform
    latency_ms: list[list[float]]
    predecessors: list[list[tuple[int, int]]]
    successors: list[list[tuple[int, int]]]
    transfer_ms: list[list[list[float]]]

    @staticmethod
    def of(graph: OperatorGraph, costs: CostTable, platform: Platform) -> Problem:
        """Read all costs once."""
        index = {op.name: v for v, op in enumerate(graph.operators)}
        latency_ms = [
            [
                costs.latency_ms(op.name, d.model) if costs.runs_on(op.name, d.model) else math.inf
                for d in platform.devices
            ]
            for op in graph.operators
        ]
        predecessors: list[list[tuple[int, int]]] = [[] for _ in graph.operators]
        successors: list[list[tuple[int, int]]] = [[] for _ in graph.operators]
        for e, edge in enumerate(graph.edges):
            predecessors[index[edge.dst]].append((index[edge.src], e))
            successors[index[edge.src]].append((index[edge.dst], e))
        names = [device.name for device in platform.devices]
        transfer_ms = [
            [[costs.transfer_ms(edge, platform, src, dst) for dst in names] for src in names]
            for edge in graph.edges
        ]
        return Problem(graph, costs, platform, latency_ms, predecessors, successors, transfer_ms)

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
        devices = len(self.platform.devices)
        pairs = devices * (devices - 1)
        return [sum(map(sum, times)) / pairs if pairs else 0.0 for times in self.transfer_ms]

    @cached_property
    def upward_rank_ms(self) -> list[float]:
        """Longest path from each operator to the end, with its latency and all transfers."""
        rank = [0.0] * len(self.latency_ms)
        for v in reversed(range(len(rank))):
            tail = max(
                (self.mean_transfer_ms[e] + rank[w] for w, e in self.successors[v]), default=0.0
            )
            rank[v] = self.mean_latency_ms[v] + tail
        return rank

    @cached_property
    def priority(self) -> list[int]:
        """Operators by descending upward rank; ties in topological order."""
        rank = self.upward_rank_ms
        return sorted(range(len(rank)), key=lambda v: (-rank[v], v))
