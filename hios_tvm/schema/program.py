"""Programs: what one stream of one device executes, in order."""

from dataclasses import dataclass

COPY_STREAM = 65
"""The stream of a GPU on which its copies overlap with the kernels of the others."""


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
    """Copy buffer `src` to buffer `dst`.

    The device of `dst` executes it; where only one of the two is on a GPU, that GPU.
    """

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

    On a CPU, stream 0 has all cores of its device; streams 1, 2, ... have an equal share each. On
    a GPU they are its streams, and `COPY_STREAM` has the copies.
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
