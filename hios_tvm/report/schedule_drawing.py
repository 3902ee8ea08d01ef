"""Schedules of one graph as timelines, without an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from hios_tvm.report.timeline import Timeline, number_nodes, scheduled_timeline
from hios_tvm.report.timeline_drawing import draw_timelines
from hios_tvm.report.words import milliseconds
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.schedule import Schedule


def draw_schedules(schedules: Mapping[str, Schedule], instance: Instance) -> Element:
    """Draw what the evaluator expects of each schedule, one above the other on one time axis.

    Operators are numbered in the order of the graph.
    """
    graph, costs, platform = instance.graph, instance.costs, instance.platform
    kernels = {operator.name: operator.kernel for operator in graph.operators}
    nodes = number_nodes(kernels, kernels, graph)
    model = {device.name: device.model for device in platform.devices}

    def cost_ms(operator: str, device: str) -> float:
        return costs.latency_ms(operator, model[device])

    panels: dict[str, Timeline] = {}
    for name, schedule in schedules.items():
        evaluation = evaluate(graph, costs, platform, schedule)
        timeline = scheduled_timeline(nodes, schedule, evaluation, cost_ms)
        panels[f"{name}: {milliseconds(timeline.makespan_ms)}"] = timeline
    used = {bar.stream for timeline in panels.values() for bar in timeline.bars}
    order = list(model)
    streams = sorted(used | {(name, 0) for name in order}, key=lambda s: (order.index(s[0]), s[1]))
    return draw_timelines(streams, panels)
