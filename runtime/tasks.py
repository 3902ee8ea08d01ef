"""What worker threads execute: instructions, lowered to the structs that executor.cc reads."""

import ctypes
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hios_tvm.runtime.abi import DLTENSOR_POINTER, FFIAny, NativeInstruction, Opcode
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.native import Library, raised_message
from hios_tvm.schema.program import Call, Copy, Instruction, Signal, Wait


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
    driver : int or None
        Address of the driver's functions, where the worker feeds a GPU.
    """

    instructions: ctypes.Array[NativeInstruction]
    operators: Sequence[str | None]
    held: list[Any]
    driver: int | None = None


class Task(Protocol):
    """What one worker thread executes.

    `cores` are those that its threads are pinned to, the first one the worker's; empty: not pinned.
    `host_events` names the events that it signals or awaits, `label` is for messages.
    """

    @property
    def label(self) -> str: ...
    @property
    def cores(self) -> tuple[int, ...]: ...
    @property
    def library(self) -> Library: ...
    @property
    def host_events(self) -> Iterable[Hashable]: ...

    def lower(self, tensors: TensorTable, events: Mapping[Hashable, int]) -> NativeProgram:
        """Return the instructions for executor.cc; `events` numbers those of all tasks."""
        ...

    def enter(self) -> None:
        """Prepare the worker's thread."""
        ...

    def failure(self, status: int) -> str:
        """Describe the failure of an instruction that returned `status`."""
        ...


@dataclass(frozen=True)
class CpuTask:
    """Instructions of one stream of a CPU device, its cores, and the library of its kernels."""

    label: str
    cores: tuple[int, ...]
    instructions: Sequence[Instruction]
    library: Library

    @property
    def host_events(self) -> Iterable[Hashable]:
        """Events that the instructions signal or await."""
        return (step.event for step in self.instructions if isinstance(step, Signal | Wait))

    def enter(self) -> None:
        """Prepare the worker's thread: nothing to do on a CPU."""

    def failure(self, status: int) -> str:
        """Return the error that a kernel has just raised in this thread."""
        return raised_message()

    def lower(self, tensors: TensorTable, events: Mapping[Hashable, int]) -> NativeProgram:
        """Return the instructions as executor.cc reads them, and their arguments."""
        program = (NativeInstruction * max(1, len(self.instructions)))()
        calls = [step for step in self.instructions if isinstance(step, Call)]
        arguments = (FFIAny * max(1, sum(len(call.args) for call in calls)))()
        used = 0
        for step, native in zip(self.instructions, program, strict=False):
            if isinstance(step, Call):
                native.opcode, native.number = Opcode.CALL, len(step.args)
                native.target = self.library.kernel(step.kernel)
                native.source = ctypes.addressof(arguments) + used * ctypes.sizeof(FFIAny)
                for name in step.args:
                    arguments[used] = FFIAny(DLTENSOR_POINTER, 0, tensors.pointer(name))
                    used += 1
            elif isinstance(step, Copy):
                native.opcode, native.bytes = Opcode.COPY, tensors.nbytes(step.dst)
                native.target, native.source = tensors.pointer(step.dst), tensors.pointer(step.src)
            else:
                native.opcode = Opcode.SIGNAL if isinstance(step, Signal) else Opcode.WAIT
                native.number = events[step.event]
        operators = [s.operator if isinstance(s, Call) else None for s in self.instructions]
        return NativeProgram(program, operators, [arguments])
