"""Programs: what one stream of one device executes, in order."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Call", "Copy", "Instruction", "Program", "Signal", "Wait"]


@dataclass(frozen=True)
class Call:
    """Run `kernel` for `operator` on the buffers `args`, its inputs first, then its outputs.

    `outputs` says how many of the last buffers the kernel writes.
    """

    operator: str
    kernel: str
    args: tuple[str, ...]
    outputs: int = 1


@dataclass(frozen=True)
class Copy:
    """Copy buffer `src` to buffer `dst`; the device of `dst` executes it."""

    src: str
    dst: str


@dataclass(frozen=True)
class Signal:
    """Tell that everything before this instruction has ended; each event is signalled once."""

    event: int


@dataclass(frozen=True)
class Wait:
    """Go on when `event` has been signalled."""

    event: int


Instruction = Call | Copy | Signal | Wait


@dataclass(frozen=True)
class Program:
    """The instructions of one stream.

    Stream 0 has all cores of its device; streams 1, 2, ... have an equal share each.
    """

    device: str
    stream: int
    instructions: tuple[Instruction, ...]


def reads_and_writes(instruction: Instruction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the buffers that `instruction` reads and those that it writes.

    >>> reads_and_writes(Call("relu1", "relu", ("x", "y")))
    (('x',), ('y',))
    """
    if isinstance(instruction, Call):
        split = len(instruction.args) - instruction.outputs
        return instruction.args[:split], instruction.args[split:]
    if isinstance(instruction, Copy):
        return (instruction.src,), (instruction.dst,)
    return (), ()
