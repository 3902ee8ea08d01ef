"""The native instructions (program.h) that a worker of a GPU executes."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from hios_tvm.runtime.abi import (
    NativeGpuCopy,
    NativeHostSignal,
    NativeInstruction,
    NativeLaunch,
    Opcode,
)
from hios_tvm.runtime.devices.cuda.gpu import Gpu
from hios_tvm.runtime.devices.cuda.trace import Mark
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.tasks import NativeProgram
from hios_tvm.schema.launches import Launch
from hios_tvm.schema.program import Call, Copy, Instruction, Program, Signal

if TYPE_CHECKING:
    from hios_tvm.runtime.devices.cuda.feed_streams import GpuTask

CLOCK_INSTRUCTIONS = 2
"""How many instructions `InstructionWriter.set_clock` writes."""


def recorded(event: int) -> Hashable:
    """Return the event that tells workers of other GPUs that `event` has been recorded."""
    return ("recorded", event)


class InstructionWriter:
    """Writes the native instructions of one task.

    `streams` holds the CUstream of each device and stream.

    `events` numbers the events of worker threads. Without it, only streams are signalled and wait:
    a CUDA graph is captured.
    """

    def __init__(
        self, task: GpuTask, tensors: TensorTable, events: Mapping[Hashable, int] | None
    ) -> None:
        self.task = task
        self._tensors = tensors
        self._events = events
        self.streams: dict[tuple[str, int], int] = {}
        self._steps: list[NativeInstruction] = []
        self._operators: list[str | None] = []
        self.held: list[Any] = [task]

    def add(self, program: Program, step: Instruction) -> None:
        """Write one instruction of `program`."""
        gpu, place = self.task.gpus[program.device], (program.device, program.stream)
        if place not in self.streams:
            self.streams[place] = gpu.stream()
        handle = self.streams[place]
        if isinstance(step, Call):
            for launch in self.task.kernels[step.kernel].launches:
                native = self._keep(self._launch(gpu, launch, step))
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
        """Record `event` in a stream of its own, and wait for it: `CLOCK_INSTRUCTIONS`."""
        handle = self.task.gpu.stream()
        self._write(Opcode.RECORD, handle, event)
        self._write(Opcode.SYNCHRONIZE, handle)

    def take(self) -> list[NativeInstruction]:
        """Return what was written since the last call."""
        steps, self._steps = self._steps, []
        return steps

    def finish(self) -> NativeProgram:
        """Return all that was written; the streams must be empty at its end."""
        for handle in self.streams.values():
            self._write(Opcode.SYNCHRONIZE, handle)
        program = (NativeInstruction * len(self._steps))(*self._steps)
        gpu = self.task.gpu
        driver = ctypes.addressof(gpu.driver.native)
        return NativeProgram(program, tuple(self._operators), self.held, driver, gpu.context)

    def _signal(self, event: int, handle: int) -> None:
        users = self.task.event_users[event]
        self._write(Opcode.RECORD, handle, self.task.events[event])
        if self._events is None:
            return
        if users.to_other_gpu:
            self._write(Opcode.SIGNAL, number=self._events[recorded(event)])
        if users.to_host:
            signal = self._keep(NativeHostSignal())
            self._write(Opcode.SIGNAL_FROM_STREAM, handle, signal, number=self._events[event])

    def _wait(self, event: int, handle: int) -> None:
        users = self.task.event_users[event]
        if not users.from_gpu:
            assert self._events is not None
            self._write(Opcode.WAIT, number=self._events[event])
            return
        if self._events is not None and users.source != self.task.name:
            self._write(Opcode.WAIT, number=self._events[recorded(event)])
        self._write(Opcode.AWAIT_RECORDED, handle, self.task.events[event])

    def _launch(self, gpu: Gpu, launch: Launch, call: Call) -> NativeLaunch:
        addresses = [self._tensors.data_pointer(call.args[number]) for number in launch.args]
        params = (ctypes.c_void_p * len(addresses))(*addresses)
        self.held.append(params)
        return NativeLaunch(
            gpu.kernel(launch.symbol, launch.shared_bytes),
            ctypes.addressof(params),
            (ctypes.c_uint32 * 3)(*launch.grid),
            (ctypes.c_uint32 * 3)(*launch.block),
            launch.shared_bytes,
        )

    def _copy(self, step: Copy) -> NativeGpuCopy:
        owners = (self.task.buffer_device[name] for name in (step.src, step.dst))
        src, dst = (self.task.gpus.get(owner or "") for owner in owners)
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
