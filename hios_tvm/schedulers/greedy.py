"""IOS's greedy baseline: every stage takes all that is ready."""

from hios_tvm.schedulers.one_device import NoOptions, best_device
from hios_tvm.schedulers.problem import PlacedStage, Problem
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule


def greedy(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: NoOptions
) -> Schedule:
    """Run all operators on one device, as many of those that are ready at once as it has streams.

    Raises
    ------
    InfeasibleError
        If no device can run every operator.

    References
    ----------
    .. [1] Ding et al., "IOS: Inter-Operator Scheduler for CNN Acceleration", MLSys 2021, section 6.
    """
    problem = Problem.of(graph, costs, platform)
    return problem.schedule("greedy", best_device(problem, _stages))


def _stages(problem: Problem, device: int) -> list[PlacedStage]:
    waits_for = [len(problem.predecessors[v]) for v in problem.operators]
    ready = [v for v in problem.operators if not waits_for[v]]
    streams = max(1, problem.platform.devices[device].streams)
    stages: list[PlacedStage] = []
    while ready:
        members, ready = ready[:streams], ready[streams:]
        stages.append(problem.stage(tuple((v,) for v in members), device))
        for v in members:
            for w, _ in problem.successors[v]:
                waits_for[w] -= 1
                if not waits_for[w]:
                    ready.append(w)
    return stages
