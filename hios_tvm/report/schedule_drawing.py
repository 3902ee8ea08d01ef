"""Schedules of one graph as timelines, without an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from hios_tvm.artifact.predict import predict
from hios_tvm.report.timeline import Timeline, number_nodes, scheduled_timeline
from hios_tvm.report.timeline_drawing import draw_timelines
from hios_tvm.report.words import milliseconds
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.schedule import Schedule


def draw_schedules(schedules: Mapping[str, Schedule], instance: Instance) -> Element:
    """Draw what the evaluator expects of each schedule, one above the other on one time axis.

    Operators are numbered in the order of the graph.
    """
    graph, costs, platform = instance.graph, instance.costs, instance.platform
    kernels = {operator.name: operator.kernel for operator in graph.operators}
    nodes = number_nodes(kernels, kernels, graph)
    panels: dict[str, Timeline] = {}
    for name, schedule in schedules.items():
        prediction = predict(graph, costs, platform, schedule)
        timeline = scheduled_timeline(nodes, schedule, prediction)
        panels[f"{name}: {milliseconds(timeline.makespan_ms)}"] = timeline
    return draw_timelines([(device.name, 0) for device in platform.devices], panels)
