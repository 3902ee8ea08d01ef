"""Lower bounds of the makespan."""

import numpy as np

from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform

MAX_HEADS = 512
"""How many earliest starts the third bound looks at: all of them in graphs up to this size."""


def lower_bound_ms(graph: OperatorGraph, costs: CostTable, platform: Platform) -> float:
    """Return a lower bound of every makespan, in milliseconds.

    The largest of three, each operator on its fastest device and every transfer left out:

    - the critical path;
    - the work that all cores, or devices without cores, must share: in a stage an operator takes
      at least ``a*w + (1-a)*w*u`` of its device's time (the analytic model), on as many cores as
      the device has. Measured joint times may be shorter, and then count as they are;
    - for each pair (h, t), the work of the operators that cannot start before h and have at least
      t behind them, shared by all cores, between h and t.

    Notes
    -----
    O(V^2) numpy operations for V operators up to `MAX_HEADS`, O(V log V) beyond.
    """
    if not graph.operators:
        return 0.0
    models = {device.model for device in platform.devices}
    fastest = {
        op.name: min(costs.latency_ms(op.name, m) for m in models if costs.runs_on(op.name, m))
        for op in graph.operators
    }
    head, tail = _heads_and_tails(graph, fastest)
    path_ms = max(head[name] + fastest[name] + tail[name] for name in fastest)

    names = list(fastest)
    work_ms = {name: least_work_ms(costs, platform, name) for name in names}
    saved_ms, saved_on_path_ms = _saved_by_joint_stages(costs, platform, fastest, work_ms)
    speed = _most_work_at_once(platform)
    interval_ms = _interval_bound(
        np.array([head[name] for name in names]),
        np.array([tail[name] for name in names]),
        np.array([work_ms[name] for name in names]),
        speed,
    )
    return max(0.0, path_ms - saved_on_path_ms, interval_ms - saved_ms / speed)


def least_work_ms(costs: CostTable, platform: Platform, operator: str) -> float:
    """Return the least time that `operator` adds to a stage, times the cores that the stage takes.

    The analytic model says the time; a measured joint time may be shorter.
    """
    able = [device for device in platform.devices if costs.runs_on(operator, device.model)]
    if any(device.streams > 1 for device in platform.devices):
        return min(d.width * costs.least_stage_ms(operator, d.model) for d in able)
    return min(d.width * costs.latency_ms(operator, d.model) for d in able)


def _most_work_at_once(platform: Platform) -> float:
    """Return how much work all cores do in a millisecond at most.

    Devices slow each other down, but not themselves: the most is done by the widest ones.
    """
    widest = max(device.width for device in platform.devices)
    return max(
        busy / platform.slowdown(busy - min(busy, widest))
        for busy in range(1, platform.unit_count + 1)
    )


def _heads_and_tails(
    graph: OperatorGraph, latency_ms: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the longest path before, and after, each operator."""
    head = dict.fromkeys(latency_ms, 0.0)
    tail = dict.fromkeys(latency_ms, 0.0)
    for edge in graph.edges:  # ordered by consumers, which are in topological order
        head[edge.dst] = max(head[edge.dst], head[edge.src] + latency_ms[edge.src])
    by_producer: dict[str, list[str]] = {}
    for edge in graph.edges:
        by_producer.setdefault(edge.src, []).append(edge.dst)
    for op in reversed(graph.operators):
        for dst in by_producer.get(op.name, ()):
            tail[op.name] = max(tail[op.name], tail[dst] + latency_ms[dst])
    return head, tail


def _interval_bound(head: np.ndarray, tail: np.ndarray, work: np.ndarray, speed: float) -> float:
    """Return the largest ``h + work(head >= h, tail >= t) / speed + t``; (0, 0) is among them."""
    order = np.argsort(-tail, kind="stable")
    head, tail, work = head[order], tail[order], work[order]
    heads = np.unique(head)
    if len(heads) > MAX_HEADS:
        heads = heads[np.linspace(0, len(heads) - 1, MAX_HEADS).astype(int)]
    best = 0.0
    for h in heads:
        behind = np.cumsum(np.where(head >= h, work, 0.0))  # of the operators up to each tail
        inside = behind > 0.0
        if inside.any():
            best = max(best, float(np.max((h + behind / speed + tail)[inside])))
    return best


def _saved_by_joint_stages(
    costs: CostTable,
    platform: Platform,
    fastest: dict[str, float],
    least_work_ms: dict[str, float],
) -> tuple[float, float]:
    """Return how much less work all measured stages are than their operators, and than a path."""
    saved_ms = saved_on_path_ms = 0.0
    for model, joint in costs.joint.items():
        widths = [device.width for device in platform.devices if device.model == model]
        for groups, measurement in joint.items() if widths else ():
            work_ms = sum(least_work_ms.get(name, 0.0) for group in groups for name in group)
            saved_ms += max(0.0, work_ms - min(widths) * measurement.ms)
            alone_ms = max(sum(fastest.get(name, 0.0) for name in group) for group in groups)
            saved_on_path_ms += max(0.0, alone_ms - measurement.ms)
    return saved_ms, saved_on_path_ms
