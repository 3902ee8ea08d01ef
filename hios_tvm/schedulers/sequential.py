"""All operators on one device, one after another: the baseline of everything."""

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
    problem = Problem.of(graph, costs, platform)
    stages = best_device(problem, lambda _, d: [problem.single(v, d) for v in problem.operators])
    return problem.schedule("sequential", stages)
