"""HIOS-LP: operators are mapped to devices along longest paths, then grouped by a window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hios_tvm.costs.table import CostTable
from hios_tvm.devices import Platform
from hios_tvm.errors import UsageError
from hios_tvm.graph import OperatorGraph
from hios_tvm.schedule import DeviceSchedule, Schedule, Stage
from hios_tvm.schedulers.problem import Problem
from hios_tvm.schedulers.window import Stages, group_in_window

__all__ = ["LongestPathOptions", "hios_lp"]


@dataclass(frozen=True, kw_only=True)
class LongestPathOptions:
    """Options of HIOS-LP; the published setting is the default.

    `window` operators are looked at, and at most `max_streams` of them form a stage. With
    `inter_only` the second step is left out.
    """

    window: int = 2
    max_streams: int = 2
    inter_only: bool = False

    def __post_init__(self) -> None:
        if self.window < 1 or self.max_streams < 1:
            raise UsageError(
                f"window and max_streams must be at least 1, got {self.window} and "
                f"{self.max_streams}"
            )


def hios_lp(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: LongestPathOptions
) -> Schedule:
    """Map operators along longest paths to devices, then group them with a sliding window.

    The first step takes the longest path of operators that are not mapped yet, in which only the
    first operator may have mapped predecessors and only the last one mapped successors, and puts
    it where the mapped part of the graph ends first. A path stays on one device, so that only its
    two ends pay transfers.

    Raises
    ------
    CostError
        If an operator can run on no device.

    Notes
    -----
    O(P (V + E) D) for P paths, V operators, E edges and D devices. Times in milliseconds.

    References
    ----------
    .. [1] Kundu and Shu, "HIOS: Hierarchical Inter-Operator Scheduler for Real-Time Inference of
       DAG-Structured Deep Learning Models on Multiple GPUs", IEEE CLUSTER 2023, section IV.
    """
    problem = Problem.of(graph, costs, platform)
    placement = _map_paths(problem)
    orders: list[list[int]] = [[] for _ in platform.devices]
    for v in problem.priority:
        orders[placement[v]].append(v)
    stages: Stages = [[(v,) for v in order] for order in orders]
    if not options.inter_only:
        stages = group_in_window(problem, placement, options.window, options.max_streams)
    names = [op.name for op in graph.operators]
    return Schedule(
        "hios-lp",
        tuple(
            DeviceSchedule(
                device.name, tuple(Stage(tuple((names[v],) for v in stage)) for stage in order)
            )
            for device, order in zip(platform.devices, stages, strict=True)
        ),
    )


def _map_paths(problem: Problem) -> list[int]:
    """Return the device of each operator."""
    placement = [-1] * len(problem.latency_ms)
    while path := _longest_path(problem, placement):
        placement = min(
            (
                _with_path(placement, path, device)
                for device in range(len(problem.platform.devices))
                if all(problem.latency_ms[v][device] < math.inf for v in path)
            ),
            key=lambda candidate: _makespan_and_sum(problem, candidate),
        )
    return placement


def _with_path(placement: list[int], path: Sequence[int], device: int) -> list[int]:
    result = list(placement)
    for v in path:
        result[v] = device
    return result


def _longest_path(problem: Problem, placement: Sequence[int]) -> list[int]:
    """Return the longest valid path of operators without a device; empty when all have one.

    An operator that some device cannot run shares a path only with what can run where it can.
    """
    lengths: dict[int, float] = {}
    previous: dict[int, int] = {}
    for v, device in enumerate(placement):
        if device >= 0:
            continue
        best_ms, best = 0.0, -1
        if all(placement[u] < 0 for u, _ in problem.predecessors[v]):
            for u, e in problem.predecessors[v]:
                if any(placement[w] >= 0 for w, _ in problem.successors[u]):
                    continue
                if _devices_of(problem, u) != _devices_of(problem, v):
                    continue
                length_ms = lengths[u] + problem.mean_transfer_ms[e]
                if length_ms > best_ms:
                    best_ms, best = length_ms, u
        lengths[v] = best_ms + problem.mean_latency_ms[v]
        previous[v] = best
    if not lengths:
        return []
    v = max(lengths, key=lambda v: (lengths[v], -v))
    path = [v]
    while previous[v] >= 0:
        v = previous[v]
        path.append(v)
    return path[::-1]


def _devices_of(problem: Problem, v: int) -> tuple[bool, ...]:
    return tuple(ms < math.inf for ms in problem.latency_ms[v])


def _makespan_and_sum(problem: Problem, placement: Sequence[int]) -> tuple[float, float]:
    """List-schedule the mapped operators by priority; makespan, and sum of all finish times.

    The sum breaks ties: with the device's index alone, some devices would never be used.
    """
    free_ms = [0.0] * len(problem.platform.devices)
    finish_ms = [0.0] * len(placement)
    for v in problem.priority:
        device = placement[v]
        if device < 0:
            continue
        start_ms = free_ms[device]
        for u, e in problem.predecessors[v]:
            source = placement[u]
            if source >= 0:
                arrival_ms = finish_ms[u] + problem.transfer_ms[e][source][device]
                start_ms = max(start_ms, arrival_ms)
        finish_ms[v] = free_ms[device] = start_ms + problem.latency_ms[v][device]
    return max(free_ms), sum(finish_ms)
