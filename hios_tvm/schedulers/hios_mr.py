"""HIOS-MR: operators are mapped one by one, with one recorded mapping for each device."""

from __future__ import annotations

from dataclasses import dataclass

from hios_tvm.costs.table import CostTable
from hios_tvm.devices import Platform
from hios_tvm.graph import OperatorGraph
from hios_tvm.schedule import Schedule
from hios_tvm.schedulers.list_schedule import Clock, advance
from hios_tvm.schedulers.problem import Problem
from hios_tvm.schedulers.window import WindowOptions, group_in_window

__all__ = ["MappingRecordingOptions", "hios_mr"]


@dataclass(frozen=True, kw_only=True)
class MappingRecordingOptions(WindowOptions):
    """Options of HIOS-MR: those of its window."""


def hios_mr(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: MappingRecordingOptions
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
    records = [Clock.at_start(problem)]
    for v in problem.priority:
        records = [_extended(problem, records, v, device) for device in problem.runs_on(v)]
    best = min(records, key=lambda record: (max(record.free_ms), record.sum_ms))
    stages = [problem.single(v, best.device[v]) for v in problem.priority]
    start = Clock.at_start(problem)
    return problem.schedule("hios-mr", group_in_window(problem, start, stages, options))


def _extended(problem: Problem, records: list[Clock], v: int, device: int) -> Clock:
    """Return the record in which `v` ends first on `device`, with `v` there."""
    stage = problem.single(v, device)

    def start_ms(record: Clock) -> float:
        now_ms = record.free_ms[device]
        for u, transfer_ms in stage.inputs:
            now_ms = max(now_ms, record.end_ms[u] + transfer_ms[record.device[u]])
        return now_ms

    source = min(records, key=lambda record: (start_ms(record), record.sum_ms))
    record = source.copy()
    advance(record, [stage])
    return record
