"""All operators on one device, one after another: the baseline of everything."""

from __future__ import annotations

from dataclasses import dataclass

from hios_tvm.schedulers.one_device import best_device
from hios_tvm.schedulers.problem import PlacedStage, Problem
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class SequentialOptions:
    """There is nothing to choose."""


def sequential(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: SequentialOptions
) -> Schedule:
    """Run the operators in topological order on the device that takes the least time for all.

    Raises
    ------
    InfeasibleError
        If no device can run every operator.
    """
    problem = Problem.of(graph, costs, platform)
    return problem.schedule("sequential", best_device(problem, _stages))


def _stages(problem: Problem, device: int) -> list[PlacedStage]:
    return [problem.single(v, device) for v in problem.operators]
