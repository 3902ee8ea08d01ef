"""HEFT: operators by upward rank, each where it ends first, in gaps too; then the window."""

from bisect import bisect_left

from hios_tvm.schedulers.list_schedule import Clock
from hios_tvm.schedulers.memory import Memory
from hios_tvm.schedulers.problem import PlacedStage, Problem
from hios_tvm.schedulers.window import WindowOptions, group_in_window
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule

Interval = tuple[float, float]
"""Start and end of a time without a gap on a device."""


def heft(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: WindowOptions
) -> Schedule:
    """Put each operator, by descending upward rank, on the device where it ends first.

    An operator may go into a gap between two others. The window of HIOS then groups small ones.

    Raises
    ------
    CostError
        If an operator can run on no device.

    Notes
    -----
    O(D (V G + E)) for V operators, E edges, D devices and G gaps after an operator's inputs.

    References
    ----------
    .. [1] Topcuoglu, Hariri and Wu, "Performance-Effective and Low-Complexity Task Scheduling for
       Heterogeneous Computing", IEEE TPDS 13(3), 2002.
    """
    problem = Problem.of(graph, costs, platform)
    stages = group_in_window(
        problem, Clock.at_start(problem), earliest_finish_order(problem), options
    )
    return problem.schedule("heft", stages)


def earliest_finish_order(problem: Problem) -> list[PlacedStage]:
    """Return HEFT's mapping: one operator a stage, by start time."""
    busy: list[list[Interval]] = [[] for _ in problem.devices]
    end_ms = [0.0] * len(problem.operators)
    place = [0] * len(problem.operators)
    memory = Memory(problem)
    starts: list[tuple[float, int, PlacedStage]] = []
    for rank, v in enumerate(problem.priority):
        best: tuple[float, float, PlacedStage] | None = None
        for device in problem.runs_on(v):
            if not memory.fits(device, (v,)):
                continue
            stage = problem.single(v, device)
            ready_ms = max((end_ms[u] + times[place[u]] for u, times in stage.inputs), default=0.0)
            start_ms = _first_gap(busy[device], ready_ms, stage.ms)
            if best is None or start_ms + stage.ms < best[0]:
                best = start_ms + stage.ms, start_ms, stage
        if best is None:
            raise memory.full(v)
        end_ms[v], start_ms, stage = best
        place[v] = stage.device
        memory.take(stage.device, (v,))
        _occupy(busy[stage.device], start_ms, end_ms[v])
        starts.append((start_ms, rank, stage))
    # By start, and by rank where operators without duration start together: both topological.
    return [stage for _, _, stage in sorted(starts, key=lambda entry: entry[:2])]


def _first_gap(busy: list[Interval], ready_ms: float, duration_ms: float) -> float:
    """Return the first start, at or after `ready_ms`, of a gap of `duration_ms`."""
    now_ms = ready_ms
    for i in range(max(0, bisect_left(busy, (ready_ms, ready_ms)) - 1), len(busy)):
        start_ms, end_ms = busy[i]
        if now_ms + duration_ms <= start_ms:
            break
        now_ms = max(now_ms, end_ms)
    return now_ms


def _occupy(busy: list[Interval], start_ms: float, end_ms: float) -> None:
    """Add an interval, and join it with its neighbours where there is no gap between them."""
    i = bisect_left(busy, (start_ms, end_ms))
    if i < len(busy) and busy[i][0] <= end_ms:
        end_ms = max(end_ms, busy.pop(i)[1])
    if i and busy[i - 1][1] >= start_ms:
        start_ms = busy[i - 1][0]
        end_ms = max(end_ms, busy.pop(i - 1)[1])
        i -= 1
    busy.insert(i, (start_ms, end_ms))
