"""The happens-before order of instructions: what programs guarantee in every possible run.

Instructions are ordered by their position in a program and by signals and waits. Two instructions
that this order does not fix may run at the same time. Programs that wait for each other in a cycle
have no such order: they would hang.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from hios_tvm.errors import ArtifactError
from hios_tvm.schema.program import Instruction, Program, Signal, Wait, reads_and_writes


class Stream(Protocol):
    """Instructions that are executed one after another."""

    @property
    def device(self) -> str: ...
    @property
    def instructions(self) -> Sequence[Instruction]: ...


class HappensBefore:
    """Which instructions have ended before others begin, in every possible run.

    Parameters
    ----------
    programs
        All programs of an artifact.

    Raises
    ------
    ArtifactError
        If an event is signalled twice, or awaited and never signalled, or if programs wait
        for each other in a cycle and would hang.

    Notes
    -----
    O(n^2 / 64) time and memory for n instructions: each has the bit set of all before it.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self._programs = programs
        signals = _signals(programs)
        before: dict[tuple[int, int], int] = {}
        self._bit: dict[tuple[int, int], int] = {}
        for p, i in execution_order(programs):
            step = programs[p].instructions[i]
            known = before[p, i - 1] | self._bit[p, i - 1] if i else 0
            if isinstance(step, Wait):
                signal = signals[step.event]
                known |= before[signal] | self._bit[signal]
            before[p, i] = known
            self._bit[p, i] = 1 << len(self._bit)
        self._before = before
        self._collect_accesses()

    def writers(self, buffer: str) -> int:
        """Return how many instructions write `buffer`."""
        return self._writes[buffer]

    def is_used(self, buffer: str) -> bool:
        """Return whether any instruction reads or writes `buffer`."""
        return buffer in self._accesses

    def written_first(self, buffer: str) -> bool:
        """Return whether every read of `buffer` comes after its (only) write."""
        return all(self._writer[buffer] & before for before in self._reads.get(buffer, ()))

    def written_at(self, buffer: str) -> int:
        """Return the place of the instruction that writes `buffer` in one possible run."""
        return self._writer[buffer].bit_length()

    def precedes(self, first: str, second: str) -> bool:
        """Return whether all accesses of buffer `first` precede all accesses of `second`."""
        return not self._accesses.get(first, 0) & ~self._before_all.get(second, -1)

    def ordered(self, first: str, second: str) -> bool:
        """Return whether all accesses of one of the buffers precede all accesses of the other."""
        return self.precedes(first, second) or self.precedes(second, first)

    def _collect_accesses(self) -> None:
        self._accesses: dict[str, int] = {}  # instructions that use the buffer
        self._before_all: dict[str, int] = {}  # instructions before every one of those
        self._writes: Counter[str] = Counter()
        self._writer: dict[str, int] = {}
        self._reads: dict[str, list[int]] = {}
        for p, program in enumerate(self._programs):
            for i, step in enumerate(program.instructions):
                reads, writes = reads_and_writes(step)
                bit, before = self._bit[p, i], self._before[p, i]
                for name in {*reads, *writes}:
                    self._accesses[name] = self._accesses.get(name, 0) | bit
                    self._before_all[name] = self._before_all.get(name, -1) & before
                for name in reads:
                    self._reads.setdefault(name, []).append(before)
                for name in writes:
                    self._writes[name] += 1
                    self._writer[name] = bit


def execution_order(programs: Sequence[Stream]) -> Iterator[tuple[int, int]]:
    """Yield program and place of each instruction, each after all that it waits for.

    Raises
    ------
    ArtifactError
        If an event is signalled twice, or awaited and never signalled, or if programs wait for
        each other in a cycle.
    """
    signals = _signals(programs)
    position = [0] * len(programs)
    waiting: dict[int, list[int]] = {}
    ready, later = list(range(len(programs))), list[int]()  # in this round, and in the next one
    while ready or later:
        if not ready:
            ready, later = sorted(later), []
        p = heapq.heappop(ready)
        for i in range(position[p], len(programs[p].instructions)):
            step = programs[p].instructions[i]
            if isinstance(step, Wait):
                other, index = signals[step.event]
                if position[other] <= index:
                    waiting.setdefault(step.event, []).append(p)
                    break
            yield p, i
            position[p] = i + 1
            if isinstance(step, Signal):
                for woken in waiting.pop(step.event, ()):
                    if woken > p:
                        heapq.heappush(ready, woken)
                    else:
                        later.append(woken)
    if waiting:
        raise ArtifactError(_hang(programs, position))


def _signals(programs: Sequence[Stream]) -> dict[int, tuple[int, int]]:
    signals: dict[int, tuple[int, int]] = {}
    for p, program in enumerate(programs):
        for i, step in enumerate(program.instructions):
            if isinstance(step, Signal):
                if step.event in signals:
                    raise ArtifactError(f"event {step.event} is signalled twice")
                signals[step.event] = (p, i)
    for program in programs:
        for step in program.instructions:
            if isinstance(step, Wait) and step.event not in signals:
                raise ArtifactError(
                    f"{program.device} waits for event {step.event}, which nobody signals"
                )
    return signals


def _hang(programs: Sequence[Stream], position: Sequence[int]) -> str:
    p = next(p for p, program in enumerate(programs) if position[p] < len(program.instructions))
    step = programs[p].instructions[position[p]]
    return f"the programs wait for each other in a cycle, at {step} of {programs[p].device}"
