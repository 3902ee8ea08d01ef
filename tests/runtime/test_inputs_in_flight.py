"""Several inputs in flight in one session: devices work on different inputs at the same time."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hand_made import HandMade, make_manifest

from hios_tvm import runtime
from hios_tvm.artifact.write import pack, write
from hios_tvm.errors import (
    ExecutionError,
    InputError,
    RunTimeoutError,
    SessionClosedError,
)
from hios_tvm.runtime import executor, worker_threads
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.runtime.session import Session

IN_FLIGHT = 3


@pytest.fixture
def pipeline(hand_made: HandMade, tmp_path: Path) -> Iterator[runtime.Session]:
    """The hand-made artifact, with three inputs in flight."""
    path = tmp_path / "pipeline.hios"
    libraries = dict.fromkeys(("cpu@0", "cpu@1"), hand_made.library)
    manifest = replace(make_manifest(), in_flight=IN_FLIGHT)
    write(pack(manifest, libraries, {"w": hand_made.weight}), path)
    with runtime.load(path, devices=hand_made.devices) as session:
        yield session


def piped(faulty: Path, devices: tuple[str, str]) -> Session:
    """The artifact of kernels that misbehave, with three inputs in flight."""
    artifact = open_artifact(faulty)
    manifest = replace(artifact.manifest, in_flight=IN_FLIGHT)
    return Session(replace(artifact, manifest=manifest), devices=devices)


def runs_of(session: Session) -> int:
    """How many runs are going on, or wait for their slots."""
    pipeline = session._shapes[0].pipeline
    assert pipeline is not None
    return len(pipeline._threads)


def outputs_of(hand_made: HandMade, many: list[np.ndarray], session: Session) -> None:
    for x, outputs in zip(many, session.run_many(many), strict=True):
        for name, expected in hand_made.expected(x).items():
            np.testing.assert_array_equal(outputs[name], expected)


def test_results_are_those_of_single_runs(
    hand_made: HandMade, pipeline: Session, x: np.ndarray
) -> None:
    outputs_of(hand_made, [x * i for i in range(50)], pipeline)
    given = np.zeros_like(x)
    outputs = pipeline.run(x, out={"y": given}, timeout=60)
    np.testing.assert_array_equal(given, hand_made.expected(x)["y"])
    assert outputs["y"] is given
    outputs, trace = pipeline.run_traced(x * 2)
    np.testing.assert_array_equal(outputs["z"], hand_made.expected(x * 2)["z"])
    assert {span.name for span in trace.spans} >= {"add1", "mul1", "mul2", "add2"}
    assert trace.start_ns <= min(span.start_ns for span in trace.spans)
    assert max(span.end_ns for span in trace.spans) <= trace.end_ns


def test_threads_share_the_slots(hand_made: HandMade, pipeline: Session, x: np.ndarray) -> None:
    def work(number: int) -> None:
        for i in range(30):
            value = x * (1 + number * i)
            outputs = pipeline.run(value, timeout=60 if i % 2 else None)
            for name, expected in hand_made.expected(value).items():
                np.testing.assert_array_equal(outputs[name], expected)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))


def test_devices_work_on_different_inputs(
    faulty: Path, two_devices: tuple[str, str], x: np.ndarray
) -> None:
    """The first device begins its kernel for the next input before the second has the last one."""
    if two_devices[0] == two_devices[1]:
        pytest.skip("needs two cores")
    inputs = [np.full_like(x, 0.02) for _ in range(6)]  # seconds for which the first kernel sleeps
    with piped(faulty, two_devices) as session:
        assert len(list(session.run_many(inputs))) == 6
        executor = session._shapes[0].executor
        spans = [(executor.times(0, s), executor.times(1, s)) for s in range(IN_FLIGHT)]
    first, second, third = sorted(spans, key=lambda times: times[0][0])
    for one, other in ((first, second), (second, third)):
        assert one[0][1] <= other[0][0]  # a device has one input at a time
    # The sleep of the next input has begun before the check of the last one has ended: no barrier.
    assert any(other[0][0] < one[1][-1] for one, other in ((first, second), (second, third)))


def values(x: np.ndarray, sleep_s: float = 0.0, second: float = 1.0) -> np.ndarray:
    result = x.copy()
    result[:2] = sleep_s, second
    return result


@pytest.fixture
def sleeping(faulty: Path, two_devices: tuple[str, str]) -> Iterator[Session]:
    with piped(faulty, two_devices) as session:
        yield session


def works(session: Session, x: np.ndarray) -> bool:
    many = [values(x, second=i) for i in range(2 * IN_FLIGHT)]
    found = session.run_many(many)
    return all(np.array_equal(a, b["y"]) for a, b in zip(many, found, strict=True))


def test_an_error_of_one_input_is_its_own(sleeping: Session, x: np.ndarray) -> None:
    many = [values(x, 0.001, -1.0 if i in (3, 4, 9) else 1.0) for i in range(12)]
    futures = [sleeping.submit(each) for each in many]  # one after another
    with ThreadPoolExecutor(4) as threads:
        futures += [threads.submit(sleeping.run, each) for each in many]
    for each, future in zip(many + many, futures, strict=True):
        if each[1] < 0:
            with pytest.raises(ExecutionError, match="operator 'check1' failed") as caught:
                future.result()
            assert caught.value.operator == "check1"
        else:
            np.testing.assert_array_equal(future.result()["y"], each)
    results = sleeping.run_many(many)
    for each in many[:3]:
        np.testing.assert_array_equal(next(results)["y"], each)
    with pytest.raises(ExecutionError):
        next(results)
    with pytest.raises(InputError, match="'x' is float32"):
        list(sleeping.run_many([x, x[1:]]))
    assert works(sleeping, x)


def test_a_timeout_gives_one_run_up(sleeping: Session, x: np.ndarray) -> None:
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(sleeping.run, values(x, 0.3))
        while not runs_of(sleeping):
            pass
        with pytest.raises(RunTimeoutError, match="was given up"):
            sleeping.run(values(x, 0.1), timeout=0.02)
        np.testing.assert_array_equal(slow.result()["y"], values(x, 0.3))
    assert works(sleeping, x)


def test_a_timeout_counts_while_all_slots_are_busy(sleeping: Session, x: np.ndarray) -> None:
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        slow = [threads.submit(sleeping.run, values(x, 0.15)) for _ in range(IN_FLIGHT)]
        while runs_of(sleeping) < IN_FLIGHT:
            pass
        with pytest.raises(RunTimeoutError):
            sleeping.run(x, timeout=0.05)
        assert all(future.result() for future in slow)
    assert works(sleeping, x)


def test_a_kernel_that_hangs_closes_the_session(
    faulty: Path, two_devices: tuple[str, str], x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "GRACE_S", 0.1)
    monkeypatch.setattr(worker_threads, "GRACE_S", 0.1)
    session = piped(faulty, two_devices)
    with ThreadPoolExecutor(1) as threads:
        begun = threading.Event()

        def wait_behind() -> None:
            begun.wait(60)
            with pytest.raises((ExecutionError, SessionClosedError), match="has not returned"):
                session.run(values(x))

        other = threads.submit(wait_behind)
        begin = session._shapes[0].executor.start
        monkeypatch.setattr(
            session._shapes[0].executor, "start", lambda held: (begin(held), begun.set())[0]
        )
        with pytest.raises(RunTimeoutError):
            session.run(values(x, 0.6), timeout=0.05)
        other.result()
    with pytest.raises(SessionClosedError, match="has not returned"):
        session.run(values(x))
    workers = [t for t in threading.enumerate() if t.name.startswith("hios ")]
    session.close()
    for worker in workers:
        worker.join(10.0)
        assert not worker.is_alive()


def test_a_signal_handler_cannot_run_inside_of_a_run(sleeping: Session, x: np.ndarray) -> None:
    errors: list[ExecutionError] = []

    def handler(*_: object) -> None:
        for call in (lambda: sleeping.run(x), sleeping.close):
            with pytest.raises(ExecutionError, match="a signal handler cannot run") as caught:
                call()
            errors.append(caught.value)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert sleeping.run(values(x, 0.2))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(errors) == 2
    assert works(sleeping, x)


def test_interrupts_at_any_moment_leave_a_working_session(sleeping: Session, x: np.ndarray) -> None:
    interrupted = 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, 5e-5 + 2.5e-3 * (i % 50) / 50)
                sleeping.run(values(x, 0.002))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 20
    assert works(sleeping, x)


def test_close_waits_for_all_runs(
    faulty: Path, two_devices: tuple[str, str], x: np.ndarray
) -> None:
    session = piped(faulty, two_devices)
    with ThreadPoolExecutor(2) as threads:
        slow = [threads.submit(session.run, values(x, 0.05)) for _ in range(2)]
        while runs_of(session) < 2:
            pass
        session.close()
        for future in slow:  # it ended, or had not begun
            assert future.exception() is None or isinstance(future.exception(), SessionClosedError)
    with pytest.raises(SessionClosedError):
        session.run(x)
    pid = os.fork()
    if pid == 0:
        session.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_run_numbers_do_not_wrap_at_32_bits(
    faulty: Path, two_devices: tuple[str, str], x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_threads = Executor._start_threads
    before = 3 * 2**31 - 3

    def start_late(executor: Executor) -> None:
        ctypes.c_uint64.from_address(executor._shared.session).value = before
        for worker in executor._workers:
            worker.run = worker.seen = before
        start_threads(executor)

    monkeypatch.setattr(Executor, "_start_threads", start_late)
    with piped(faulty, two_devices) as session:
        assert works(session, x)
        runs = [worker.run for worker in session._shapes[0].executor._workers]
        assert runs == [before + 2 * IN_FLIGHT] * 2
