"""What no schedule can beat."""

from __future__ import annotations

import math

from hios_tvm.costs.table import ALPHA, CostTable
from hios_tvm.devices import Platform
from hios_tvm.graph import OperatorGraph

__all__ = ["lower_bound_ms"]


def lower_bound_ms(graph: OperatorGraph, costs: CostTable, platform: Platform) -> float:
    """Return a lower bound of every makespan, in milliseconds.

    The larger one of the critical path without transfers, each operator on its fastest device, and
    of the work that all devices must share. In a stage an operator takes at least
    ``a*w + (1-a)*w*u`` of its device's time (the analytic model); measured joint times may be
    shorter, and then count as they are.
    """
    models = {device.model for device in platform.devices}
    fastest = {
        op.name: min(costs.latency_ms(op.name, m) for m in models if costs.runs_on(op.name, m))
        for op in graph.operators
    }
    length: dict[str, float] = {}
    arrival = dict.fromkeys(fastest, 0.0)
    consumers: dict[str, list[str]] = {name: [] for name in fastest}
    for edge in graph.edges:
        consumers[edge.src].append(edge.dst)
    for op in graph.operators:
        length[op.name] = arrival[op.name] + fastest[op.name]
        for consumer in consumers[op.name]:
            arrival[consumer] = max(arrival[consumer], length[op.name])
    path_ms = max(length.values(), default=0.0)

    shared = any(device.streams > 1 for device in platform.devices)
    work_ms = 0.0
    for name, latency_ms in fastest.items():
        utilization = costs.utilization.get(name, 1.0) if shared else 1.0
        work_ms += latency_ms * (ALPHA + (1.0 - ALPHA) * utilization)
    for joint in costs.joint.values():
        for groups, measurement in joint.items():
            alone = sum(fastest.get(name, math.inf) for group in groups for name in group)
            if measurement.ms < alone < math.inf:
                work_ms -= alone - measurement.ms
    # n devices that slow each other down do as much together as n / slowdown(n) alone.
    count = len(platform.devices)
    return max(path_ms, work_ms * platform.slowdown(count) / count)
