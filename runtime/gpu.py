"""What a GPU's worker does: the programs of all its streams, put into the streams in one order.

Where nothing has to wait for a CPU in between, the driver can keep the whole of it as a graph
(CUDA graph), and one launch starts it.

Ordering on the GPU is the driver's: a stream keeps its order, and events order streams, also those
of two GPUs. Workers wait for each other only where the driver cannot: an event of another GPU must
have been recorded before a stream can wait for it, and CPUs run kernels outside of any stream.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hios_tvm.runtime.abi import (
    DLTensor,
    NativeGpuCopy,
    NativeHostSignal,
    NativeInstruction,
    NativeLaunch,
    Opcode,
)
from hios_tvm.runtime.devices.cuda import Gpu
from hios_tvm.runtime.executor import Lowered
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.native import Library
from hios_tvm.schema.device_names import device_kind
from hios_tvm.schema.launches import GpuKernel, Launch
from hios_tvm.schema.program import Call, Copy, Instruction, Program, Signal, Wait

__all__ = ["Crossing", "GpuTask", "GraphTask", "Mark", "crossings", "issue_order", "marked"]


@dataclass(frozen=True)
class Crossing:
    """An event: which device signals it, and which other devices wait for it."""

    source: str
    others: tuple[str, ...]

    @property
    def on_gpu(self) -> bool:
        """Whether a stream signals it."""
        return device_kind(self.source) == "cuda"

    @property
    def reaches_cpu(self) -> bool:
        """Whether a CPU waits for it."""
        return any(device_kind(device) == "cpu" for device in self.others)

    @property
    def reaches_gpu(self) -> bool:
        """Whether another GPU waits for it."""
        return any(device_kind(device) == "cuda" for device in self.others)


@dataclass(frozen=True)
class Mark:
    """Remember when a stream gets here; `number` is unique among all programs."""

    number: int


def marked(programs: Sequence[Program]) -> tuple[Program, ...]:
    """Return the programs with a mark before and behind each call and copy of a GPU.

    Marks 2k and 2k + 1 belong to the k-th of those.
    """
    numbers = itertools.count()

    def steps(program: Program) -> Iterable[Any]:
        for step in program.instructions:
            if device_kind(program.device) == "cuda" and isinstance(step, Call | Copy):
                yield from (Mark(next(numbers)), step, Mark(next(numbers)))
            else:
                yield step

    return tuple(replace(program, instructions=tuple(steps(program))) for program in programs)


def crossings(programs: Sequence[Program]) -> dict[int, Crossing]:
    """Return what each event connects."""
    source: dict[int, str] = {}
    waiting: dict[int, list[str]] = {}
    for program in programs:
        for step in program.instructions:
            if isinstance(step, Signal):
                source[step.event] = program.device
            elif isinstance(step, Wait):
                waiting.setdefault(step.event, []).append(program.device)
    return {
        event: Crossing(
            device, tuple(dict.fromkeys(d for d in waiting.get(event, ()) if d != device))
        )
        for event, device in source.items()
    }


def issue_order(programs: Sequence[Program]) -> list[tuple[int, int]]:
    """Return all instructions as (program, place), each wait behind its signal.

    Workers that keep this order never wait for each other in a circle. Programs take turns after
    each kernel or copy, so that no stream starves while another one is fed.

    >>> first = Program("cuda:0", 0, (Call("a", "k", ("x", "y")), Signal(0)))
    >>> second = Program("cuda:0", 1, (Wait(0), Call("b", "k", ("y", "z"))))
    >>> issue_order([second, first])
    [(1, 0), (1, 1), (0, 0), (0, 1)]
    """
    order: list[tuple[int, int]] = []
    position = [0] * len(programs)
    signalled: set[int] = set()
    remaining = sum(len(program.instructions) for program in programs)
    while len(order) < remaining:
        for p, program in enumerate(programs):
            while position[p] < len(program.instructions):
                step = program.instructions[position[p]]
                if isinstance(step, Wait) and step.event not in signalled:
                    break
                if isinstance(step, Signal):
                    signalled.add(step.event)
                order.append((p, position[p]))
                position[p] += 1
                following = program.instructions[position[p] : position[p] + 1]
                if isinstance(step, Call | Copy) and not isinstance(
                    next(iter(following), None), Signal
                ):
                    break
    return order


@dataclass(frozen=True)
class GpuTask:
    """What the worker of one GPU puts into its streams.

    Attributes
    ----------
    label : str
        For messages.
    gpu, gpus
        The GPU, and all of the session by the artifact's names.
    device : str
        The artifact's name of the GPU.
    programs, order
        All programs of the artifact, and `issue_order` of them.
    events : event -> the driver's event
        Of all signals of GPUs; shared by the tasks of a session.
    kernels
        How the kernels are launched.
    homes : buffer -> device
        Whose memory each buffer is.
    marks : mark -> the driver's event with timing
        With any, the first two instructions let a stream reach `clock`, which ties the GPU's
        clock to the host's, and wait for it.
    clock : int, optional
        The driver's event with timing for that.
    library : Library
        Has the executor.
    """

    label: str
    gpu: Gpu
    gpus: Mapping[str, Gpu]
    device: str
    programs: Sequence[Program]
    order: Sequence[tuple[int, int]]
    events: Mapping[int, int]
    kernels: Mapping[str, GpuKernel]
    homes: Mapping[str, str | None]
    library: Library
    marks: Mapping[int, int] = field(default_factory=dict)
    clock: int | None = None
    cores: tuple[int, ...] = ()
    crossing: Mapping[int, Crossing] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "crossing", crossings(self.programs))

    @property
    def host_events(self) -> Iterable[Hashable]:
        """Events that this worker signals to others, or waits for, outside of any stream."""
        for _, step in self._steps():
            if isinstance(step, Signal):
                crossing = self.crossing[step.event]
                yield from [step.event] * crossing.reaches_cpu
                yield from [_recorded(step.event)] * crossing.reaches_gpu
            elif isinstance(step, Wait):
                crossing = self.crossing[step.event]
                if crossing.source != self.device:
                    yield _recorded(step.event) if crossing.on_gpu else step.event

    def enter(self) -> None:
        """Prepare the worker's thread."""
        self.gpu.make_current()

    def failure(self, status: int) -> str:
        """Return what is wrong where the driver returned `status`."""
        return self.gpu.driver.error_text(status)

    def lower(self, tensors: TensorTable, events: Mapping[Hashable, int]) -> Lowered:
        """Return the instructions as executor.cc reads them."""
        writer = _Writer(self, tensors, events)
        if self.clock is not None:
            writer.set_clock(self.clock)
        for program, step in self._steps():
            writer.add(program.stream, step)
        return writer.finish()

    def _steps(self) -> Iterable[tuple[Program, Instruction]]:
        for p, i in self.order:
            if self.programs[p].device == self.device:
                yield self.programs[p], self.programs[p].instructions[i]


