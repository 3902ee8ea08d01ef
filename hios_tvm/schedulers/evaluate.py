"""The one evaluator: an operator graph, costs and a schedule to start and end times.

A stage starts when its device has ended the stage before and all its inputs have arrived, and all
its operators end together. A transfer starts when its producer ends, and overlaps with everything.
Where devices are not independent (`Platform.independence`), a stage that runs while others run
progresses more slowly, so that time is simulated event by event.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from hios_tvm.errors import ScheduleError
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import Edge, OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule, Stage


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
    independent, as many as the device has streams, and in topological order inside; weights and
    activations fit on each device. Cycles through the devices' orders are found by `evaluate`, and
    by `check_order` where there are no costs.
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
    _check_memory(graph, platform, schedule)


def check_order(graph: OperatorGraph, schedule: Schedule) -> None:
    """Raise `ScheduleError` if stages wait for each other in a cycle.

    Parameters
    ----------
    schedule : Schedule
        One that `check_schedule` has accepted.
    """
    stage_of = {
        operator: (device.device, i)
        for device in schedule
        for i, stage in enumerate(device.stages)
        for operator in stage.operators
    }
    before: dict[tuple[str, int], set[tuple[str, int]]] = {
        (name, i): {(name, i - 1)} if i else set() for name, i in stage_of.values()
    }
    for edge in graph.edges:
        if stage_of[edge.src] != stage_of[edge.dst]:
            before[stage_of[edge.dst]].add(stage_of[edge.src])
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        name, i = error.args[1][0]
        operator = next(other for other, stage in stage_of.items() if stage == (name, i))
        raise _cycle(operator, name) from None


def _cycle(operator: str, device: str) -> ScheduleError:
    return ScheduleError(
        f"the stages wait for each other in a cycle, for example at operator {operator!r} on "
        f"{device!r}"
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
        model = {device.name: device.model for device in platform.devices}
        self.queues = {device.device: device.stages for device in schedule}
        self.work_ms = {
            name: [costs.stage_ms(stage.groups, model[name]) for stage in stages]
            for name, stages in self.queues.items()
        }
        stage_of = {
            operator: (name, i)
            for name, stages in self.queues.items()
            for i, stage in enumerate(stages)
            for operator in stage.operators
        }
        self.stage_of = stage_of
        # What a stage still waits for, and when the last input that is known arrives.
        self.inputs_missing = {key: 0 for key in stage_of.values()}
        self.arrival_ms = dict.fromkeys(stage_of.values(), 0.0)
        self.consumers: dict[tuple[str, int], list[tuple[Edge, float]]] = {
            key: [] for key in stage_of.values()
        }
        for edge in graph.edges:
            src, dst = stage_of[edge.src], stage_of[edge.dst]
            if src != dst:
                transfer_ms = costs.transfer_ms(edge, platform, src[0], dst[0])
                self.consumers[src].append((edge, transfer_ms))
                self.inputs_missing[dst] += 1
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
            slowdown = self.platform.slowdown(len(self.remaining_ms))
            elapsed = min(min(self.remaining_ms.values()) * slowdown, wake_ms - now)
            now += elapsed
            for device in list(self.remaining_ms):
                self.busy_ms[device] += elapsed
                self.remaining_ms[device] -= elapsed / slowdown
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
            if device in self.remaining_ms or key[1] == len(stages) or self.inputs_missing[key]:
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
        for edge, transfer_ms in self.consumers[key]:
            dst = self.stage_of[edge.dst]
            self.inputs_missing[dst] -= 1
            self.arrival_ms[dst] = max(self.arrival_ms[dst], now + transfer_ms)
            if dst[0] != device:
                self.transfers.append(
                    TransferSpan(edge.src, edge.dst, device, dst[0], now, now + transfer_ms)
                )
