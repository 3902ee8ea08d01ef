"""Pipelines that artifacts execute: each device has a contiguous part of the operators.

Every device works on one input after another (`hios_tvm.runtime.pipeline`). Where no path leaves a
device and comes back, it never waits for what others make of the same input, once the pipeline is
full: a result comes whenever the device with the largest load is done.
"""

from __future__ import annotations

from hios_tvm.schedulers.throughput import Pipeline, device_loads_ms
from hios_tvm.schedulers.throughput_bounds import interval_bound_ms
from hios_tvm.schedulers.throughput_contiguous import contiguous_split
from hios_tvm.schedulers.throughput_platform import throughput_problem
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

MAX_IDEALS = 3000
"""Of graphs with as many ideals the best split is found, of others the best in one order."""


def contiguous_pipeline(graph: OperatorGraph, costs: CostTable, platform: Platform) -> Pipeline:
    """Return the contiguous split with the least interval, its loads, and a lower bound.

    Devices must not share cores. The bound is one of all placements on these devices.

    Raises
    ------
    CostError
        If an operator can run on no device.
    InfeasibleError
        If memory allows no contiguous split.
    """
    problem = throughput_problem(graph, costs, platform)
    device_of = contiguous_split(problem, MAX_IDEALS).device_of
    return Pipeline(device_of, device_loads_ms(problem, device_of), interval_bound_ms(problem))


def pipeline_schedule(graph: OperatorGraph, pipeline: Pipeline, platform: Platform) -> Schedule:
    """Return the schedule in which each device runs its operators one after another.

    The devices of `platform` do not share cores.
    """
    return Schedule(
        "pipeline",
        tuple(
            DeviceSchedule(
                device.name,
                tuple(
                    Stage(((operator.name,),))
                    for operator, place in zip(graph.operators, pipeline.device_of, strict=True)
                    if place == d
                ),
                device.memory,
            )
            for d, device in enumerate(platform.devices)
        ),
    )


def pipeline_interval_ms(
    graph: OperatorGraph, costs: CostTable, platform: Platform, schedule: Schedule
) -> float:
    """Return the largest load of the devices of `platform` where operators lie as in `schedule`."""
    index = {device.name: d for d, device in enumerate(platform.devices)}
    device_of = [index[schedule.placement[operator.name]] for operator in graph.operators]
    return max(device_loads_ms(throughput_problem(graph, costs, platform), device_of))
