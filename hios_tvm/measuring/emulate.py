"""Devices that this machine does not have: the real executor runs real programs on emulated ones.

Each kernel is replaced by a sleep of its cost, each copy by one that begins when its source is
ready, as a copy engine makes it. Devices do not disturb each other, and the streams of a device
begin each stage together. What is left to compare with
the evaluator is the order of everything, and what the executor itself costs.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hios_tvm.artifact.programs import programs_of
from hios_tvm.backends.cpu.library import build_emulation_library
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.errors import UsageError
from hios_tvm.measuring.latency import LatencySummary
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram, core_tasks
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.memory import Arena, TensorTable
from hios_tvm.runtime.native import load_library
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.device_names import cores_of
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.manifest import ALIGNMENT, Manifest
from hios_tvm.schema.platform import Device, Platform
from hios_tvm.schema.program import (
    Call,
    Copy,
    Instruction,
    Program,
    Signal,
    Wait,
    reads_and_writes,
)
from hios_tvm.schema.schedule import Schedule

KERNEL, COPY = "hios_emulated_kernel", "hios_emulated_copy"  # in emulation.cc

MEAN_KERNEL_MS = 8.0
"""To this mean kernels are stretched, so that the few microseconds that the executor and a sleep
add to each do not count."""


@dataclass(frozen=True)
class Emulation:
    """Measured and predicted latency in the schedule's own time, where `scale` is taken out."""

    latency: LatencySummary
    predicted_ms: float
    scale: float
    devices: int

    @property
    def ratio(self) -> float:
        """Median measured latency over the predicted one."""
        return self.latency.median_ms / self.predicted_ms

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "ratio": self.ratio}


def emulate(
    instance: Instance,
    schedule: Schedule,
    *,
    scale: float | None = None,
    iterations: int = 5,
    warmup: int = 1,
) -> Emulation:
    """Run a schedule on emulated devices, and compare with the evaluator's makespan.

    Every device reads what others wrote by a copy of its own, which takes as long as the transfer:
    what a device's own stream of copies hides is not part of the evaluator's model.

    Parameters
    ----------
    instance : Instance
        What each operator and transfer costs. Its platform is taken as independent.
    schedule : Schedule
        Of the instance's graph.
    scale : float, optional
        Factor on all times; by default so that a kernel takes 8 ms on average.
    iterations, warmup : int
        Runs that are measured, and runs before.

    Raises
    ------
    UsageError
        If nothing costs anything.
    ScheduleError
        If the schedule does not fit the graph.
    CompileError
        If there is no C++ compiler.
    """
    instance = replace(instance, platform=replace(instance.platform, independence=1.0))
    graph, costs, platform = instance.graph, instance.costs, instance.platform
    predicted_ms = evaluate(graph, costs, platform, schedule).makespan_ms
    kernel_ms = _kernel_ms(instance, schedule)
    total_ms = sum(kernel_ms.values())
    if total_ms == 0.0:
        raise UsageError("there is nothing to emulate: no operator costs anything")
    scale = scale or max(1.0, MEAN_KERNEL_MS * len(kernel_ms) / total_ms)
    emulated = _Emulated(instance, schedule, kernel_ms, scale)
    apart = tuple(replace(device, memory=device.device) for device in schedule)
    programs = programs_of(graph, replace(schedule, devices=apart))
    with closing(emulated.executor(_in_step(schedule, programs))) as executor:
        for _ in range(warmup):
            executor.run()
        latencies = [_run(executor, len(programs)) / scale for _ in range(iterations)]
    summary = LatencySummary.of(latencies, (50, 90, 99))
    return Emulation(summary, predicted_ms, scale, len({p.device for p in programs}))


def emulation_of(manifest: Manifest) -> tuple[Instance, Schedule]:
    """Return the graph of an artifact with its costs, and its schedule.

    Raises
    ------
    UsageError
        If the artifact does not say what its operators cost.
    """
    schedule = Schedule.from_json(json.dumps(dict(manifest.schedule)))
    given = {operator.operator: operator.cost_ms for operator in manifest.prediction.operators}
    graph = manifest.graph
    if graph is None or given.keys() != schedule.placement.keys():
        raise UsageError(
            "the artifact does not hold the costs of its operators: compile it again, with --costs "
            "where it has a --placement"
        )
    spans = {(t.src, t.dst): t.end_ms - t.start_ms for t in manifest.prediction.transfers}
    costs = CostTable(
        {"emulated": {name: Measurement(ms) for name, ms in given.items()}},
        transfer={edge: Measurement(ms) for edge, ms in spans.items()},
    )
    streams = max((len(stage.groups) for device in schedule for stage in device.stages), default=1)
    devices = [
        Device(device.name, "emulated", streams, cores=cores_of(device.name))
        for device in manifest.devices
    ]
    return Instance(graph, costs, Platform(tuple(devices))), schedule


def _kernel_ms(instance: Instance, schedule: Schedule) -> dict[str, float]:
    """Return how long each kernel shall take, so that each stage takes its time in the table."""
    model = {device.name: device.model for device in instance.platform.devices}
    times: dict[str, float] = {}
    for device in schedule:
        kind = model[device.device]
        for stage in device.stages:
            alone = [sum(instance.costs.latency_ms(o, kind) for o in g) for g in stage.groups]
            stage_ms = instance.costs.stage_ms(stage.groups, kind)
            for group, group_ms in zip(stage.groups, alone, strict=True):
                stretch = stage_ms / group_ms if group_ms else 1.0
                for operator in group:
                    times[operator] = stretch * instance.costs.latency_ms(operator, kind)
    return times


