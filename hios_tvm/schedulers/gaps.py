"""Stages in the first gaps of their devices that are long enough."""

from bisect import bisect_left
from collections.abc import Iterable

from hios_tvm.schedulers.list_schedule import Clock, Timed
from hios_tvm.schedulers.problem import PlacedStage, Problem

Interval = tuple[float, float]
"""Start and end of a time without a gap on a device."""


class Gaps:
    """When devices are busy, or any of their cores, while stages are placed in any order."""

    def __init__(self, start: Clock) -> None:
        self._busy: list[list[Interval]] = [[(0.0, ms)] if ms else [] for ms in start.free_ms]
        self._end_ms = start.end_ms[:]
        self._device = start.device[:]
        self._starts: list[tuple[float, int, PlacedStage]] = []

    def start_ms(self, stage: PlacedStage) -> float:
        """Return the start of the first gap for `stage` after its inputs have arrived."""
        end_ms, place = self._end_ms, self._device
        now_ms = max((end_ms[u] + times[place[u]] for u, times in stage.inputs), default=0.0)
        now_ms = max(0.0, now_ms)
        busy = self._busy[stage.device]
        for i in range(max(0, bisect_left(busy, (now_ms, now_ms)) - 1), len(busy)):
            start_ms, stop_ms = busy[i]
            if now_ms + stage.ms <= start_ms:
                break
            now_ms = max(now_ms, stop_ms)
        return now_ms

    def take(self, stage: PlacedStage, start_ms: float) -> None:
        """Place `stage` at `start_ms`."""
        end_ms = start_ms + stage.ms
        for device in (stage.device, *stage.overlapping):
            _occupy(self._busy[device], start_ms, end_ms)
        for v in stage.operators:
            self._end_ms[v] = end_ms
            self._device[v] = stage.device
        self._starts.append((start_ms, len(self._starts), stage))

    def by_start(self) -> list[PlacedStage]:
        """Return all stages by start, and in the order in which they came where starts are equal.

        The order is topological if that in which they came is.
        """
        return [stage for _, _, stage in sorted(self._starts, key=lambda entry: entry[:2])]


def in_gaps(problem: Problem, start: Clock, stages: Iterable[PlacedStage]) -> list[PlacedStage]:
    """Return the order of `stages` by start when each takes the first gap, unless it ends later.

    The gaps are those that stages on many cores leave on single ones; where no devices share cores,
    `stages` stay as they are.
    """
    stages = list(stages)
    if not problem.platform.shares_cores:
        return stages
    gaps = Gaps(start)
    for stage in stages:
        gaps.take(stage, gaps.start_ms(stage))
    return min(gaps.by_start(), stages, key=lambda order: Timed(start, order).outcome)


def _occupy(busy: list[Interval], start_ms: float, end_ms: float) -> None:
    """Add an interval, and join it with all between which and it there is no gap."""
    first = bisect_left(busy, (start_ms, start_ms))
    if first and busy[first - 1][1] >= start_ms:
        first -= 1
    last = first
    while last < len(busy) and busy[last][0] <= end_ms:
        last += 1
    if first < last:
        start_ms = min(start_ms, busy[first][0])
        end_ms = max(end_ms, busy[last - 1][1])
    busy[first:last] = [(start_ms, end_ms)]