@dataclass(frozen=True)
class GraphTask:
    """The tasks of all GPUs as one graph, for artifacts without CPUs.

    One worker starts the graph on the first GPU and waits for its end.
    """

    tasks: Sequence[GpuTask]
    cores: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The GPUs, for messages."""
        return ", ".join(task.label for task in self.tasks)

    @property
    def library(self) -> Library:
        """Has the executor."""
        return self.tasks[0].library

    @property
    def host_events(self) -> Iterable[Hashable]:
        """Streams alone wait for each other."""
        return ()

    def enter(self) -> None:
        """Prepare the worker's thread."""
        self.tasks[0].enter()

    def failure(self, status: int) -> str:
        """Return what is wrong where the driver returned `status`."""
        return self.tasks[0].failure(status)

    def lower(self, tensors: TensorTable, events: Mapping[Hashable, int]) -> Lowered:
        """Capture the graph; the instructions start it and wait for it."""
        gpu = self.tasks[0].gpu
        stream = gpu.stream()
        writers = {task.device: _Writer(task, tensors, None) for task in self.tasks}
        graph = gpu.capture(stream, lambda: self._issue(writers, stream))
        program = (NativeInstruction * 2)(
            NativeInstruction(Opcode.LAUNCH_GRAPH, 0, stream, graph, 0),
            NativeInstruction(Opcode.SYNCHRONIZE, 0, stream, None, 0),
        )
        held = [self, [writer.held for writer in writers.values()]]
        return Lowered(program, (None, None), held, ctypes.addressof(gpu.driver.native))

    def _issue(self, writers: Mapping[str, _Writer], stream: int) -> None:
        """Put everything into streams: all fork from `stream`, and join it at the end."""
        first = self.tasks[0]
        driver, fork = first.gpu.driver, first.gpu.event()
        driver.call("cuEventRecord", fork, stream)
        for p, i in first.order:
            program = first.programs[p]
            writer = writers[program.device]
            task = writer.task
            task.gpu.make_current()
            known = set(writer.streams)
            writer.add(program.stream, program.instructions[i])
            for new in writer.streams.keys() - known:
                driver.call("cuStreamWaitEvent", writer.streams[new], fork, 0)
            for step in writer.take():
                _issue_now(task, step)
        for writer in writers.values():
            for handle in writer.streams.values():
                writer.task.gpu.make_current()
                join = writer.task.gpu.event()
                driver.call("cuEventRecord", join, handle)
                first.gpu.make_current()
                driver.call("cuStreamWaitEvent", stream, join, 0)


def _issue_now(task: GpuTask, step: NativeInstruction) -> None:
    """Do what executor.cc does with an instruction of a GPU."""
    driver = task.gpu.driver
    if step.opcode == Opcode.LAUNCH:
        launch = NativeLaunch.from_address(step.source)
        sizes = (*launch.grid, *launch.block, launch.shared_bytes)
        driver.call("cuLaunchKernel", launch.function, *sizes, step.target, launch.params, None)
    elif step.opcode == Opcode.ENQUEUE_COPY:
        copy = NativeGpuCopy.from_address(step.source)
        ends = [DLTensor.from_address(end).data for end in (copy.destination, copy.source)]
        if copy.source_context == copy.destination_context:
            driver.call("cuMemcpyAsync", *ends, copy.bytes, step.target)
        else:
            contexts = (copy.destination_context, copy.source_context)
            pairs = [value for pair in zip(ends, contexts, strict=True) for value in pair]
            driver.call("cuMemcpyPeerAsync", *pairs, copy.bytes, step.target)
    elif step.opcode == Opcode.RECORD:
        driver.call("cuEventRecord", step.source, step.target)
    else:
        assert step.opcode == Opcode.AWAIT_RECORDED
        driver.call("cuStreamWaitEvent", step.target, step.source, 0)


