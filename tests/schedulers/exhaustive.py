"""The least makespan of small graphs, found without bounds by two searches of all schedules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from cases import Case

from hios_tvm.errors import ScheduleError
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage


def makespan_ms(case: Case, schedule: Schedule) -> float:
    return evaluate(case.graph, case.costs, case.platform, schedule).makespan_ms


def set_partitions(items: tuple[str, ...]) -> Iterator[list[tuple[str, ...]]]:
    if not items:
        yield []
        return
    for rest in set_partitions(items[1:]):
        yield [(items[0],), *rest]
        for i, part in enumerate(rest):
            yield [*rest[:i], (items[0], *part), *rest[i + 1 :]]


def all_orders(names: tuple[str, ...]) -> Iterator[tuple[Stage, ...]]:
    """Every sequence of stages of `names`, valid or not, with groups in the given order."""
    for groups in set_partitions(names):
        for stages in set_partitions(tuple(map(str, range(len(groups))))):
            made = [Stage(tuple(groups[int(i)] for i in stage)) for stage in stages]
            yield from itertools.permutations(made)


def exhaustive_ms(case: Case, devices: tuple[str, ...]) -> float:
    """Try every schedule on `devices`; the evaluator refuses those that are none."""
    names = tuple(op.name for op in case.graph.operators)  # topological
    best = float("inf")
    for places in itertools.product(devices, repeat=len(names)):
        of_device = {
            d: tuple(n for n, p in zip(names, places, strict=True) if p == d) for d in devices
        }
        for orders in itertools.product(*(all_orders(of_device[d]) for d in devices)):
            for made in positioned(case, devices, orders):
                try:
                    best = min(best, makespan_ms(case, made))
                except ScheduleError:
                    continue
    return best


def positioned(
    case: Case, devices: tuple[str, ...], orders: tuple[tuple[Stage, ...], ...]
) -> Iterator[Schedule]:
    """The schedule of these stages; where devices share cores, one for each common order."""
    labels = [d for d, stages in enumerate(orders) for _ in stages]
    for merged in set(itertools.permutations(labels)) if case.platform.shares_cores else [labels]:
        places = [[i for i, label in enumerate(merged) if label == d] for d in range(len(orders))]
        yield Schedule(
            "exhaustive",
            tuple(
                DeviceSchedule(name, tuple(map(replace_position, stages, own)))
                for name, stages, own in zip(devices, orders, places, strict=True)
            ),
        )


def replace_position(stage: Stage, position: int) -> Stage:
    return replace(stage, position=position)


State = tuple[frozenset[str], tuple[float, ...], frozenset[tuple[str, int, float]]]
"""Operators done, when each unit is free, and where and when what others still need was made."""


def layered_ms(case: Case, most_groups: int) -> float:
    """Append stages of up to `most_groups` groups in every way, and keep all states: no bounds.

    What can still happen depends on the state alone, so each is kept once.
    """
    names = [op.name for op in case.graph.operators]
    edges = [(edge.src, edge.dst) for edge in case.graph.edges]
    before = {name: frozenset(a for a, b in edges if b == name) for name in names}
    platform = case.platform
    transfer_ms = {
        (edge.src, edge.dst, a, b): case.costs.transfer_ms(
            edge, platform, platform.devices[a].name, platform.devices[b].name
        )
        for edge in case.graph.edges
        for a in range(len(platform.devices))
        for b in range(len(platform.devices))
    }
    start: State = (frozenset(), (0.0,) * platform.unit_count, frozenset())
    layers: list[set[State]] = [{start}, *(set() for _ in names)]
    for layer in layers[:-1]:
        for done, free_ms, made in layer:
            ended = {name: (device, end_ms) for name, device, end_ms in made}
            left = [name for name in names if name not in done]
            for stage in stages_of(left, done, before, edges, most_groups):
                members = frozenset(itertools.chain(*stage))
                for d, device in enumerate(platform.devices):
                    if len(stage) > device.streams:
                        continue
                    arrivals = [
                        ended[a][1] + transfer_ms[a, b, ended[a][0], d]
                        for a, b in edges
                        if b in members and a in done
                    ]
                    units = platform.units[d]
                    begin_ms = max([*map(free_ms.__getitem__, units), *arrivals])
                    end_ms = begin_ms + case.costs.stage_ms(stage, device.model)
                    now_done = done | members
                    kept = {
                        (name, where, when)
                        for name, where, when in made
                        if any(a == name and b not in now_done for a, b in edges)
                    } | {
                        (name, d, end_ms)
                        for name in members
                        if any(a == name and b not in now_done for a, b in edges)
                    }
                    free = list(free_ms)
                    for unit in units:
                        free[unit] = end_ms
                    layers[len(now_done)].add((now_done, tuple(free), frozenset(kept)))
    return min(max(free_ms) for _, free_ms, _ in layers[-1])


def stages_of(
    left: list[str],
    done: frozenset[str],
    before: dict[str, frozenset[str]],
    edges: list[tuple[str, str]],
    most_groups: int,
) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Stages that may come next: one operator, or several independent groups."""
    yield from (((name,),) for name in left if before[name] <= done)
    if most_groups < 2:
        return
    for size in range(2, len(left) + 1):
        for members in itertools.combinations(left, size):  # in topological order
            if all(before[name] <= done | set(members) for name in members):
                for groups in set_partitions(members):
                    where = {name: i for i, group in enumerate(groups) for name in group}
                    crossed = any(
                        a in where and b in where and where[a] != where[b] for a, b in edges
                    )
                    if 2 <= len(groups) <= most_groups and not crossed:
                        yield tuple(groups)
