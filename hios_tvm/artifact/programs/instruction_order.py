"""Calls and copies of all devices in one order, which every stream keeps.

A stage of one stream group runs on stream 0, which has the whole device; the groups of a wider
stage run on streams 1, 2, ... that share it. Where a device changes from one to the other, or a
core from one device to another, the new stage waits for the old one. Everything else waits for data
only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import networkx as nx

from hios_tvm.artifact.programs.device_copies import DeviceCopies
from hios_tvm.schema.device_names import cores_of
from hios_tvm.schema.program import COPY_STREAM, Call, Copy
from hios_tvm.schema.schedule import Schedule, Stage

Scratch = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Step:
    """A call or copy, the stream that executes it, and the steps that must have ended before.

    `name` is the operator of a call, the destination of a copy.
    """

    name: str
    device: str
    stream: int
    instruction: Call | Copy
    after: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, int]:
        """Device and stream."""
        return self.device, self.stream


def ordered_steps(copies: DeviceCopies, schedule: Schedule, scratch: Scratch) -> list[Step]:
    """Return all calls and copies; along every stream they are in the order of execution.

    Parameters
    ----------
    copies, schedule
        The operators with what they copy, and where and when they run.
    scratch : operator -> buffers
        Scratch memory of kernels: further arguments after their outputs.
    """
    steps: list[Step] = []
    copied: set[str] = set()
    latest: dict[int | str, _Turn] = {}  # of each core, or of a device without cores
    for device, stage in _in_order(schedule):
        units = cores_of(device) or (device,)
        before = [latest[unit] for unit in units if unit in latest]
        turn = _Turn(device, _streams(stage), {})
        others = (other for other in before if (other.device, other.streams) != turn[:2])
        barrier = tuple(dict.fromkeys(name for other in others for name in other.last.values()))
        for stream, group in zip(turn.streams, stage.groups, strict=True):
            writer = _GroupSteps(copies, scratch, device, stream, copied)
            for step in writer.steps(group, barrier):
                steps.append(step)
                if step.stream == stream:
                    turn.last[stream] = step.name
        latest |= dict.fromkeys(units, turn)
    return _in_order_of_use(steps)


def _in_order(schedule: Schedule) -> list[tuple[str, Stage]]:
    """Return all stages with their devices: those of one core in the order of their positions."""
    stages = [(device.device, stage) for device in schedule for stage in device.stages]
    return sorted(stages, key=lambda entry: -1 if (at := entry[1].position) is None else at)


class _Turn(NamedTuple):
    """A stage, and the last step on each of its streams."""

    device: str
    streams: range
    last: dict[int, str]


@dataclass(frozen=True)
class _GroupSteps:
    """The steps of stream groups on one stream; `copied` are the copies made so far."""

    copies: DeviceCopies
    scratch: Scratch
    device: str
    stream: int
    copied: set[str]

    def steps(self, group: tuple[str, ...], barrier: tuple[str, ...]) -> Iterator[Step]:
        """Yield calls, each after copies of its inputs; the first step waits for `barrier`.

        The first on this stream, that is: copies by GPUs are on streams of their own.
        """
        for operator in group:
            for step in (*self._copies_in(operator), self._call(operator)):
                if step.place == (self.device, self.stream) and barrier:
                    yield replace(step, after=(*step.after, *barrier))
                    barrier = ()
                else:
                    yield step
            yield from self._copies_out(operator)

    def _copies_in(self, operator: str) -> Iterator[Step]:
        graph = self.copies.graph
        for tensor in dict.fromkeys(graph.operator[operator].inputs):
            buffer = self.copies.buffer(tensor, self.device)
            if buffer == tensor or buffer in self.copied or tensor in self.copies.weights:
                continue
            self.copied.add(buffer)
            after = (graph.producer[tensor],) if tensor in graph.producer else ()
            place = self.copies.copying_stream(tensor, self.device, self.stream)
            yield Step(buffer, *place, Copy(tensor, buffer), after)

    def _call(self, operator: str) -> Step:
        graph = self.copies.graph
        call = graph.operator[operator]
        reads = [self.copies.buffer(tensor, self.device) for tensor in call.inputs]
        writes = (*call.outputs, *self.scratch.get(operator, ()))
        after = (
            buffer if buffer in self.copied else graph.producer[buffer]
            for buffer in reads
            if buffer in self.copied or buffer in graph.producer
        )
        instruction = Call(operator, call.kernel, (*reads, *writes), len(writes))
        return Step(operator, self.device, self.stream, instruction, tuple(dict.fromkeys(after)))

    def _copies_out(self, operator: str) -> Iterator[Step]:
        for tensor in self.copies.copied_outputs(operator):
            result = self.copies.output_buffer(tensor)
            yield Step(result, self.device, COPY_STREAM, Copy(tensor, result), (operator,))


def _streams(stage: Stage) -> range:
    return range(1) if len(stage.groups) == 1 else range(1, 1 + len(stage.groups))


def _in_order_of_use(steps: list[Step]) -> list[Step]:
    """Sort the steps where GPUs copy: what a GPU copies for others comes as they need it."""
    if all(step.stream != COPY_STREAM for step in steps):
        return steps
    graph = nx.DiGraph()
    position = {step.name: i for i, step in enumerate(steps)}
    streams: dict[tuple[str, int], list[str]] = {}
    for step in steps:
        graph.add_node(step.name)
        graph.add_edges_from((other, step.name) for other in step.after)
        if step.stream != COPY_STREAM:
            streams.setdefault(step.place, []).append(step.name)
    for names in streams.values():
        graph.add_edges_from(pairwise(names))
    order = nx.lexicographical_topological_sort(graph, key=position.__getitem__)
    return [steps[position[name]] for name in order]
