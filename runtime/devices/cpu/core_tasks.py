"""From programs of CPU devices to what each core does.

Devices may share cores: ``cpu@0-1`` has those of ``cpu@0`` and ``cpu@1``, and the streams of a
device have shares of its cores. Each core gets one worker, which executes the instructions of all
programs that have the core, in one order that the signals and waits of the programs allow. The
first core of a program calls its kernels; meanwhile the others assist in the parallel loops::

    cpu@0-1   call a          core 0   call a, dismiss core 1, call b
    cpu@0     call b    ->    core 1   assist in a, call c
    cpu@1     call c

A core that comes late assists in what is left, and a call does not wait for it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hios_tvm.errors import ArtifactError
from hios_tvm.runtime.devices.interface import Times
from hios_tvm.runtime.execution_order import execution_order
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.native import Library
from hios_tvm.runtime.tasks import Assist, CpuTask, Dismiss, Step, Team, Worker
from hios_tvm.schema.program import Call, Instruction

_NO_CORE = -1


@dataclass(frozen=True)
class CpuProgram:
    """Instructions of one stream of a CPU device.

    `cores` are all that work on its kernels, the first one calls them; without cores it has a
    worker of its own that is not pinned. A core that is named n times has n workers.
    """

    device: str
    cores: tuple[int, ...]
    instructions: Sequence[Instruction]
    library: Library


def core_tasks(
    programs: Sequence[CpuProgram], order: Iterable[tuple[int, int]] | None = None
) -> tuple[CpuTask, ...]:
    """Return the task of each worker.

    Parameters
    ----------
    programs
        All programs of the host's cores.
    order : pairs of int, optional
        Program and place of each instruction, in an order that they can be executed in. Without
        it the programs wait only for each other.

    Raises
    ------
    ArtifactError
        If the programs would hang, or programs of one core call kernels of different libraries.
    """
    if order is None:
        order = execution_order(programs)
    teams = [_team(number, program.cores) for number, program in enumerate(programs)]
    sequences = _sequences(programs, teams, order)
    last_calls = {origin for steps in sequences.values() for origin, leads in steps if not leads}
    tasks = []
    for worker, entries in sequences.items():
        steps = list(_steps(worker, entries, programs, teams, last_calls))
        used = {programs[origin[0]].library for origin, leads in entries if leads}
        if len(used) > 1:
            raise ArtifactError(f"core {worker[0]} has kernels of {len(used)} libraries")
        library = used.pop() if used else programs[entries[0][0][0] if entries else 0].library
        tasks.append(CpuTask(None if worker[0] < 0 else worker[0], steps, library))
    return tuple(tasks)


def program_times(
    tasks: Sequence[CpuTask], programs: Sequence[CpuProgram], executor: Executor
) -> list[Times]:
    """Return for each program when each instruction of the latest run began, then the last's end.

    Nanoseconds of the monotonic clock.
    """
    result = [np.zeros(len(program.instructions) + 1, np.int64) for program in programs]
    for number, task in enumerate(tasks):
        times = executor.times(number)
        for step, start_ns, end_ns in zip(task.steps, times[:-1], times[1:], strict=True):
            if step.origin is not None:
                program, index = step.origin
                result[program][index : index + 2] = start_ns, end_ns
    return result


def _team(number: int, cores: tuple[int, ...]) -> Team:
    """Return the workers of program `number`."""
    if not cores:
        return ((_NO_CORE - number, 0),)
    return tuple((core, cores[:i].count(core)) for i, core in enumerate(cores))


_Entry = tuple[tuple[int, int], bool]
"""An instruction by program and place, and whether this worker executes it or assists in it."""


def _sequences(
    programs: Sequence[CpuProgram], teams: Sequence[Team], order: Iterable[tuple[int, int]]
) -> dict[Worker, list[_Entry]]:
    """Return what each worker does; of calls of one program in a row it assists until the last."""
    sequences: dict[Worker, list[_Entry]] = {worker: [] for team in teams for worker in team}
    for origin in order:
        leader, *others = teams[origin[0]]
        sequences[leader].append((origin, True))
        if isinstance(programs[origin[0]].instructions[origin[1]], Call):
            for worker in others:
                entries = sequences[worker]
                if entries and not entries[-1][1] and teams[entries[-1][0][0]] == teams[origin[0]]:
                    entries.pop()
                entries.append((origin, False))
    busy = {worker: entries for worker, entries in sequences.items() if entries}
    return busy or {team[0]: [] for team in teams[:1]}  # a session needs a worker


def _steps(
    worker: Worker,
    entries: Iterable[_Entry],
    programs: Sequence[CpuProgram],
    teams: Sequence[Team],
    last_calls: set[tuple[int, int]],
) -> Iterator[Step]:
    """Yield the steps of one worker; after a call of `last_calls` it dismisses those who assist."""
    for origin, leads in entries:
        program, team = programs[origin[0]], teams[origin[0]]
        end = ("end", *origin)
        if not leads:
            yield Step(Assist(end, team.index(worker)), program.device, team)
            continue
        yield Step(program.instructions[origin[1]], program.device, team, origin)
        if origin in last_calls:
            yield Step(Dismiss(end), program.device, team)
