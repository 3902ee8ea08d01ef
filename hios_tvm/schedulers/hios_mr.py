"""HIOS-MR: operators are mapped one by one, with one recorded mapping for each device."""

from hios_tvm.schedulers.gaps import in_gaps
from hios_tvm.schedulers.list_schedule import Clock, advance
from hios_tvm.schedulers.memory import Memory
from hios_tvm.schedulers.problem import Problem
from hios_tvm.schedulers.window import WindowOptions, group_in_window
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule

Record = tuple[Clock, Memory]
"""A mapping of the first operators: their times, and what they leave free."""


def hios_mr(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: WindowOptions
) -> Schedule:
    """Map operators in the order of their upward rank, then group them with a sliding window.

    The record (i, d) is a mapping of the first i operators that puts the last of them on device d.
    It extends the record of the operator before that makes it end first. The answer is the record
    with the smallest makespan: a beam search as wide as there are devices.

    Raises
    ------
    CostError
        If an operator can run on no device.

    Notes
    -----
    O(D^2 (V + E) + D V^2) for V operators, E edges and D devices; the second term copies records,
    and is small.

    References
    ----------
    .. [1] Kundu and Shu, "HIOS: Hierarchical Inter-Operator Scheduler for Real-Time Inference of
       DAG-Structured Deep Learning Models on Multiple GPUs", IEEE CLUSTER 2023, section IV.
    """
    problem = Problem.of(graph, costs, platform)
    records = [(Clock.at_start(problem), Memory(problem))]
    for v in problem.priority:
        extended = (_extended(problem, records, v, device) for device in problem.runs_on(v))
        following = [record for record in extended if record is not None]
        if not following:
            raise records[0][1].full(v)
        records = following
    best, _ = min(records, key=lambda record: (max(record[0].free_ms), record[0].sum_ms))
    stages = [problem.single(v, best.device[v]) for v in problem.priority]
    start = Clock.at_start(problem)
    stages = in_gaps(problem, start, stages)
    return problem.schedule("hios-mr", group_in_window(problem, start, stages, options))


def _extended(problem: Problem, records: list[Record], v: int, device: int) -> Record | None:
    """Return the record in which `v` ends first on `device`, with `v` there, if it has room."""
    stage = problem.single(v, device)

    def start_ms(clock: Clock) -> float:
        now_ms = clock.free_ms[device]
        for u, transfer_ms in stage.inputs:
            now_ms = max(now_ms, clock.end_ms[u] + transfer_ms[clock.device[u]])
        return now_ms

    with_room = [record for record in records if record[1].fits(device, (v,))]
    if not with_room:
        return None
    clock, memory = min(with_room, key=lambda record: (start_ms(record[0]), record[0].sum_ms))
    clock = clock.copy()
    advance(clock, [stage])
    return clock, memory.after([stage])
