from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.artifact.buffer_plan import BufferPlan, plan_buffers
from hios_tvm.errors import ArtifactError
from hios_tvm.schema.manifest import Buffer
from hios_tvm.schema.program import (
    Call,
    Copy,
    Instruction,
    Program,
    Signal,
    Wait,
    reads_and_writes,
)


@dataclass(frozen=True)
class Case:
    programs: tuple[Program, ...]
    buffers: tuple[Buffer, ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Random operators over one to three devices, each reading earlier results.

    The operators are made in one global order, in which every program can run; a result of
    another device is awaited and copied, or read in place by the copy alone.
    """
    devices = [f"cpu@{i}" for i in range(draw(st.integers(1, 3)))]
    steps: dict[str, list[Instruction]] = {device: [] for device in devices}
    owner: dict[str, str] = {}
    buffers: dict[str, Buffer] = {}
    events = 0

    def new(name: str, device: str) -> str:
        size = draw(st.sampled_from([0, 1, 16, 17, 40, 100]))
        buffers[name] = Buffer(name, device, "arena", (size,), "float32")
        owner[name] = device
        return name

    for i in range(draw(st.integers(1, 14))):
        device = draw(st.sampled_from(devices))
        reads = draw(st.lists(st.sampled_from(sorted(owner)), max_size=3)) if owner else []
        args = []
        for source in reads:
            if owner[source] == device:
                args.append(source)
                continue
            copy = f"{source}@{device}"
            if copy not in owner:
                steps[owner[source]].append(Signal(events))
                steps[device].append(Wait(events))
                events += 1
                buffers[copy] = Buffer(copy, device, "arena", buffers[source].shape, "float32")
                steps[device].append(Copy(source, copy))
            args.append(copy)
        steps[device].append(Call(f"op{i}", "k", (*args, new(f"t{i}", device))))
        owner |= {name: device for name in args}
    programs = tuple(Program(device, 0, tuple(steps[device])) for device in devices)
    return Case(programs, tuple(buffers.values()))


def simulate(case: Case, plan: BufferPlan, rng: random.Random) -> None:
    """Run the programs in a random order that signals allow, and check what every read finds.

    Each instruction takes time: it begins, others may begin and end, then it ends. A buffer that
    is written while an instruction runs, or that is not whole when it is read, fails.
    """
    place = {buffer.name: buffer for buffer in plan.buffers}
    memory: dict[tuple[str, int], str] = {}  # byte of an arena -> the buffer that wrote it
    running: dict[int, Instruction] = {}
    position = [0] * len(case.programs)
    signalled: set[int] = set()

    def span(name: str) -> list[tuple[str, int]]:
        buffer = place[name]
        assert buffer.offset is not None
        assert buffer.offset + buffer.nbytes <= plan.arena_bytes[str(buffer.device)]
        return [(str(buffer.device), buffer.offset + i) for i in range(buffer.nbytes)]

    def check_reads(step: Instruction) -> None:
        for name in reads_and_writes(step)[0]:
            assert all(memory.get(byte) == name for byte in span(name)), f"{name} was overwritten"

    while True:
        ready = [
            p
            for p, program in enumerate(case.programs)
            if position[p] < len(program.instructions)
            and (
                p in running
                or not isinstance(step := program.instructions[position[p]], Wait)
                or step.event in signalled
            )
        ]
        if not ready:
            break
        p = rng.choice(ready)
        step = case.programs[p].instructions[position[p]]
        if p not in running:  # begins: outputs are being written from now on
            running[p] = step
            check_reads(step)
            for name in reads_and_writes(step)[1]:
                memory.update(dict.fromkeys(span(name), name))
        else:  # ends: nobody may have touched what it uses
            del running[p]
            check_reads(step)
            for name in reads_and_writes(step)[1]:
                assert all(memory[byte] == name for byte in span(name)), f"{name} was overwritten"
            if isinstance(step, Signal):
                signalled.add(step.event)
            position[p] += 1
    assert all(position[p] == len(q.instructions) for p, q in enumerate(case.programs)), "hangs"


@settings(deadline=None, max_examples=150)
@given(cases(), st.integers(0, 2**32))
def test_no_order_of_execution_overwrites_a_buffer_in_use(case: Case, seed: int) -> None:
    plan = plan_buffers(case.programs, case.buffers)
    rng = random.Random(seed)
    for _ in range(8):
        simulate(case, plan, rng)


def test_the_simulation_finds_overlaps() -> None:
    steps = (Call("a", "k", ("a",)), Call("b", "k", ("b",)), Call("c", "k", ("a", "b", "c")))
    buffers = tuple(Buffer(name, "cpu@0", "arena", (16,), "float32", 0) for name in "abc")
    case = Case((Program("cpu@0", 0, steps),), buffers)
    with pytest.raises(AssertionError, match="overwritten"):
        simulate(case, BufferPlan(buffers, {"cpu@0": 64}), random.Random(0))


def test_a_chain_needs_two_buffers() -> None:
    names = [f"t{i}" for i in range(20)]
    steps = tuple(Call(b, "k", (a, b)) for a, b in zip(["x", *names], names, strict=False))
    buffers = [Buffer("x", None, "input", (100,), "float32")]
    buffers += [Buffer(name, "cpu@0", "arena", (100,), "float32") for name in names]
    plan = plan_buffers([Program("cpu@0", 0, steps)], buffers)
    assert plan.arena_bytes == {"cpu@0": 2 * 448}  # 400 bytes, rounded up to 64


def test_concurrent_streams_share_nothing() -> None:
    programs = [
        Program("cpu@0-1", stream, tuple(Call(n, "k", (n,)) for n in names))
        for stream, names in ((1, "ab"), (2, "cd"))
    ]
    buffers = [Buffer(name, "cpu@0-1", "arena", (16,), "float32") for name in "abcd"]
    plan = plan_buffers(programs, buffers)
    offset = {buffer.name: buffer.offset for buffer in plan.buffers}
    assert {offset["a"], offset["b"]}.isdisjoint({offset["c"], offset["d"]})
    assert plan.arena_bytes == {"cpu@0-1": 128}


def test_a_source_lives_until_it_has_been_copied() -> None:
    r"""
    cpu@0: a -> b      b must not take a's memory, as cpu@1 may still be copying a,
           |           unless cpu@0 has heard that the copy has been made
    cpu@1: a' -> c
    """
    reader = (Wait(0), Copy("a", "a'"), Signal(1), Call("c", "k", ("a'", "c")))
    buffers = [Buffer(n, "cpu@0", "arena", (16,), "float32") for n in ("a", "b")]
    buffers += [Buffer(n, "cpu@1", "arena", (16,), "float32") for n in ("a'", "c")]

    def arena(*between: Instruction) -> int:
        writer = (Call("a", "k", ("a",)), Signal(0), *between, Call("b", "k", ("b",)))
        programs = [Program("cpu@0", 0, writer), Program("cpu@1", 0, reader)]
        return plan_buffers(programs, buffers).arena_bytes["cpu@0"]

    assert arena() == 128
    assert arena(Wait(1)) == 64


def test_programs_that_hang_are_refused() -> None:
    programs = [
        Program("cpu@0", 0, (Wait(0), Signal(1))),
        Program("cpu@1", 0, (Wait(1), Signal(0))),
    ]
    with pytest.raises(ArtifactError, match="wait for each other in a cycle"):
        plan_buffers(programs, [])


@pytest.mark.timeout(15)  # a plan that compares all pairs in Python takes more
def test_a_long_chain_is_planned_at_once() -> None:
    names = [f"t{i}" for i in range(6000)]
    steps = tuple(Call(b, "k", (a, b)) for a, b in zip(["x", *names], names, strict=False))
    buffers = [Buffer(name, "cpu@0", "arena", (100,), "float32") for name in names]
    assert plan_buffers([Program("cpu@0", 0, steps)], buffers).arena_bytes == {"cpu@0": 2 * 448}
