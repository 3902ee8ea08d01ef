"""All operators on one device, one after another: the baseline of everything."""

from collections.abc import Iterable
from dataclasses import replace

from hios_tvm.errors import InfeasibleError
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schedulers.one_device import NoOptions, best_device
from hios_tvm.schedulers.problem import Problem
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule


def sequential(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: NoOptions
) -> Schedule:
    """Run the operators in topological order on the device that takes the least time for all.

    Raises
    ------
    InfeasibleError
        If no device can run every operator.
    """
    return sequential_on(range(len(platform.devices)), graph, costs, platform)


def sequential_on(
    devices: Iterable[int], graph: OperatorGraph, costs: CostTable, platform: Platform
) -> Schedule:
    """Run the operators in topological order on the one of `devices` that takes the least time.

    Raises
    ------
    InfeasibleError
        If none of them can run every operator.
    """
    problem = Problem.of(graph, costs, platform)
    stages = best_device(
        problem, lambda _, d: [problem.single(v, d) for v in problem.operators], devices
    )
    return problem.schedule("sequential", stages)


def or_sequential(
    graph: OperatorGraph, costs: CostTable, platform: Platform, schedule: Schedule
) -> Schedule:
    """Return `schedule`, or under its name all operators on one device where those end earlier."""
    try:
        other = sequential(graph, costs, platform, NoOptions())
    except InfeasibleError:
        return schedule
    best = min(schedule, other, key=lambda made: evaluate(graph, costs, platform, made).makespan_ms)
    return replace(best, scheduler=schedule.scheduler)
