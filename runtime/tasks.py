"""What worker threads execute: instructions, lowered to the structs that executor.cc reads."""

import ctypes
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from hios_tvm.runtime.abi import DLTENSOR_POINTER, FFIAny, NativeInstruction, Opcode
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.native import Library, raised_message
from hios_tvm.schema.program import Call, Copy, Instruction, Signal, Wait

Worker: TypeAlias = tuple[int, int]
"""A core, and a number where one core has several workers."""

Team: TypeAlias = tuple[Worker, ...]
"""Workers that share the parallel loops of kernels; the first one calls the kernels."""


@dataclass(frozen=True)
class NativeProgram:
    """Instructions as executor.cc reads them.

    Attributes
    ----------
    instructions
        The array that the worker executes.
    operators
        For each instruction the operator that it belongs to, if any.
    held
        Owners of the memory that instructions point to.
    driver, context : int or None
        Address of the driver's functions, and the GPU's context, where the worker feeds a GPU.
    """

    instructions: ctypes.Array[NativeInstruction]
    operators: Sequence[str | None]
    held: list[Any]
    driver: int | None = None
    context: int | None = None


class Task(Protocol):
    """What one worker thread executes.

    `core` is the one that its thread is pinned to, if any. `host_events` names the events that it
    signals or awaits, `teams` those whose kernels it calls or assists.
    """

    @property
    def core(self) -> int | None: ...
    @property
    def library(self) -> Library: ...
    @property
    def host_events(self) -> Iterable[Hashable]: ...
    @property
    def teams(self) -> Iterable[Team]: ...

    def lower(
        self, tensors: TensorTable, events: Mapping[Hashable, int], teams: Mapping[Team, int]
    ) -> NativeProgram:
        """Return the instructions for executor.cc.

        `events` numbers the events of all tasks, `teams` has the address of each team.
        """
        ...

    def device_of(self, index: int) -> str:
        """Return the device of an instruction, for messages."""
        ...

    def enter(self) -> None:
        """Prepare the worker's thread."""
        ...

    def failure(self, status: int) -> str:
        """Describe the failure of an instruction that returned `status`."""
        ...


@dataclass(frozen=True)
class Assist:
    """Take part in the parallel loops of a team's kernels, as its `member`, until `event`."""

    event: Hashable
    member: int


@dataclass(frozen=True)
class Dismiss:
    """Signal `event` to those who assist."""

    event: Hashable


@dataclass(frozen=True)
class Step:
    """An instruction of one worker.

    Attributes
    ----------
    instruction
        What is to be done.
    device : str
        For messages.
    team : Team
        Whose kernel is called, assisted or ended; of one worker where its loops are its own.
    origin : tuple of int, optional
        The program that the instruction is from, and its place there.
    """

    instruction: Instruction | Assist | Dismiss
    device: str
    team: Team = ()
    origin: tuple[int, int] | None = None


@dataclass(frozen=True)
class CpuTask:
    """The steps of a worker on a CPU, its core, and the library of the kernels that it calls."""

    core: int | None
    steps: Sequence[Step]
    library: Library

    @property
    def host_events(self) -> Iterable[Hashable]:
        """Events that the instructions signal or await."""
        others = (step.instruction for step in self.steps)
        return (other.event for other in others if not isinstance(other, Call | Copy))

    @property
    def teams(self) -> Iterable[Team]:
        """Teams of more than one worker."""
        return (step.team for step in self.steps if len(step.team) > 1)

    def enter(self) -> None:
        """Prepare the worker's thread: nothing to do on a CPU."""

    def device_of(self, index: int) -> str:
        """Return the device of an instruction, for messages."""
        return self.steps[index].device

    def failure(self, status: int) -> str:
        """Return the error that a kernel has just raised in this thread."""
        return raised_message()

    def lower(
        self, tensors: TensorTable, events: Mapping[Hashable, int], teams: Mapping[Team, int]
    ) -> NativeProgram:
        """Return the instructions as executor.cc reads them, and their arguments."""
        program = (NativeInstruction * max(1, len(self.steps)))()
        calls = [s.instruction for s in self.steps if isinstance(s.instruction, Call)]
        arguments = (FFIAny * max(1, sum(len(call.args) for call in calls)))()
        operators: list[str | None] = [None] * len(self.steps)
        used = 0
        for i, (step, native) in enumerate(zip(self.steps, program, strict=False)):
            what = step.instruction
            native.team = teams.get(step.team)
            if isinstance(what, Call):
                native.opcode, native.number = Opcode.CALL, len(what.args)
                native.target = self.library.kernel(what.kernel)
                native.source = ctypes.addressof(arguments) + used * ctypes.sizeof(FFIAny)
                for name in what.args:
                    arguments[used] = FFIAny(DLTENSOR_POINTER, 0, tensors.pointer(name))
                    used += 1
                operators[i] = what.operator
            elif isinstance(what, Copy):
                native.opcode, native.bytes = Opcode.COPY, tensors.nbytes(what.dst)
                native.target, native.source = tensors.pointer(what.dst), tensors.pointer(what.src)
            else:
                native.opcode, native.number = _OPCODES[type(what)], events[what.event]
                native.bytes = what.member if isinstance(what, Assist) else 0
        return NativeProgram(program, operators, [arguments])


_OPCODES = {
    Signal: Opcode.SIGNAL,
    Wait: Opcode.WAIT,
    Assist: Opcode.ASSIST,
    Dismiss: Opcode.DISMISS,
}
