"""The second step of HIOS: a sliding window groups small operators of a device into stages."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hios_tvm.errors import UsageError
from hios_tvm.schedulers.list_schedule import Clock, Timed, advance, merged
from hios_tvm.schedulers.problem import PlacedStage, Problem

BLOCK = 250
"""Stages that are judged together: longer lists are cut, so that time grows no faster than they."""


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """Options of every scheduler that ends with the window; the published setting is the default.

    The window covers `window` operators, of which at most `max_streams` form a stage. With
    `inter_only` the second step is left out.
    """

    window: int = 2
    max_streams: int = 2
    inter_only: bool = False

    def __post_init__(self) -> None:
        if self.window < 1 or self.max_streams < 1:
            raise UsageError(
                f"window and max_streams must be at least 1, got {self.window} and "
                f"{self.max_streams}"
            )


def group_in_window(
    problem: Problem, start: Clock, stages: Sequence[PlacedStage], options: WindowOptions
) -> list[PlacedStage]:
    """Merge neighbours on a device into stages of concurrent operators where that pays.

    Operators are visited in order. One that is the first of its device that has not been grouped
    opens a window over the next `window` ones; prefixes of mutually independent operators are
    tried as one stage, and the best one is kept unless the makespan grows, or stays and the ends of
    the operators come later in sum.

    Parameters
    ----------
    start : Clock
        When the devices can begin with `stages`.
    stages : sequence of PlacedStage
        One operator each, in a topological order.

    Returns
    -------
    list of PlacedStage
        In a topological order.

    Notes
    -----
    A merged stage couples its members' starts and ends, which may close a cycle through the orders
    of two devices; such candidates are dropped. Source: Kundu and Shu 2023, section IV.
    """
    limit = min(options.max_streams, options.window)
    streams = [min(limit, device.streams) for device in problem.platform.devices]
    if options.inter_only or max(streams) < 2:
        return list(stages)
    clock = start.copy()
    grouped: list[PlacedStage] = []
    for first in range(0, len(stages), BLOCK):
        block = _group_block(problem, clock, stages[first : first + BLOCK], streams)
        advance(clock, block)
        grouped += block
    return grouped


def _group_block(
    problem: Problem, start: Clock, stages: Sequence[PlacedStage], streams: Sequence[int]
) -> list[PlacedStage]:
    """Group `stages`, judged by when they end."""
    ungrouped: list[deque[PlacedStage]] = [deque() for _ in problem.devices]
    for stage in stages:
        ungrouped[stage.device].append(stage)
    timed = Timed(start, stages)
    for stage in stages:
        head = ungrouped[stage.device]
        if head and head[0] is stage:
            for _ in range(_group_head(problem, timed, head, streams[stage.device])):
                head.popleft()
    return timed.stages


def _group_head(problem: Problem, timed: Timed, head: deque[PlacedStage], max_streams: int) -> int:
    """Merge the best prefix of `head` in `timed`; return its length, 1 where none pays."""
    best, accepted, tail = timed.outcome, 1, None
    first = timed.stages.index(head[0])
    members = [first]
    while len(members) < min(max_streams, len(head)):
        following = head[len(members)]
        members.append(timed.stages.index(following, members[-1]))
        candidate = merged(problem, timed.stages, members)
        if candidate is None:
            break
        ms = timed.try_tail(first, candidate)
        if ms <= best:
            best, accepted, tail = ms, len(members), candidate
    if tail is not None:
        timed.replace(first, tail)
    return accepted
