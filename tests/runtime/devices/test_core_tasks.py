"""What each core does, when programs share cores."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.errors import ArtifactError
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram, core_tasks
from hios_tvm.runtime.tasks import Assist, CpuTask, Dismiss
from hios_tvm.schema.program import Call, Instruction, Signal, Wait

LIBRARY: Any = "a library"


def call(name: str) -> Call:
    return Call(name, "k", ("x", name))


def what(tasks: tuple[CpuTask, ...]) -> dict[int | None, list[str]]:
    """In words what each core does."""

    def word(step: Instruction | Assist | Dismiss) -> str:
        if isinstance(step, Call):
            return step.operator
        return type(step).__name__.lower()

    return {task.core: [word(step.instruction) for step in task.steps] for task in tasks}


def test_cores_of_one_device_assist_until_its_last_kernel() -> None:
    program = CpuProgram("cpu@0-2", (0, 1, 2), [call("a"), call("b")], LIBRARY)
    tasks = core_tasks([program])
    assert what(tasks) == {0: ["a", "b", "dismiss"], 1: ["assist"], 2: ["assist"]}
    events = {s.instruction.event for t in tasks for s in t.steps if len(t.steps) == 1}
    assert len(events) == 1


def test_cores_change_between_devices() -> None:
    wide = [call("a"), Signal(0), Wait(1), Wait(2), call("d")]
    programs = [
        CpuProgram("cpu@0-1", (0, 1), wide, LIBRARY),
        CpuProgram("cpu@0", (0,), [Wait(0), call("b"), Signal(1)], LIBRARY),
        CpuProgram("cpu@1", (1,), [Wait(0), call("c"), Signal(2)], LIBRARY),
    ]
    assert what(core_tasks(programs)) == {
        0: ["a", "dismiss", "signal", "wait", "b", "signal", "wait", "wait", "d", "dismiss"],
        1: ["assist", "wait", "c", "signal", "assist"],
    }


def test_a_core_that_is_named_twice_has_two_workers() -> None:
    program = CpuProgram("cpu", (4, 4), [call("a")], LIBRARY)
    assert [task.core for task in core_tasks([program])] == [4, 4]


def test_one_worker_is_there_when_there_is_nothing_to_do() -> None:
    assert what(core_tasks([CpuProgram("cpu@0-1", (0, 1), [], LIBRARY)])) == {0: []}


def test_programs_of_one_core_need_one_library() -> None:
    another: Any = "another library"
    programs = [
        CpuProgram("cpu@0", (0,), [call("a")], LIBRARY),
        CpuProgram("cpu@0", (0,), [call("b")], another),
    ]
    with pytest.raises(ArtifactError, match="core 0 has kernels of 2 libraries"):
        core_tasks(programs)


@st.composite
def moldable_programs(draw: st.DrawFn) -> list[CpuProgram]:
    """Calls on random cores in a common order: each waits for the last ones on its cores."""
    devices = [(0, 1, 2, 3), (0, 1), (2, 3), (0,), (1,), (2,), (3,)]
    steps: dict[tuple[int, ...], list[Instruction]] = {cores: [] for cores in devices}
    latest: dict[int, tuple[int, ...]] = {}
    events = itertools.count()
    for number in range(draw(st.integers(1, 12))):
        cores = draw(st.sampled_from(devices))
        for other in {latest[core] for core in cores if latest.get(core, cores) != cores}:
            event = next(events)
            steps[other].append(Signal(event))
            steps[cores].append(Wait(event))
        steps[cores].append(call(f"op{number}"))
        latest |= dict.fromkeys(cores, cores)
    return [CpuProgram(f"cpu@{c}", c, own, LIBRARY) for c, own in steps.items() if own]


@settings(deadline=None)
@given(moldable_programs())
def test_every_core_takes_part_in_every_call_of_its_devices(programs: list[CpuProgram]) -> None:
    """Played step by step, no core hangs, and calls that share a core do not overlap."""
    tasks = core_tasks(programs)
    position = [0] * len(tasks)
    signalled: set[Any] = set()
    done: list[str] = []
    progress = True
    while progress:
        progress = False
        for number, task in enumerate(tasks):
            while position[number] < len(task.steps):
                step = task.steps[position[number]].instruction
                if isinstance(step, Wait | Assist) and step.event not in signalled:
                    break
                if isinstance(step, Signal | Dismiss):
                    signalled.add(step.event)
                if isinstance(step, Call):
                    done.append(step.operator)
                position[number] += 1
                progress = True
    assert all(at == len(task.steps) for at, task in zip(position, tasks, strict=True))
    for program in programs:
        calls = [s.operator for s in program.instructions if isinstance(s, Call)]
        assert [name for name in done if name in calls] == calls
    for core in range(4):  # in the order in which they were drawn
        own = {
            s.operator
            for p in programs
            if core in p.cores
            for s in p.instructions
            if isinstance(s, Call)
        }
        numbers = [int(name[2:]) for name in done if name in own]
        assert numbers == sorted(numbers)
