"""Stages in a topological order, and when they end: what list schedulers and searches share.

A schedule is a list of placed stages in which every stage comes after the stages that it reads
from. Devices, and devices that share cores, run their stages in the order of the list, so no such
list can deadlock, and one pass over it gives all times. Devices without common cores count as
independent here; the evaluator (`hios_tvm.schedulers.evaluate`) models how they slow each other
down, and its times are reported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hios_tvm.schedulers.evaluate import unit_orders
from hios_tvm.schedulers.problem import Groups, PlacedStage, Problem
from hios_tvm.schema.schedule import Schedule

NOT_YET_MS = float("-inf")
"""End of an operator that has no device yet: nobody waits for it."""

Outcome = tuple[float, float]
"""Makespan, then the sum of all operators' ends: it breaks ties between equal makespans."""


@dataclass
class Clock:
    """The state of a run: when each device is free, when and where each operator ended.

    A device is free when all its cores are.
    """

    free_ms: list[float]
    end_ms: list[float]
    device: list[int]
    sum_ms: float = 0.0

    @staticmethod
    def at_start(problem: Problem) -> Clock:
        """All devices are free, nothing has run."""
        count = len(problem.operators)
        return Clock([0.0] * len(problem.devices), [NOT_YET_MS] * count, [0] * count)

    def copy(self) -> Clock:
        """Return an independent copy."""
        return Clock(self.free_ms[:], self.end_ms[:], self.device[:], self.sum_ms)


def advance(clock: Clock, stages: Sequence[PlacedStage]) -> None:
    """Run `stages` in this order: each starts when its device is free and its inputs are there."""
    free_ms, end_ms, place = clock.free_ms, clock.end_ms, clock.device
    sum_ms = clock.sum_ms
    for device, ms, operators, inputs, _, overlapping in stages:
        now = free_ms[device]
        for u, transfer_ms in inputs:
            arrival_ms = end_ms[u] + transfer_ms[place[u]]
            if arrival_ms > now:
                now = arrival_ms
        now += ms
        free_ms[device] = now
        if overlapping:
            for other in overlapping:
                if free_ms[other] < now:
                    free_ms[other] = now
        for v in operators:
            end_ms[v] = now
            place[v] = device
            sum_ms += now
    clock.sum_ms = sum_ms


class Timed:
    """A list of stages, and the clock before each, so that a change costs only what follows it."""

    def __init__(self, start: Clock, stages: Sequence[PlacedStage] = ()) -> None:
        self.stages: list[PlacedStage] = []
        self.end_ms = start.end_ms[:]
        self.device = start.device[:]
        self._before: list[tuple[tuple[float, ...], float]] = [(tuple(start.free_ms), 0.0)]
        self.replace(0, stages)

    @property
    def outcome(self) -> Outcome:
        """Makespan, and sum of the operators' ends, of all stages."""
        free_ms, sum_ms = self._before[-1]
        return max(free_ms), sum_ms

    def try_tail(self, first: int, tail: Sequence[PlacedStage]) -> Outcome:
        """Return the outcome of the list with `tail` from position `first` on."""
        clock = self._clock(first)
        advance(clock, tail)
        return max(clock.free_ms), clock.sum_ms

    def ends_within(
        self,
        limit_ms: float,
        first: int,
        tail: Sequence[PlacedStage],
        remaining_ms: Sequence[float],
    ) -> bool:
        """Whether the list would end in time with `tail` from position `first` on.

        `remaining_ms` is the least time from the end of each operator to the end of all, so that
        a list that is too long is recognised early.
        """
        clock = self._clock(first)
        free_ms, end_ms, place = clock.free_ms, clock.end_ms, clock.device
        if max(free_ms) > limit_ms:
            return False
        for device, ms, operators, inputs, _, overlapping in tail:  # as in `advance`
            now = free_ms[device]
            for u, transfer_ms in inputs:
                arrival_ms = end_ms[u] + transfer_ms[place[u]]
                if arrival_ms > now:
                    now = arrival_ms
            now += ms
            free_ms[device] = now
            if overlapping:
                for other in overlapping:
                    if free_ms[other] < now:
                        free_ms[other] = now
            for v in operators:
                if now + remaining_ms[v] > limit_ms:
                    return False
                end_ms[v] = now
                place[v] = device
        return True

    def replace(self, first: int, tail: Sequence[PlacedStage]) -> None:
        """Put `tail` in the place of everything from position `first` on."""
        clock = self._clock(first)
        del self._before[first + 1 :]
        for stage in tail:
            advance(clock, (stage,))
            self._before.append((tuple(clock.free_ms), clock.sum_ms))
        self.end_ms, self.device = clock.end_ms, clock.device
        self.stages[first:] = tail

    def _clock(self, first: int) -> Clock:
        """State before position `first`; ends of later stages are left over, and never read."""
        free_ms, sum_ms = self._before[first]
        return Clock(list(free_ms), self.end_ms[:], self.device[:], sum_ms)


def merged(
    problem: Problem, stages: Sequence[PlacedStage], members: Sequence[int]
) -> list[PlacedStage] | None:
    """Return what ``stages[members[0]:]`` becomes when its members form one stage.

    Parameters
    ----------
    members : sequence of int
        Ascending positions of stages of one device.

    Returns
    -------
    list of PlacedStage or None
        None where one member waits for another, be it through data or through the orders of other
        devices and of cores: their stage would wait for itself.
    """
    positions = set(members)
    before: list[PlacedStage] = []
    after: list[PlacedStage] = []
    late: set[int] = set()  # operators that cannot run before the merged stage
    late_devices: set[int] = set()
    groups: Groups = ()
    for position in range(members[0], members[-1] + 1):
        stage = stages[position]
        waits = any(u in late for u, _ in stage.inputs)
        if position in positions:
            if waits:
                return None
            groups += stage.groups
            late.update(stage.operators)
        elif waits or stage.device in late_devices:
            late.update(stage.operators)
            late_devices.update((stage.device, *stage.overlapping))
            after.append(stage)
        else:
            before.append(stage)
    stage = problem.stage(groups, stages[members[0]].device)
    return [*before, stage, *after, *stages[members[-1] + 1 :]]


def order_of(problem: Problem, schedule: Schedule) -> list[PlacedStage]:
    """Return the stages of a valid schedule in a topological order."""
    index = {op.name: v for v, op in enumerate(problem.graph.operators)}
    device_index = {device.name: d for d, device in enumerate(problem.platform.devices)}
    turns = [deque(stages) for stages in unit_orders(problem.platform, schedule)]
    queues = [
        deque(
            (
                (device.device, i),
                problem.stage(
                    tuple(tuple(index[name] for name in group) for group in stage.groups),
                    device_index[device.device],
                ),
            )
            for i, stage in enumerate(device.stages)
        )
        for device in schedule
    ]
    done: set[int] = set()
    order: list[PlacedStage] = []
    progress = True
    while progress:
        progress = False
        for queue in queues:
            while queue:
                name, stage = queue[0]
                own_turns = [turns[unit] for unit in problem.platform.units[stage.device]]
                if any(turn[0] != name for turn in own_turns):
                    break
                if any(u not in done for u, _ in stage.inputs):
                    break
                queue.popleft()
                for turn in own_turns:
                    turn.popleft()
                done.update(stage.operators)
                order.append(stage)
                progress = True
    return order
