"""HIOS-LP: operators are mapped to devices along longest paths, then grouped by a window."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hios_tvm.errors import UsageError
from hios_tvm.schedulers.gaps import in_gaps
from hios_tvm.schedulers.list_schedule import Clock, Outcome, Timed, advance
from hios_tvm.schedulers.memory import Memory
from hios_tvm.schedulers.problem import PlacedStage, Problem
from hios_tvm.schedulers.sequential import or_sequential
from hios_tvm.schedulers.window import WindowOptions, group_in_window
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class LongestPathOptions(WindowOptions):
    """Options of HIOS-LP.

    Attributes
    ----------
    passes : int
        How often, at most, each path is taken off its device and mapped anew once all are mapped;
        0 is the published algorithm.
    block : int
        Operators that are mapped together. A larger graph is cut along the priority order, so that
        time grows with its size and not with the square of it.
    """

    passes: int = 2
    block: int = 250

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes < 0 or self.block < 1:
            raise UsageError(
                f"passes must not be negative and block at least 1, got {self.passes} and "
                f"{self.block}"
            )


def hios_lp(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: LongestPathOptions
) -> Schedule:
    """Map operators along longest paths to devices, then group them with a sliding window.

    The first step takes the longest path of operators that are not mapped yet, in which only the
    first operator may have mapped predecessors and only the last one mapped successors, and puts
    it where the mapped part of the graph ends first. A path stays on one device, so that only its
    two ends pay transfers.

    Where devices share cores, this is done once for each size of devices (single cores, pairs, and
    so on to all cores). Each operator may then take more or fewer cores than its path, and the best
    result of all sizes is kept; if one device alone is faster, it gets everything.

    Raises
    ------
    CostError
        If an operator can run on no device.

    Notes
    -----
    O(P (V + E) D) for P paths, V operators, E edges and D devices within a block, and linear in
    the number of blocks. Times in milliseconds.

    References
    ----------
    .. [1] Kundu and Shu, "HIOS: Hierarchical Inter-Operator Scheduler for Real-Time Inference of
       DAG-Structured Deep Learning Models on Multiple GPUs", IEEE CLUSTER 2023, section IV.
    """
    problem = Problem.of(graph, costs, platform)
    clock = Clock.at_start(problem)
    memory = Memory(problem)
    order: list[PlacedStage] = []
    for first in range(0, len(problem.operators), options.block):
        block = problem.priority[first : first + options.block]
        stages = _map_block(problem, clock, memory, block, options.passes)
        memory = memory.after(stages)
        stages = group_in_window(problem, clock, stages, options)
        advance(clock, stages)
        order += stages
    schedule = problem.schedule("hios-lp", order)
    if not platform.shares_cores:
        return schedule
    return or_sequential(graph, costs, platform, schedule)


def _map_block(
    problem: Problem, start: Clock, memory: Memory, block: Sequence[int], passes: int
) -> list[PlacedStage]:
    """Return the operators of `block` on their devices, in a topological order."""
    if not problem.platform.shares_cores or memory.limited:
        return _map_paths(problem, start, memory, block, problem.devices, passes).stages
    mapped = []
    for devices in problem.of_one_size:
        timed = _map_paths(problem, start, memory, block, devices, passes)
        for _ in range(passes):
            before = timed.outcome
            timed = Timed(start, in_gaps(problem, start, timed.stages))
            _resize(problem, timed)
            if timed.outcome >= before:
                break
        mapped.append(timed)
    best = min(mapped, key=lambda timed: timed.outcome)
    return in_gaps(problem, start, best.stages)


def _resize(problem: Problem, timed: Timed) -> None:
    """Give each operator the next larger or smaller device with its cores, where that pays."""
    for i, stage in enumerate(timed.stages):
        (v,) = stage.operators
        best, tail = timed.outcome, None
        for device in problem.next_sizes[stage.device]:
            if problem.latency_ms[v][device] == math.inf:
                continue
            candidate = [problem.single(v, device), *timed.stages[i + 1 :]]
            outcome = timed.try_tail(i, candidate)
            if outcome < best:
                best, tail = outcome, candidate
        if tail is not None:
            timed.replace(i, tail)


def _map_paths(
    problem: Problem,
    start: Clock,
    memory: Memory,
    block: Sequence[int],
    devices: Sequence[int],
    passes: int,
) -> Timed:
    """Map the operators of `block` to those of `devices` that can run them, in the same order."""
    position = {v: i for i, v in enumerate(block)}
    timed = Timed(start)
    mapped: list[int] = []  # positions of the stages in `timed`
    paths: list[list[int]] = []
    todo = list(_longest_paths(problem, block))[::-1]
    while todo:
        path = todo.pop()
        left = memory.after(timed.stages)
        first = bisect_left(mapped, position[path[0]])
        following = sorted([*mapped[first:], *(position[v] for v in path)])
        operators = [block[i] for i in following]
        if _map_path(problem, timed, left, first, operators, path, devices):
            mapped[first:] = following
            paths.append(path)
        elif len(path) == 1:
            raise left.full(path[0])
        else:  # no device has room for the whole path
            todo += [[v] for v in reversed(path)]
    for _ in range(passes):
        before = timed.outcome
        for path in paths:
            first = position[path[0]]
            left = memory.after(timed.stages)
            left.release(timed.stages[first].device, path)
            _map_path(problem, timed, left, first, block[first:], path, devices)
        if timed.outcome >= before:
            break
    return timed


def _map_path(
    problem: Problem,
    timed: Timed,
    memory: Memory,
    first: int,
    operators: Sequence[int],
    path: Sequence[int],
    devices: Sequence[int],
) -> bool:
    """Put `path` where all that is mapped ends first; return whether any device has room for it.

    `operators` are to be at position `first` of `timed` and after it; those of the path come from
    another device or from none. Of equal makespans the smallest sum of ends wins: with the
    device's index alone, some devices would never be used.
    """
    old = {stage.operators[0]: stage for stage in timed.stages[first:]}
    best: tuple[Outcome, list[PlacedStage]] | None = None
    able = problem.runs_on(path[0])
    for device in [d for d in able if d in devices] or able:
        if not memory.fits(device, path):
            continue
        new = {v: problem.single(v, device) for v in path}
        tail = [new[v] if v in new else old[v] for v in operators]
        outcome = timed.try_tail(first, tail)
        if best is None or outcome < best[0]:
            best = outcome, tail
    if best is None:
        return False
    timed.replace(first, best[1])
    return True


def _longest_paths(problem: Problem, block: Sequence[int]) -> Iterator[list[int]]:
    """Cut `block`, which is in topological order, into paths: the longest valid one first.

    Only the first operator of a path may have predecessors, and only its last one successors, in
    paths that came before. An operator that some device cannot run shares a path only with what
    runs on the same devices. A path's length counts all transfers, as if all were remote.
    """
    runs_on = [tuple(problem.runs_on(v)) for v in problem.operators]
    inside = set(block)
    has_mapped_source = {
        v for v in block if any(u not in inside for u, _ in problem.predecessors[v])
    }
    has_mapped_target: set[int] = set()
    left = list(block)
    while left:
        length_ms: dict[int, float] = {}
        previous: dict[int, int] = {}
        for v in left:
            best_ms, best = 0.0, -1
            if v not in has_mapped_source:
                for u, e in problem.predecessors[v]:
                    if u in has_mapped_target or runs_on[u] != runs_on[v]:
                        continue
                    path_ms = length_ms[u] + problem.mean_transfer_ms[e]
                    if path_ms > best_ms:
                        best_ms, best = path_ms, u
            length_ms[v] = best_ms + problem.mean_latency_ms[v]
            previous[v] = best
        v = max(left, key=length_ms.__getitem__)
        path = [v]
        while previous[v] >= 0:
            v = previous[v]
            path.append(v)
        path.reverse()
        yield path
        gone = set(path)
        left = [v for v in left if v not in gone]
        for v in path:
            has_mapped_source.update(w for w, _ in problem.successors[v])
            has_mapped_target.update(u for u, _ in problem.predecessors[v])
