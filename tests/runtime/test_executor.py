"""Parallel loops, waiting, and many runs at once."""

from __future__ import annotations

import ctypes
import os
import threading
import time

import numpy as np
import pytest
import tvm
from hand_made import LENGTH, TARGET, HandMade
from tvm import te

from hios_tvm.backends.cpu.library import build_library
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram, core_tasks
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.memory import TensorTable, address_of, aligned_empty
from hios_tvm.runtime.memory_limit import taken_memory
from hios_tvm.runtime.native import Library, load_library
from hios_tvm.schema.program import Call, Instruction, Signal, Wait

ROWS = 37


@pytest.fixture(scope="module")
def parallel_library() -> Library:
    """A kernel whose outer loop is parallel: ``y = x + 1``."""
    x = te.placeholder((ROWS, 64), "float32", name="x")
    y = te.compute((ROWS, 64), lambda i, j: x[i, j] + tvm.tirx.const(1.0, "float32"), name="y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([x, y]))
    schedule.parallel(schedule.get_loops(schedule.get_sblock("y"))[0])
    kernel = schedule.mod["main"].with_attr("global_symbol", "increment")
    return load_library(build_library(tvm.IRModule({"increment": kernel}), TARGET))


def make_tensors(count: int) -> tuple[TensorTable, list[np.ndarray]]:
    names = [f"t{i}" for i in range(count)]
    tensors = TensorTable({name: ((ROWS, 64), "float32") for name in names})
    arrays = [aligned_empty((ROWS, 64), "float32") for _ in names]
    for name, array in zip(names, arrays, strict=True):
        array[:] = 0.0
        tensors.place(name, address_of(array))
    return tensors, arrays


def increments(first: int, last: int) -> list[Instruction]:
    return [Call(f"i{i}", "increment", (f"t{i}", f"t{i + 1}")) for i in range(first, last)]


@pytest.mark.parametrize("members", [1, 2, 3, 5, 64])
def test_parallel_loops_use_the_team_of_their_worker(
    parallel_library: Library, members: int
) -> None:
    """As many threads as cores; here all on one core, so that it runs on any machine."""
    core = min(os.sched_getaffinity(0))
    tensors, arrays = make_tensors(21)
    before = threading.active_count()
    program = CpuProgram("t", (core,) * members, increments(0, 20), parallel_library)
    executor = Executor(core_tasks([program]), tensors, spin_us=0)
    try:
        assert threading.active_count() == before + members
        for _ in range(5):
            arrays[-1][:] = 0.0
            executor.run()
            np.testing.assert_array_equal(arrays[-1], 20.0)
    finally:
        executor.close()
    assert threading.active_count() == before


def test_two_teams_run_side_by_side(parallel_library: Library) -> None:
    cores = sorted(os.sched_getaffinity(0))
    tensors, arrays = make_tensors(41)
    first = [*increments(0, 20), Signal(0)]
    second = [Wait(0), *increments(20, 40)]
    programs = [
        CpuProgram(label, (cores[0], cores[-1]), steps, parallel_library)
        for label, steps in (("first", first), ("second", second))
    ]
    executor = Executor(core_tasks(programs), tensors)
    try:
        for _ in range(20):
            executor.run()
            np.testing.assert_array_equal(arrays[-1], 40.0)
    finally:
        executor.close()


@pytest.mark.parametrize("spin_us", [0.0, 1.0, 1000.0])
def test_waiting_works_with_and_without_polling(
    hand_made: HandMade, x: np.ndarray, spin_us: float
) -> None:
    with hand_made.load(spin_us=spin_us) as session:
        for i in range(50):
            outputs = session.run({"the input": x * i})
            np.testing.assert_array_equal(outputs["y"], hand_made.expected(x * np.float32(i))["y"])


def test_an_idle_session_uses_no_cpu(hand_made: HandMade, x: np.ndarray) -> None:
    with hand_made.load() as session:
        session.run({"the input": x})
        time.sleep(0.05)  # polling has ended
        start = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - start < 0.05


@pytest.mark.slow
def test_soak(hand_made: HandMade) -> None:
    """8 threads, 4 sessions, 10,000 runs: equal bits throughout, memory flat, no thread left."""
    sessions = [hand_made.load() for _ in range(4)]
    rng = np.random.default_rng(7)
    inputs = [rng.standard_normal(LENGTH).astype(np.float32) for _ in range(8)]
    expected = [hand_made.expected(x) for x in inputs]
    errors: list[BaseException] = []

    def work(number: int, runs: int) -> None:
        try:
            for i in range(runs):
                outputs = sessions[(number + i) % 4].run({"the input": inputs[number]})
                for name, array in expected[number].items():
                    np.testing.assert_array_equal(outputs[name], array)
        except BaseException as error:
            errors.append(error)

    def run_all(runs: int) -> None:
        threads = [threading.Thread(target=work, args=(i, runs)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run_all(250)
    first = taken_memory()
    run_all(1000)
    last = taken_memory()
    assert not errors
    assert last - first < 8 << 20, f"resident bytes grew from {first} to {last}"
    for session in sessions:
        session.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("hios ")]


def test_loading_and_closing_keeps_memory_flat(hand_made: HandMade, x: np.ndarray) -> None:
    def cycle(count: int) -> None:
        for _ in range(count):
            with hand_made.load() as session:
                session.run({"the input": x})

    cycle(30)
    first = taken_memory()
    descriptors = len(os.listdir("/proc/self/fd"))
    cycle(100)
    assert taken_memory() - first < 4 << 20
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_run_numbers_do_not_wrap_at_32_bits(
    hand_made: HandMade, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that has run nearly 2^32 times: no later run is taken for one that was given up."""
    start_threads = Executor._start_threads
    before = 2**32 - 3

    def start_late(executor: Executor) -> None:
        for offset in (0, 64, 192):  # of start, start_leader and done
            ctypes.c_uint64.from_address(executor._shared.session + offset).value = before
        for worker in executor._workers:
            worker.run = worker.seen = before
        start_threads(executor)

    monkeypatch.setattr(Executor, "_start_threads", start_late)
    with hand_made.load() as session:
        for i in range(1, 7):  # with a time limit a thread of the session leads, else the caller
            outputs = session.run({"the input": x * i}, timeout=60.0 if i % 2 else None)
            for name, expected in hand_made.expected(x * i).items():
                np.testing.assert_array_equal(outputs[name], expected)
        assert [worker.run for worker in session._shapes[0].executor._workers] == [before + 6] * 2


def test_loops_of_a_team_are_numbered_beyond_32_bits(parallel_library: Library) -> None:
    core = min(os.sched_getaffinity(0))
    tensors, arrays = make_tensors(21)
    program = CpuProgram("t", (core,) * 3, increments(0, 20), parallel_library)
    executor = Executor(core_tasks([program]), tensors, spin_us=0)
    try:
        (team,) = executor._teams.values()
        ctypes.c_uint64.from_address(team).value = 2**32 - 30
        for _ in range(4):
            arrays[-1][:] = 0.0
            executor.run()
            np.testing.assert_array_equal(arrays[-1], 20.0)
        assert (
            ctypes.c_uint64.from_address(team).value == 2**32 - 30 + 4 * 21
        )  # 20 loops and the end of each run
    finally:
        executor.close()


def test_the_caller_of_a_first_run_leads_on_the_core_of_its_place() -> None:
    """On the core of another worker, which is pinned there, both would have half of it."""
    cores = sorted(os.sched_getaffinity(0))
    where = te.compute((1,), lambda i: tvm.tirx.call_extern("int32", "sched_getcpu"), name="where")
    kernel = te.create_prim_func([where]).with_attr("global_symbol", "where")
    library = load_library(build_library(tvm.IRModule({"where": kernel}), TARGET))
    array = np.full(1, -1, np.int32)
    tensors = TensorTable({"core": ((1,), "int32")})
    tensors.place("core", address_of(array))
    program = CpuProgram("t", (cores[0],), [Call("where", "where", ("core",))], library)
    for caller in (cores[-1], cores[0]):
        executor = Executor(core_tasks([program]), tensors)
        try:
            os.sched_setaffinity(0, {caller})
            os.sched_setaffinity(0, cores)  # it stays where it is until the system moves it
            executor.run()
        finally:
            executor.close()
        assert array[0] == cores[0]
        assert os.sched_getaffinity(0) == set(cores)
