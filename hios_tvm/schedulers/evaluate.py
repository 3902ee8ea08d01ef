"""The one evaluator: an operator graph, costs and a schedule to start and end times.

A stage starts when the stage before on its device, and on each of its cores, has ended and all its
inputs have arrived; all its operators end together. A transfer starts when its producer ends, and
overlaps with everything. Where devices are not independent (`Platform.independence`), a stage that
runs while others run progresses more slowly, so that time is simulated event by event.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from hios_tvm.errors import ScheduleError
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import Edge, OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule, Stage

StageId = tuple[str, int]
"""A device, and the place of a stage in its list."""


@dataclass(frozen=True)
class TransferSpan:
    """A copy between devices, in milliseconds from the start of the run."""

    src: str
    dst: str
    src_device: str
    dst_device: str
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Timeline:
    """When everything happens, in milliseconds; `busy_ms` is the time in stages by device."""

    start_ms: Mapping[str, float]
    end_ms: Mapping[str, float]
    transfers: tuple[TransferSpan, ...]
    busy_ms: Mapping[str, float]
    makespan_ms: float


def evaluate(
    graph: OperatorGraph, costs: CostTable, platform: Platform, schedule: Schedule
) -> Timeline:
    """Return the times of a schedule.

    Raises
    ------
    ScheduleError
        If the schedule breaks a rule; the message names the first one.

    Notes
    -----
    O((V + E) + S D) for V operators, E edges, S stages and D devices.
    """
    check_schedule(graph, platform, schedule)
    return _Simulation(graph, costs, platform, schedule).run()


def check_schedule(graph: OperatorGraph, platform: Platform, schedule: Schedule) -> None:
    """Raise `ScheduleError` for the first rule that `schedule` breaks.

    Every operator is placed once, on a device of the platform; the stream groups of a stage are
    independent, as many as the device has streams, and in topological order inside; stages whose
    devices share a core have different positions, which ascend along each device's list; weights
    and activations fit on each device. Cycles through the orders of devices and cores are found by
    `evaluate`, and by `check_order` where there are no costs.
    """
    streams = {device.name: device.streams for device in platform.devices}
    seen: set[str] = set()
    for device in schedule:
        if device.device not in streams:
            raise ScheduleError(f"device {device.device!r} is not part of the platform")
        for stage in device.stages:
            if not stage.groups or not all(stage.groups):
                raise ScheduleError(f"a stage or stream group of {device.device!r} is empty")
            if len(stage.groups) > max(1, streams[device.device]):
                raise ScheduleError(
                    f"a stage of {device.device!r} has {len(stage.groups)} stream groups, the "
                    f"device {streams[device.device]} streams"
                )
            for name in stage.operators:
                if name not in graph.operator:
                    raise ScheduleError(f"operator {name!r} is not part of the graph")
                if name in seen:
                    raise ScheduleError(f"operator {name!r} is scheduled twice")
                seen.add(name)
            _check_independent(graph, stage)
    missing = graph.operator.keys() - seen
    if missing:
        raise ScheduleError(f"{len(missing)} operators are not scheduled, such as {min(missing)!r}")
    _check_cores(platform, schedule)
    _check_memory(graph, platform, schedule)


def check_order(graph: OperatorGraph, platform: Platform, schedule: Schedule) -> None:
    """Raise `ScheduleError` if stages wait for each other in a cycle.

    Parameters
    ----------
    schedule : Schedule
        One that `check_schedule` has accepted.
    """
    stage_of = _stage_of(schedule)
    before: dict[StageId, set[StageId]] = {stage: set() for stage in stage_of.values()}
    for order in unit_orders(platform, schedule):
        for first, second in pairwise(order):
            before[second].add(first)
    for edge in graph.edges:
        if stage_of[edge.src] != stage_of[edge.dst]:
            before[stage_of[edge.dst]].add(stage_of[edge.src])
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        found = error.args[1][0]
        operator = next(other for other, stage in stage_of.items() if stage == found)
        raise _cycle(operator, found[0]) from None


def _stage_of(schedule: Schedule) -> dict[str, StageId]:
    return {
        operator: (device.device, i)
        for device in schedule
        for i, stage in enumerate(device.stages)
        for operator in stage.operators
    }


def unit_orders(platform: Platform, schedule: Schedule) -> list[list[StageId]]:
    """Return the stages on each core, or device without cores, in the order in which they run."""
    units = {d.name: own for d, own in zip(platform.devices, platform.units, strict=True)}
    orders: list[list[StageId]] = [[] for _ in range(platform.unit_count)]
    position: dict[StageId, int] = {}
    for device in schedule:
        for i, stage in enumerate(device.stages):
            position[device.device, i] = stage.position or 0
            for unit in units[device.device]:
                orders[unit].append((device.device, i))
    for order in orders:
        if len({device for device, _ in order}) > 1:
            order.sort(key=position.__getitem__)
    return orders


def _cycle(operator: str, device: str) -> ScheduleError:
    return ScheduleError(
        f"the stages wait for each other in a cycle, for example at operator {operator!r} on "
        f"{device!r}"
    )


def _check_cores(platform: Platform, schedule: Schedule) -> None:
    """Look for stages on one core that have no order."""
    cores = {device.name: device.cores for device in platform.devices}
    on_core: dict[int, dict[str, tuple[Stage, ...]]] = {}
    for device in schedule:
        for core in cores[device.device] if device.stages else ():
            on_core.setdefault(core, {})[device.device] = device.stages
    for core, stages_of in on_core.items():
        if len(stages_of) > 1:
            _check_positions(core, stages_of)


def _check_positions(core: int, stages_of: Mapping[str, tuple[Stage, ...]]) -> None:
    """Raise `ScheduleError` where positions do not order the stages of several devices."""
    at: dict[int, tuple[Stage, str]] = {}
    for device, stages in stages_of.items():
        last: tuple[int, Stage] | None = None
        for stage in stages:
            if stage.position is None:
                other = next(name for name in stages_of if name != device)
                raise _overlap((stage, device), (stages_of[other][0], other), core, "no position")
            if stage.position in at:
                same = f"both position {stage.position}"
                raise _overlap(at[stage.position], (stage, device), core, same)
            at[stage.position] = stage, device
            if last is not None and last[0] > stage.position:
                falling = f"positions {last[0]} and {stage.position}, which must ascend"
                raise _overlap((last[1], device), (stage, device), core, falling)
            last = stage.position, stage


def _overlap(
    first: tuple[Stage, str], second: tuple[Stage, str], core: int, have: str
) -> ScheduleError:
    (one, device), (other, other_device) = first, second
    return ScheduleError(
        f"the stage of {one.operators[0]!r} on {device!r} and that of {other.operators[0]!r} on "
        f"{other_device!r} both need core {core} and have {have}: on devices that share cores "
        "every stage needs a position of its own, and runs in ascending order of positions"
    )


def _check_memory(graph: OperatorGraph, platform: Platform, schedule: Schedule) -> None:
    """Compare weights, and what one device would need for all activations, with each limit."""
    limit = {device.name: device.memory_bytes for device in platform.devices}
    for device in schedule:
        most = limit[device.device]
        if most is None or not device.stages:
            continue
        weights = graph.weight_bytes(device.operators)
        if weights + graph.activation_bytes > most:
            raise ScheduleError(
                f"device {device.device!r} has {most} bytes of memory, its operators need "
                f"{weights} for weights and {graph.activation_bytes} for activations"
            )


def _check_independent(graph: OperatorGraph, stage: Stage) -> None:
    """Look for an edge between two groups, or backwards in one.

    A path through operators outside the stage would make it wait for itself, which the simulation
    reports as a cycle.
    """
    if len(stage.operators) == 1:
        return
    where = {name: (g, i) for g, group in enumerate(stage.groups) for i, name in enumerate(group)}
    for name, (group, position) in where.items():
        for tensor in graph.operator[name].inputs:
            producer = graph.producer.get(tensor)
            if producer not in where:
                continue
            if where[producer][0] != group:
                raise ScheduleError(
                    f"operators {producer!r} and {name!r} share a stage, but one needs the other"
                )
            if where[producer][1] > position:
                raise ScheduleError(f"operator {name!r} comes before {producer!r}, which it needs")


class _Simulation:
    """Stages as they become ready, run and end."""

    def __init__(
        self, graph: OperatorGraph, costs: CostTable, platform: Platform, schedule: Schedule
    ) -> None:
        self.platform = platform
        self.width = {device.name: device.width for device in platform.devices}
        model = {device.name: device.model for device in platform.devices}
        self.queues = {device.device: device.stages for device in schedule}
        self.work_ms = {
            name: [costs.stage_ms(stage.groups, model[name]) for stage in stages]
            for name, stages in self.queues.items()
        }
        self.stage_of = stage_of = _stage_of(schedule)
        stages = dict.fromkeys(stage_of.values())
        # How many inputs and stages before it a stage still waits for, and when the last of those
        # that are known arrives.
        self.waits_for = dict.fromkeys(stages, 0)
        self.arrival_ms = dict.fromkeys(stages, 0.0)
        self.consumers: dict[StageId, list[tuple[Edge, float]]] = {key: [] for key in stages}
        self.followers: dict[StageId, dict[StageId, None]] = {key: {} for key in stages}
        for edge in graph.edges:
            src, dst = stage_of[edge.src], stage_of[edge.dst]
            if src != dst:
                transfer_ms = costs.transfer_ms(edge, platform, src[0], dst[0])
                self.consumers[src].append((edge, transfer_ms))
                self.waits_for[dst] += 1
        for order in unit_orders(platform, schedule):
            for first, second in pairwise(order):
                if second not in self.followers[first]:
                    self.followers[first][second] = None
                    self.waits_for[second] += 1
        self.start_ms: dict[str, float] = {}
        self.end_ms: dict[str, float] = {}
        self.transfers: list[TransferSpan] = []
        self.busy_ms = dict.fromkeys(self.queues, 0.0)
        self.next_stage = dict.fromkeys(self.queues, 0)
        self.remaining_ms: dict[str, float] = {}  # of the running stage of each busy device

    def run(self) -> Timeline:
        now = 0.0
        while True:
            wake_ms = self._start_stages(now)
            if not self.remaining_ms:
                if wake_ms == math.inf:
                    break
                now = wake_ms
                continue
            busy = sum(self.width[device] for device in self.remaining_ms)
            pace = {d: self.platform.slowdown(busy - self.width[d]) for d in self.remaining_ms}
            first_end_ms = min(ms * pace[device] for device, ms in self.remaining_ms.items())
            elapsed = min(first_end_ms, wake_ms - now)
            now += elapsed
            for device in list(self.remaining_ms):
                self.busy_ms[device] += elapsed
                self.remaining_ms[device] -= elapsed / pace[device]
                if self.remaining_ms[device] <= 1e-9:
                    self._end_stage(device, now)
        stuck = [name for name, i in self.next_stage.items() if i < len(self.queues[name])]
        if stuck:
            operator = self.queues[stuck[0]][self.next_stage[stuck[0]]].operators[0]
            raise _cycle(operator, stuck[0])
        makespan_ms = max(self.end_ms.values(), default=0.0)
        return Timeline(
            self.start_ms, self.end_ms, tuple(self.transfers), self.busy_ms, makespan_ms
        )

    def _start_stages(self, now: float) -> float:
        """Start what is ready; return when the next input of an idle device arrives."""
        wake_ms = math.inf
        for device, stages in self.queues.items():
            key = (device, self.next_stage[device])
            if device in self.remaining_ms or key[1] == len(stages) or self.waits_for[key]:
                continue
            if self.arrival_ms[key] > now:
                wake_ms = min(wake_ms, self.arrival_ms[key])
                continue
            self.remaining_ms[device] = self.work_ms[device][key[1]]
            self.start_ms.update(dict.fromkeys(stages[key[1]].operators, now))
        return wake_ms

    def _end_stage(self, device: str, now: float) -> None:
        key = (device, self.next_stage[device])
        del self.remaining_ms[device]
        self.next_stage[device] += 1
        self.end_ms.update(dict.fromkeys(self.queues[device][key[1]].operators, now))
        for follower in self.followers[key]:
            self.waits_for[follower] -= 1
        for edge, transfer_ms in self.consumers[key]:
            dst = self.stage_of[edge.dst]
            self.waits_for[dst] -= 1
            self.arrival_ms[dst] = max(self.arrival_ms[dst], now + transfer_ms)
            if dst[0] != device:
                self.transfers.append(
                    TransferSpan(edge.src, edge.dst, device, dst[0], now, now + transfer_ms)
                )
