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
from hios_tvm.runtime.devices.cuda.issue_order import EventDevices, event_devices
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.native import Library
from hios_tvm.runtime.tasks import NativeProgram, Team
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.program import Instruction, Program, Signal, Wait


@dataclass(frozen=True)
class GpuTask:
    """What the worker of one GPU issues to its streams.

    Attributes
    ----------
    label : str
        For messages.
    gpu, gpus
        The GPU, and all GPUs of the session by the artifact's names.
    device : str
        The artifact's name of the GPU.
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

    label: str
    gpu: Gpu
    gpus: Mapping[str, Gpu]
    device: str
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
    event_devices: Mapping[int, EventDevices] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_devices", event_devices(self.programs))

    @property
    def host_events(self) -> Iterable[Hashable]:
        """Events that this worker signals to other workers, or waits for, outside of streams."""
        for _, step in self._steps():
            if isinstance(step, Signal):
                devices = self.event_devices[step.event]
                yield from [step.event] * devices.to_host
                yield from [recorded(step.event)] * devices.to_other_gpu
            elif isinstance(step, Wait):
                devices = self.event_devices[step.event]
                if devices.source != self.device:
                    yield recorded(step.event) if devices.from_gpu else step.event

    def enter(self) -> None:
        """Prepare the worker's thread."""
        self.gpu.make_current()

    def device_of(self, index: int) -> str:
        """Return the GPU, for messages."""
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
            writer.add(program.stream, step)
        return writer.finish()

    def clock_ns(self, times: Sequence[int] | np.ndarray[Any, Any]) -> int:
        """Return when `clock` was reached, given when each instruction began in a run.

        Nanoseconds of the host's monotonic clock.
        """
        return int(times[CLOCK_INSTRUCTIONS])

    def _steps(self) -> Iterable[tuple[Program, Instruction]]:
        for p, i in self.order:
            if self.programs[p].device == self.device:
                yield self.programs[p], self.programs[p].instructions[i]
