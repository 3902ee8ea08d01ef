"""The second step of HIOS: a sliding window groups small operators of a device into stages."""

from __future__ import annotations

from collections.abc import Sequence

from hios_tvm.schedulers.problem import Problem

__all__ = ["Stages", "group_in_window"]

Stages = list[list[tuple[int, ...]]]  # per device, in order


def group_in_window(
    problem: Problem, placement: Sequence[int], window: int, max_streams: int
) -> Stages:
    """Merge neighbours on a device into stages of concurrent operators where that pays.

    Operators are visited by priority. One that is the first of its device that has not been
    grouped opens a window over the next `window` ones; prefixes of mutually independent operators
    are tried as one stage, and the best one is kept unless the makespan grows.

    Parameters
    ----------
    placement : sequence of int
        Device of each operator; the orders on the devices are by priority.

    Returns
    -------
    list of list of tuple of int
        For each device its stages.

    Notes
    -----
    A merged stage couples its members' starts and ends, which may close a cycle through the orders
    of two devices; such candidates are dropped. Source: Kundu and Shu 2023, section IV.
    """
    ungrouped: list[list[int]] = [[] for _ in problem.platform.devices]
    for v in problem.priority:
        ungrouped[placement[v]].append(v)
    stages: Stages = [[(v,) for v in order] for order in ungrouped]
    streams = [min(max_streams, device.streams) for device in problem.platform.devices]
    if max(streams) < 2 or window < 2:
        return stages
    reaches = _descendants(problem)
    best_ms = _makespan_ms(problem, stages)
    for v in problem.priority:
        d = placement[v]
        if not ungrouped[d] or ungrouped[d][0] != v:
            continue
        head = ungrouped[d][:window]
        accepted = 1
        best_stages = stages
        for count in range(2, min(len(head), streams[d]) + 1):
            if not _independent(head[:count], reaches):
                break
            candidate = list(stages)
            candidate[d] = _merged(stages[d], head[:count])
            makespan_ms = _makespan_ms(problem, candidate)
            if makespan_ms is not None and best_ms is not None and makespan_ms <= best_ms:
                best_ms, best_stages, accepted = makespan_ms, candidate, count
        stages = best_stages
        del ungrouped[d][:accepted]
    return stages


def _merged(stages: list[tuple[int, ...]], members: Sequence[int]) -> list[tuple[int, ...]]:
    """Put `members`, which are neighbours, into one stage at the place of the first."""
    first = stages.index((members[0],))
    return [*stages[:first], tuple(members), *stages[first + len(members) :]]


def _descendants(problem: Problem) -> list[int]:
    """Return for each operator the set of operators that depend on it, as a bit mask."""
    reaches = [0] * len(problem.successors)
    for v in reversed(range(len(reaches))):
        for w, _ in problem.successors[v]:
            reaches[v] |= reaches[w] | 1 << w
    return reaches


def _independent(members: Sequence[int], reaches: Sequence[int]) -> bool:
    mask = sum(1 << v for v in members)
    return not any(reaches[v] & mask for v in members)


def _makespan_ms(problem: Problem, stages: Stages) -> float | None:
    """Return the makespan on independent devices; None where stages wait for each other."""
    names = [op.name for op in problem.graph.operators]
    models = [device.model for device in problem.platform.devices]
    stage_of: dict[int, tuple[int, int]] = {}
    for d, order in enumerate(stages):
        for i, stage in enumerate(order):
            stage_of.update(dict.fromkeys(stage, (d, i)))
    next_stage = [0] * len(stages)
    free_ms = [0.0] * len(stages)
    end_ms: dict[int, float] = {}
    progress = True
    while progress:
        progress = False
        for d, order in enumerate(stages):
            while next_stage[d] < len(order):
                stage = order[next_stage[d]]
                start_ms = free_ms[d]
                sources = [(u, e) for v in stage for u, e in problem.predecessors[v]]
                if any(u not in end_ms for u, _ in sources):
                    break
                for u, e in sources:
                    transfer_ms = problem.transfer_ms[e][stage_of[u][0]][d]
                    start_ms = max(start_ms, end_ms[u] + transfer_ms)
                if len(stage) == 1:
                    time_ms = problem.latency_ms[stage[0]][d]
                else:
                    groups = [(names[v],) for v in stage]
                    time_ms = problem.costs.stage_ms(groups, models[d])
                free_ms[d] = start_ms + time_ms
                end_ms.update(dict.fromkeys(stage, free_ms[d]))
                next_stage[d] += 1
                progress = True
    return max(free_ms) if len(end_ms) == len(names) else None
