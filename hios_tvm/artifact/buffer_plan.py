"""Buffers to offsets in one arena per device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hios_tvm.runtime.execution_order import execution_order
from hios_tvm.runtime.memory import align_up
from hios_tvm.schema.manifest import Buffer
from hios_tvm.schema.program import Program, Signal, Wait, reads_and_writes


@dataclass(frozen=True)
class BufferPlan:
    """All buffers, those in arenas with their offsets, and the bytes of each device's arena."""

    buffers: tuple[Buffer, ...]
    arena_bytes: Mapping[str, int]


def plan_buffers(programs: Sequence[Program], buffers: Sequence[Buffer]) -> BufferPlan:
    """Give every arena buffer an offset.

    Two buffers share memory only if, in every order that signals and waits allow, one is no
    longer used when the other one is first used.

    Parameters
    ----------
    programs
        All programs, with buffers by name.
    buffers
        All buffers; those in arenas without offsets.

    Raises
    ------
    ArtifactError
        If the programs would hang.

    Notes
    -----
    Greedy by size, each buffer at the lowest offset that is free: O(n^2 p) for n buffers and p
    programs, in NumPy. Arena buffers that no instruction uses are left out.

    Examples
    --------
    >>> from hios_tvm.schema.program import Call
    >>> chain = Program("cpu@0", 0, tuple(Call(b, "k", (a, b)) for a, b in ["xa", "ab", "bc"]))
    >>> plan = plan_buffers([chain], [Buffer(n, "cpu@0", "arena", (16,), "float32") for n in "abc"])
    >>> [buffer.offset for buffer in plan.buffers], dict(plan.arena_bytes)
    ([0, 64, 0], {'cpu@0': 128})
    """
    lifetimes = _Lifetimes(programs)
    arenas = {program.device: _Arena(lifetimes) for program in programs}
    needed = [b for b in buffers if b.space != "arena" or b.name in lifetimes.row]
    offsets: dict[str, int] = {}
    arena = [buffer for buffer in needed if buffer.space == "arena"]
    for buffer in sorted(arena, key=lambda buffer: -buffer.nbytes):
        device = arenas.setdefault(str(buffer.device), _Arena(lifetimes))
        offsets[buffer.name] = device.place(buffer)
    planned = (
        replace(buffer, offset=offsets[buffer.name]) if buffer.space == "arena" else buffer
        for buffer in needed
    )
    return BufferPlan(tuple(planned), {name: arena.nbytes for name, arena in arenas.items()})


class _Lifetimes:
    """When buffers are used, as vector clocks: one number for each program.

    Attributes
    ----------
    row : dict
        The row of each buffer that an instruction uses, in the arrays below.
    last : array of shape (buffers, programs)
        The place of its last use in each program; -1 where there is none.
    before : array of shape (buffers, programs)
        How many instructions of each program have ended before any use, in every order.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self.row: dict[str, int] = {}
        for program in programs:
            for step in program.instructions:
                for names in reads_and_writes(step):
                    for name in names:
                        self.row.setdefault(name, len(self.row))
        shape = (len(self.row), len(programs))
        self.last = np.full(shape, -1, np.int32)
        self.before = np.full(shape, np.iinfo(np.int32).max, np.int32)
        self._follow(programs)

    def _follow(self, programs: Sequence[Program]) -> None:
        clocks = np.zeros((len(programs), len(programs)), np.int32)
        signalled: dict[int, np.ndarray[Any, Any]] = {}
        for p, i in execution_order(programs):
            step, clock = programs[p].instructions[i], clocks[p]
            if isinstance(step, Wait):
                np.maximum(clock, signalled[step.event], out=clock)
            for names in reads_and_writes(step):
                for name in names:
                    row = self.row[name]
                    self.last[row, p] = i
                    np.minimum(self.before[row], clock, out=self.before[row])
            clock[p] = i + 1
            if isinstance(step, Signal):
                signalled[step.event] = clock.copy()

    def overlapping(self, row: int, others: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return which of the rows `others` may be in use while `row` is."""
        earlier = (self.last[others] < self.before[row]).all(axis=1)
        later = (self.last[row] < self.before[others]).all(axis=1)
        overlaps: np.ndarray[Any, Any] = ~(earlier | later)
        return overlaps


class _Arena:
    """The buffers of one device that have been placed, by their offsets."""

    def __init__(self, lifetimes: _Lifetimes) -> None:
        self.nbytes = 0
        self._lifetimes = lifetimes
        self._rows, self._starts, self._ends = (np.empty(0, np.int64) for _ in range(3))

    def place(self, buffer: Buffer) -> int:
        """Return the lowest offset at which `buffer` shares no byte with one in use beside it."""
        row, size = self._lifetimes.row[buffer.name], align_up(buffer.nbytes)
        taken = self._lifetimes.overlapping(row, self._rows)
        reached = np.maximum.accumulate(np.append(0, self._ends[taken]))
        gaps = np.flatnonzero(self._starts[taken] - reached[:-1] >= size)
        offset = int(reached[gaps[0] if len(gaps) else -1])
        place = int(np.searchsorted(self._starts, offset))
        self._rows = np.insert(self._rows, place, row)
        self._starts = np.insert(self._starts, place, offset)
        self._ends = np.insert(self._ends, place, offset + size)
        self.nbytes = max(self.nbytes, offset + size)
        return offset