def _in_step(schedule: Schedule, programs: Sequence[Program]) -> list[Program]:
    """Let the streams of a device begin each stage together, as the evaluator has it.

    The programs as they are let a stream go on as soon as its own inputs are there.
    """
    stage_of = {
        operator: i
        for device in schedule
        for i, stage in enumerate(device.stages)
        for operator in stage.operators
    }
    ends = {device.device: len(device.stages) for device in schedule}
    given = [s.event for p in programs for s in p.instructions if isinstance(s, Signal)]
    numbers = itertools.count(1 + max(given, default=0))
    ready: dict[tuple[str, int, int], int] = defaultdict(lambda: next(numbers))
    working = [
        (program.device, program.stream)
        for program in programs
        if any(isinstance(step, Call) for step in program.instructions)
    ]
    result = []
    for program in programs:
        device, stream = program.device, program.stream
        others = [s for d, s in working if d == device and s != stream]
        stages = [stage_of[s.operator] for s in program.instructions if isinstance(s, Call)]
        if not stages:
            result.append(program)
            continue
        following = iter([*stages[1:], ends[device]])
        # A stream says that it is ready for a stage without work for it after what it did before.
        steps: list[Instruction] = [Signal(ready[device, stream, i]) for i in range(stages[0])]
        last = -1
        for step in program.instructions:
            if not isinstance(step, Call):
                steps.append(step)
                continue
            stage = stage_of[step.operator]
            if stage != last:
                steps.append(Signal(ready[device, stream, stage]))
                steps += [Wait(ready[device, other, stage]) for other in others]
                last = stage
            steps.append(step)
            skipped = range(stage + 1, next(following))
            steps += [Signal(ready[device, stream, i]) for i in skipped]
        result.append(Program(device, stream, tuple(steps)))
    return result


def _run(executor: Executor, tasks: int) -> float:
    """Return the milliseconds from the first instruction to the last."""
    executor.run(timeout=600.0)
    times = [executor.times(i) for i in range(tasks)]
    return float(max(t[-1] for t in times) - min(t[0] for t in times)) / 1e6


class _Emulated:
    """Instructions that sleep; each tensor is a place for the time at which it was written."""

    def __init__(
        self,
        instance: Instance,
        schedule: Schedule,
        kernel_ms: Mapping[str, float],
        scale: float,
    ) -> None:
        self._instance = instance
        self._placement = schedule.placement
        self._kernel_ms = kernel_ms
        self._scale = scale
        self._names: list[str] = []
        self._costs: dict[str, int] = {}
        self._edges = {(edge.src, edge.dst): edge for edge in instance.graph.edges}

    def executor(self, programs: Sequence[Program]) -> Executor:
        """Return the executor of `programs`, one thread each on the cores that there are."""
        library = load_library(build_emulation_library(host_target()))
        emulated = [
            CpuProgram(
                f"{program.device} stream {program.stream}",
                (),
                list(self._sleeping(program)),
                library,
            )
            for program in programs
        ]
        self._names = list(dict.fromkeys(self._names))
        arena = Arena(ALIGNMENT * len(self._names))
        numbers = arena.bytes.view(np.int64)
        tensors = TensorTable({name: ((1,), "int64") for name in self._names})
        for i, name in enumerate(self._names):
            tensors.place(name, arena.address + ALIGNMENT * i)
            numbers[ALIGNMENT // 8 * i] = self._costs.get(name, 0)
        return Executor(core_tasks(emulated), tensors, memory=arena)

    def _sleeping(self, program: Program) -> Iterator[Instruction]:
        for i, step in enumerate(program.instructions):
            if isinstance(step, Call):
                _, writes = reads_and_writes(step)
                cost = self._cost(step.operator, self._kernel_ms[step.operator])
                yield self._call(step.operator, KERNEL, (cost, *writes), len(writes))
            elif isinstance(step, Copy):
                cost = self._cost(f"copy {step.dst}", self._copy_ms(program, i))
                yield self._call(f"copy {step.dst}", COPY, (cost, step.src, step.dst), 1)
            else:
                yield step

    def _call(self, operator: str, kernel: str, args: tuple[str, ...], outputs: int) -> Call:
        self._names.extend(args)
        return Call(operator, kernel, args, outputs)

    def _cost(self, what: str, milliseconds: float) -> str:
        name = f"cost of {what}"
        self._costs[name] = round(1e6 * self._scale * milliseconds)
        return name

    def _copy_ms(self, program: Program, index: int) -> float:
        """Milliseconds of the copy at `index`: those of the edge to its first reader."""
        copy = program.instructions[index]
        assert isinstance(copy, Copy)
        reader = next(
            step.operator
            for step in program.instructions[index:]
            if isinstance(step, Call) and copy.dst in step.args
        )
        graph, costs, platform = self._instance.graph, self._instance.costs, self._instance.platform
        writer = graph.producer[copy.src]
        edge = self._edges[writer, reader]
        return costs.transfer_ms(edge, platform, self._placement[writer], program.device)
