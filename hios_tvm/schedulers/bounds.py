"""Lower bounds of the makespan."""

import math
from itertools import permutations

from hios_tvm.schedulers.relaxation import Neighbours, Relaxation, interval_bound_ms, path_bound_ms
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Device, Platform

ROUNDING = 1e-12
"""Share by which sums in another order may differ."""


def lower_bound_ms(graph: OperatorGraph, costs: CostTable, platform: Platform) -> float:
    """Return a lower bound of every makespan, in milliseconds.

    The larger of two, each operator on its fastest device:

    - the longest path: an operator waits for its sources, which its device runs one after another
      or which pay a transfer;
    - the work between earliest starts and latest ends (`interval_bound_ms`). In a stage an operator
      takes at least ``a*w + (1-a)*w*u`` of its device's time (the analytic model), on as many cores
      as the device has; all of it, where every other operator must come before or after it.

    Measured joint times may be shorter, and then count as they are.

    Notes
    -----
    Some 10 ms for 200 operators on 4 devices, and a second for 10,000 on 8.
    """
    if not graph.operators:
        return 0.0
    relaxed = _relaxed(graph, costs, platform)
    saved_ms, saved_work_ms = _saved_by_joint_stages(graph, costs, platform)
    longest_ms = max(
        path_bound_ms(relaxed),
        interval_bound_ms(relaxed, _most_work_at_once(platform), saved_work_ms),
    )
    return max(0.0, longest_ms - saved_ms) * (1.0 - ROUNDING)


def least_work_ms(costs: CostTable, platform: Platform, operator: str) -> float:
    """Return the least time that `operator` adds to a stage, times the cores that the stage takes.

    The analytic model says the time; a measured joint time may be shorter.
    """
    able = [device for device in platform.devices if costs.runs_on(operator, device.model)]
    return min(device.width * _occupied_ms(costs, device, operator) for device in able)


def _occupied_ms(costs: CostTable, device: Device, operator: str, alone: bool = False) -> float:
    if alone or device.streams <= 1:
        return costs.latency_ms(operator, device.model)
    return costs.least_stage_ms(operator, device.model)


def _relaxed(graph: OperatorGraph, costs: CostTable, platform: Platform) -> Relaxation:
    index = {op.name: v for v, op in enumerate(graph.operators)}
    sources: Neighbours = [[] for _ in index]
    readers: Neighbours = [[] for _ in index]
    links = {platform.link(a.name, b.name) for a, b in permutations(platform.devices, 2)}
    for edge in graph.edges:
        given = costs.transfer.get((edge.src, edge.dst))
        moved = [link.transfer_ms(edge.nbytes) if given is None else given.ms for link in links]
        least_ms = min(moved, default=math.inf)
        sources[index[edge.dst]].append((index[edge.src], least_ms))
        readers[index[edge.src]].append((index[edge.dst], least_ms))
    able = [
        [device for device in platform.devices if costs.runs_on(name, device.model)]
        for name in index
    ]
    alone = _in_stages_of_one_group(sources, readers)
    latency_ms, occupied_ms, work_ms = [], [], []
    for name, devices, is_alone in zip(index, able, alone, strict=True):
        occupied = [_occupied_ms(costs, device, name, is_alone) for device in devices]
        latency_ms.append(min(costs.latency_ms(name, device.model) for device in devices))
        occupied_ms.append(min(occupied))
        work_ms.append(min(d.width * ms for d, ms in zip(devices, occupied, strict=True)))
    width = [max(device.width for device in devices) for devices in able]
    return Relaxation(latency_ms, occupied_ms, work_ms, width, sources, readers)


def _in_stages_of_one_group(sources: Neighbours, readers: Neighbours) -> list[bool]:
    """Return which operators depend on, or lead to, every other one: no group runs beside them."""
    count = len(sources)
    related = [1] * count
    for order, edges in ((range(count), sources), (range(count - 1, -1, -1), readers)):
        reached = [0] * count
        for v in order:
            for u, _ in edges[v]:
                reached[v] |= reached[u] | 1 << u
            related[v] += reached[v].bit_count()
    return [number == count for number in related]


def _most_work_at_once(platform: Platform) -> float:
    """Return how much work all cores do in a millisecond at most.

    Devices slow each other down, but not themselves: the most is done by the widest ones.
    """
    widest = max(device.width for device in platform.devices)
    return max(
        busy / platform.slowdown(busy - min(busy, widest))
        for busy in range(1, platform.unit_count + 1)
    )


def _saved_by_joint_stages(
    graph: OperatorGraph, costs: CostTable, platform: Platform
) -> tuple[float, float]:
    """Return how much less time, and work, measured stages of a schedule take than the model says.

    No operator is in two stages: the sum is no more than that of the most that each can save.
    """
    time_ms: dict[str, float] = {}
    work_ms: dict[str, float] = {}
    for model, joint in costs.joint.items():
        widths = [device.width for device in platform.devices if device.model == model]
        for groups, measurement in joint.items() if widths else ():
            names = [name for group in groups for name in group]
            if all(name in graph.operator and costs.runs_on(name, model) for name in names):
                saved_ms = costs.modelled_stage_ms(groups, model) - measurement.ms
                for name in names if saved_ms > 0.0 else ():
                    share_ms = saved_ms / len(names)
                    time_ms[name] = max(time_ms.get(name, 0.0), share_ms)
                    work_ms[name] = max(work_ms.get(name, 0.0), share_ms * max(widths))
    return sum(time_ms.values()), sum(work_ms.values())
