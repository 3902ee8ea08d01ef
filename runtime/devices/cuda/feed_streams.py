"""Feeding CUDA streams: the worker thread of a GPU issues the programs of all its streams.

Ordering on the GPU is the driver's: a stream keeps its order, and events order streams, also those
of two GPUs. Workers wait for each other only where the driver cannot: an event of another GPU must
have been recorded before a stream can wait for it, and CPUs run kernels outside of any stream.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hios_tvm.runtime.devices.cuda.gpu import Gpu
from hios_tvm.runtime.devices.cuda.instruction_writer import (
    CLOCK_INSTRUCTIONS,
    InstructionWriter,
    recorded,
)
from hios_tvm.runtime.devices.cuda.issue_order import EventUsers, event_users
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.native import Library
from hios_tvm.runtime.tasks import NativeProgram, Team
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.program import Instruction, Program, Signal, Wait


@dataclass(frozen=True)
class GpuTask:
    """What the worker of one GPU issues to its streams, those of all its parts.

    Attributes
    ----------
    index : int
        Which GPU.
    devices : device -> device
        The artifact's devices that are on this GPU, and what they are here, for messages.
    gpus : device -> Gpu
        All GPUs of the session, or parts of them, by the artifact's names.
    programs, order
        All programs of the artifact, and `issue_order` of them.
    events : event -> CUevent
        Of all signals of GPUs; shared by the tasks of a session.
    kernels
        How the kernels are launched.
    buffer_device : buffer -> device
        Whose memory each buffer is in; None for the host's.
    library : Library
        Has the executor.
    marks : mark -> CUevent with timing
        Recorded where the programs have a `Mark`.
    clock : CUevent with timing, optional
        Recorded in a stream of its own, and waited for, before anything else: it ties the GPU's
        clock to the host's.
    """

    index: int
    devices: Mapping[str, str]
    gpus: Mapping[str, Gpu]
    programs: Sequence[Program]
    order: Sequence[tuple[int, int]]
    events: Mapping[int, int]
    kernels: Mapping[str, GpuKernel]
    buffer_device: Mapping[str, str | None]
    library: Library
    marks: Mapping[int, int] = field(default_factory=dict)
    clock: int | None = None
    core: int | None = None
    teams: tuple[Team, ...] = ()
    event_users: Mapping[int, EventUsers] = field(init=False)

    def __post_init__(self) -> None:
        gpu_of = {device: f"cuda:{gpu.index}" for device, gpu in self.gpus.items()}
        object.__setattr__(self, "event_users", event_users(self.programs, gpu_of))

    @property
    def name(self) -> str:
        """Who this worker is among the users of events."""
        return f"cuda:{self.index}"

    @property
    def gpu(self) -> Gpu:
        """The first of its devices: all have the context, the memory and the clock of the GPU."""
        return self.gpus[next(iter(self.devices))]

    @property
    def label(self) -> str:
        """Its devices, for messages."""
        return ", ".join(self.devices.values())

    @property
    def host_events(self) -> Iterable[Hashable]:
        """Events that this worker signals to other workers, or waits for, outside of streams."""
        for _, step in self._steps():
            if isinstance(step, Signal):
                users = self.event_users[step.event]
                yield from [step.event] * users.to_host
                yield from [recorded(step.event)] * users.to_other_gpu
            elif isinstance(step, Wait):
                users = self.event_users[step.event]
                if users.source != self.name:
                    yield recorded(step.event) if users.from_gpu else step.event

    def enter(self) -> None:
        """Prepare the worker's thread."""
        self.gpu.make_current()

    def device_of(self, index: int) -> str:
        """Return the GPU, or its parts, for messages."""
        return self.label

    def failure(self, status: int) -> str:
        """Return the driver's description of a result code."""
        return self.gpu.driver.error_text(status)

    def lower(
        self, tensors: TensorTable, events: Mapping[Hashable, int], teams: Mapping[Team, int]
    ) -> NativeProgram:
        """Return the instructions as executor.cc reads them."""
        writer = InstructionWriter(self, tensors, events)
        if self.clock is not None:
            writer.set_clock(self.clock)
        for program, step in self._steps():
            writer.add(program, step)
        return writer.finish()

    def clock_ns(self, times: Sequence[int] | np.ndarray[Any, Any]) -> int:
        """Return when `clock` was reached, given when each instruction began in a run.

        Nanoseconds of the host's monotonic clock.
        """
        return int(times[CLOCK_INSTRUCTIONS])

    def _steps(self) -> Iterable[tuple[Program, Instruction]]:
        for p, i in self.order:
            if self.programs[p].device in self.devices:
                yield self.programs[p], self.programs[p].instructions[i]
