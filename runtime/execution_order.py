"""An order in which the instructions of programs can run, one after another."""

import heapq
from collections.abc import Iterator, Sequence
from typing import Protocol

from hios_tvm.errors import ArtifactError
from hios_tvm.schema.program import Instruction, Signal, Wait


class Stream(Protocol):
    """Instructions that are executed one after another."""

    @property
    def device(self) -> str: ...
    @property
    def instructions(self) -> Sequence[Instruction]: ...


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