def _recorded(event: int) -> Hashable:
    """Name of what tells other GPUs' workers that `event` can be waited for."""
    return ("recorded", event)


class _Writer:
    """Writes the native instructions of one task; `streams` has the handles of its streams.

    Without `events`, nothing outside of streams is signalled or awaited.
    """

    def __init__(
        self, task: GpuTask, tensors: TensorTable, events: Mapping[Hashable, int] | None
    ) -> None:
        self.task = task
        self._tensors = tensors
        self._events = events
        self.streams: dict[int, int] = {}
        self._steps: list[NativeInstruction] = []
        self._operators: list[str | None] = []
        self.held: list[Any] = [task]

    def add(self, stream: int, step: Instruction) -> None:
        """Write one instruction of the program of `stream`."""
        if stream not in self.streams:
            self.streams[stream] = self.task.gpu.stream()
        handle = self.streams[stream]
        if isinstance(step, Call):
            for launch in self.task.kernels[step.kernel].launches:
                native = self._keep(self._launch(launch, step))
                self._write(Opcode.LAUNCH, handle, native, operator=step.operator)
        elif isinstance(step, Copy):
            self._write(Opcode.ENQUEUE_COPY, handle, self._keep(self._copy(step)))
        elif isinstance(step, Signal):
            self._signal(step.event, handle)
        elif isinstance(step, Mark):
            self._write(Opcode.RECORD, handle, self.task.marks[step.number])
        else:
            self._wait(step.event, handle)

    def set_clock(self, event: int) -> None:
        """Record `event` in a stream of its own, and wait for it."""
        handle = self.task.gpu.stream()
        self._write(Opcode.RECORD, handle, event)
        self._write(Opcode.SYNCHRONIZE, handle)

    def take(self) -> list[NativeInstruction]:
        """Return what was written since the last call."""
        steps, self._steps = self._steps, []
        return steps

    def finish(self) -> Lowered:
        """Return all that was written; the streams must be empty at its end."""
        for handle in self.streams.values():
            self._write(Opcode.SYNCHRONIZE, handle)
        program = (NativeInstruction * len(self._steps))(*self._steps)
        driver = self.task.gpu.driver.native
        return Lowered(program, tuple(self._operators), self.held, ctypes.addressof(driver))

    def _signal(self, event: int, handle: int) -> None:
        crossing = self.task.crossing[event]
        self._write(Opcode.RECORD, handle, self.task.events[event])
        if self._events is None:
            return
        if crossing.reaches_gpu:
            self._write(Opcode.SIGNAL, number=self._events[_recorded(event)])
        if crossing.reaches_cpu:
            signal = self._keep(NativeHostSignal())
            self._write(Opcode.SIGNAL_FROM_STREAM, handle, signal, number=self._events[event])

    def _wait(self, event: int, handle: int) -> None:
        crossing = self.task.crossing[event]
        if not crossing.on_gpu:
            assert self._events is not None
            self._write(Opcode.WAIT, number=self._events[event])
            return
        if self._events is not None and crossing.source != self.task.device:
            self._write(Opcode.WAIT, number=self._events[_recorded(event)])
        self._write(Opcode.AWAIT_RECORDED, handle, self.task.events[event])

    def _launch(self, launch: Launch, call: Call) -> NativeLaunch:
        addresses = [self._tensors.data_pointer(call.args[number]) for number in launch.args]
        params = (ctypes.c_void_p * len(addresses))(*addresses)
        self.held.append(params)
        return NativeLaunch(
            self.task.gpu.function(launch.symbol, launch.shared_bytes),
            ctypes.addressof(params),
            (ctypes.c_uint32 * 3)(*launch.grid),
            (ctypes.c_uint32 * 3)(*launch.block),
            launch.shared_bytes,
        )

    def _copy(self, step: Copy) -> NativeGpuCopy:
        src, dst = (self.task.gpus.get(self.task.homes[n] or "") for n in (step.src, step.dst))
        between = src is not None and dst is not None
        return NativeGpuCopy(
            self._tensors.pointer(step.dst),
            self._tensors.pointer(step.src),
            dst.context if between and dst is not None else None,
            src.context if between and src is not None else None,
            self._tensors.nbytes(step.dst),
        )

    def _keep(self, structure: ctypes.Structure) -> int:
        self.held.append(structure)
        return ctypes.addressof(structure)

    def _write(
        self,
        kind: int,
        target: int | None = None,
        source: int | None = None,
        *,
        number: int = 0,
        operator: str | None = None,
    ) -> None:
        self._steps.append(NativeInstruction(kind, number, target, source, 0))
        self._operators.append(operator)
