"""Pipelines on emulated devices: the real executor, with several inputs in flight.

Kernels sleep as in `hios_tvm.measuring.emulate`. A transfer takes the time of both of its devices,
as the load of a device has it: the one that has a tensor gives it away once, and each that reads
it takes it once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hios_tvm.artifact.programs import programs_of
from hios_tvm.backends.cpu.library import build_emulation_library
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.errors import UsageError
from hios_tvm.measuring.emulate import KERNEL, MEAN_KERNEL_MS
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram, core_tasks
from hios_tvm.runtime.memory import Arena, TensorTable
from hios_tvm.runtime.native import load_library
from hios_tvm.runtime.pipeline import PipelineExecutor
from hios_tvm.schedulers.throughput import Pipeline
from hios_tvm.schedulers.throughput_platform import throughput_problem
from hios_tvm.schedulers.throughput_stages import pipeline_schedule
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.manifest import ALIGNMENT
from hios_tvm.schema.program import Call, Copy, Instruction, Program, reads_and_writes

_LATE_S = 600.0


@dataclass(frozen=True)
class ThroughputEmulation:
    """Time from one result to the next in the costs' own time, where `scale` is taken out.

    `sessions` work side by side, each on as many `devices`.
    """

    interval_ms: float
    predicted_ms: float
    scale: float
    sessions: int
    devices: int

    @property
    def ratio(self) -> float:
        """The measured interval over the predicted one."""
        return self.interval_ms / self.predicted_ms

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "ratio": self.ratio}


def emulate_throughput(
    instance: Instance,
    pipeline: Pipeline,
    *,
    sessions: int = 1,
    results: int = 20,
    scale: float | None = None,
) -> ThroughputEmulation:
    """Run a pipeline on emulated devices, and compare with the interval that its loads predict.

    Parameters
    ----------
    instance : Instance
        What each operator and transfer costs, and the devices of one session.
    pipeline : Pipeline
        A contiguous placement of the graph (`hios_tvm.schedulers.throughput_stages`).
    sessions : int
        Such pipelines, each on devices of its own.
    results : int
        Of each session, from when its devices are full on.
    scale : float, optional
        Factor on all times; by default so that a kernel takes 8 ms on average.

    Raises
    ------
    UsageError
        If nothing costs anything.
    CompileError
        If there is no C++ compiler.
    """
    busy_ms = sum(pipeline.loads_ms)
    if busy_ms == 0.0:
        raise UsageError("there is nothing to emulate: no operator costs anything")
    scale = scale or max(1.0, MEAN_KERNEL_MS * len(instance.graph.operators) / busy_ms)
    devices = len(instance.platform.devices)
    slots = 1 + devices

    def interval_ms(_: int) -> float:
        with closing(_executor(instance, pipeline, scale, slots)) as executor:
            ends = np.array(list(_ends_ms(executor, slots, 2 * slots + results)))
        return float(ends[-1] - ends[-1 - results]) / results / scale

    with ThreadPoolExecutor(sessions) as threads:
        rates = [1.0 / ms for ms in threads.map(interval_ms, range(sessions))]
    predicted_ms = pipeline.interval_ms / sessions
    return ThroughputEmulation(1.0 / sum(rates), predicted_ms, scale, sessions, devices)


def _ends_ms(executor: PipelineExecutor, slots: int, count: int) -> Iterator[float]:
    """Yield when each of `count` runs ended, with as many in flight as there are slots."""
    going: deque[int] = deque()
    for number in range(count + slots):
        if len(going) == slots or number >= count:
            if not going:
                return
            run = going.popleft()
            executor.finish(run, _LATE_S)
            times = (executor.times(i, run % slots) for i in range(len(executor.tasks)))
            yield max(float(each[-1]) for each in times) / 1e6
        if number < count:
            going.append(executor.start())


def _executor(instance: Instance, pipeline: Pipeline, scale: float, slots: int) -> PipelineExecutor:
    """Return the executor of the pipeline's programs, one thread each on the cores that are."""
    graph = instance.graph
    problem = throughput_problem(graph, instance.costs, instance.platform)
    kernel_ms = {
        operator.name: operator.latency_ms[problem.devices[d].kind]
        for operator, d in zip(problem.operators, pipeline.device_of, strict=True)
    }
    transfer_ms = {operator.name: operator.transfer_ms for operator in problem.operators}
    schedule = pipeline_schedule(graph, pipeline, instance.platform)
    apart = tuple(replace(device, memory=device.device) for device in schedule)
    programs = programs_of(graph, replace(schedule, devices=apart))
    asleep = [
        [*_sleeping(program, programs, kernel_ms, transfer_ms, graph.producer)]
        for program in programs
    ]
    costs = {
        _cost_name(ms): round(1e6 * scale * ms)
        for ms in (0.0, *kernel_ms.values(), *transfer_ms.values())
    }
    calls = (step for steps in asleep for step in steps if isinstance(step, Call))
    names = list(dict.fromkeys(name for call in calls for name in call.args))
    memory = [Arena(ALIGNMENT * len(names)) for _ in range(slots)]
    tables = [_table(names, costs, arena) for arena in memory]
    library = load_library(build_emulation_library(host_target()))
    emulated = [
        CpuProgram(program.device, (), steps, library)
        for program, steps in zip(programs, asleep, strict=True)
    ]
    return PipelineExecutor(core_tasks(emulated), tables, memory=memory)


def _sleeping(
    program: Program,
    programs: Sequence[Program],
    kernel_ms: Mapping[str, float],
    transfer_ms: Mapping[str, float],
    producer: Mapping[str, str],
) -> Iterator[Instruction]:
    """Yield the instructions of a device, each with its time; one output of an operator moves."""
    read_elsewhere = {
        step.src
        for other in programs
        for step in other.instructions
        if isinstance(step, Copy) and other is not program
    }
    taken: set[str] = set()
    for step in program.instructions:
        if isinstance(step, Call):
            _, writes = reads_and_writes(step)
            yield _sleep(step.operator, kernel_ms[step.operator], writes)
            if read_elsewhere.intersection(writes):
                yield _sleep(f"give {step.operator}", transfer_ms[step.operator], writes)
        elif isinstance(step, Copy):
            operator = producer[step.src]
            ms = 0.0 if operator in taken else transfer_ms[operator]
            taken.add(operator)
            yield _sleep(f"take {step.dst}", ms, (step.dst,))
        else:
            yield step


def _sleep(what: str, ms: float, writes: Sequence[str]) -> Call:
    return Call(what, KERNEL, (_cost_name(ms), *writes), len(writes))


def _cost_name(ms: float) -> str:
    return f"cost of {ms!r} ms"


def _table(names: Sequence[str], costs: Mapping[str, int], arena: Arena) -> TensorTable:
    """Return tensors of one number each, in `arena`; those with costs hold them."""
    numbers = arena.bytes.view(np.int64)
    tensors = TensorTable({name: ((1,), "int64") for name in names})
    for i, name in enumerate(names):
        tensors.place(name, arena.address + ALIGNMENT * i)
        numbers[ALIGNMENT // 8 * i] = costs.get(name, 0)
    return tensors
