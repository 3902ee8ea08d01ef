"""Kernels that raise, hang or take long; interrupts, forks and exits at bad moments."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_made import LENGTH, HandMade, make_manifest

from hios_tvm import runtime
from hios_tvm.artifact.write import pack, write
from hios_tvm.errors import ExecutionError, RunTimeoutError, SessionClosedError, UsageError
from hios_tvm.runtime import Session, executor, tasks, worker_threads
from hios_tvm.runtime.abi import NativeWorker
from hios_tvm.schema.manifest import Buffer
from hios_tvm.schema.program import Call, Copy, Program, Signal, Wait


@pytest.fixture
def session(faulty: Path, two_devices: tuple[str, str]) -> Iterator[Session]:
    with runtime.load(faulty, devices=two_devices) as session:
        yield session


def make_input(sleep_s: float = 0.0, second: float = 1.0) -> dict[str, np.ndarray]:
    x = np.zeros(LENGTH, np.float32)
    x[:2] = sleep_s, second
    return {"x": x}


def works(session: Session) -> bool:
    inputs = make_input()
    return bool(np.array_equal(session.run(inputs)["y"], inputs["x"]))


def test_a_kernel_that_raises_is_named(session: Session) -> None:
    for _ in range(20):
        with pytest.raises(ExecutionError, match="ValueError: the second number is neg") as caught:
            session.run(make_input(second=-1.0))
        assert caught.value.operator == "check1"
        assert "operator 'check1' failed on cpu@" in str(caught.value)
        assert works(session)


@pytest.fixture
def failing(faulty_library: bytes, tmp_path: Path) -> Path:
    """An artifact whose first device calls a kernel that may raise; the second waits for it."""
    shape = (LENGTH,)
    base = make_manifest()
    manifest = replace(
        base,
        outputs=base.outputs[:1],
        programs=(
            Program("cpu@0", 0, (Call("fails", "check", ("x", "a")), Signal(0))),
            Program("cpu@1", 0, (Wait(0), Copy("a", "y"))),
        ),
        buffers=(
            Buffer("x", None, "input", shape, "float32"),
            Buffer("a", "cpu@0", "arena", shape, "float32", 0),
            Buffer("y", None, "output", shape, "float32"),
        ),
        devices=tuple(replace(device, arena_bytes=4096) for device in base.devices),
    )
    path = tmp_path / "fails.hios"
    write(pack(manifest, dict.fromkeys(("cpu@0", "cpu@1"), faulty_library), {}), path)
    return path


def test_a_kernel_that_raises_stops_workers_that_wait(
    failing: Path, two_devices: tuple[str, str]
) -> None:
    """cpu@0 fails before it signals; cpu@1 would wait for ever."""
    with runtime.load(failing, devices=two_devices) as session:
        good, bad = make_input()["x"], make_input(second=-1.0)["x"]
        for _ in range(20):
            with pytest.raises(ExecutionError, match="operator 'fails'"):
                session.run({"the input": bad})
            np.testing.assert_array_equal(session.run({"the input": good})["y"], good)


def test_a_kernel_that_raises_before_the_threads_are_at_work(
    failing: Path, two_devices: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller leads the first run, and has not taken the error yet when its thread begins."""

    class LateWorker(NativeWorker):
        @classmethod
        def from_address(cls, address: int) -> NativeWorker:
            time.sleep(0.1)
            return NativeWorker.from_address(address)

    lead_on = executor.Executor._lead_on

    def lead_on_late(*arguments: Any) -> None:
        time.sleep(0.3)
        lead_on(*arguments)

    monkeypatch.setattr(worker_threads, "NativeWorker", LateWorker)
    monkeypatch.setattr(executor.Executor, "_lead_on", lead_on_late)
    good, bad = make_input()["x"], make_input(second=-1.0)["x"]
    with runtime.load(failing, devices=two_devices) as session:
        with pytest.raises(ExecutionError, match="operator 'fails' failed"):
            session.run({"the input": bad})
        np.testing.assert_array_equal(session.run({"the input": good})["y"], good)


def test_a_timeout_counts_from_the_call_while_others_run(session: Session) -> None:
    thread = threading.Thread(target=lambda: session.run(make_input(sleep_s=0.4)))
    thread.start()
    while not session._is_running:
        pass
    with pytest.raises(RunTimeoutError, match="other runs took longer"):
        session.run(make_input(), timeout=0.05)
    thread.join()
    assert session.run(make_input(), timeout=float("inf"))
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="timeout must be a number of seconds from 0"):
            session.run(make_input(), timeout=wrong)


def test_a_signal_handler_cannot_run_inside_of_a_run(session: Session) -> None:
    errors: list[ExecutionError] = []

    def handler(*_: object) -> None:
        with pytest.raises(ExecutionError, match="a signal handler cannot run") as caught:
            session.run(make_input())
        errors.append(caught.value)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        assert session.run(make_input(sleep_s=0.4))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert errors


def test_a_timeout_gives_the_run_up(session: Session) -> None:
    start = time.monotonic()
    with pytest.raises(RunTimeoutError):
        session.run(make_input(sleep_s=0.5), timeout=0.05)
    assert time.monotonic() - start >= 0.05
    assert works(session)  # the kernel has returned meanwhile
    assert session.run(make_input(), timeout=60.0)


def test_a_kernel_that_hangs_closes_the_session(
    faulty: Path, two_devices: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "GRACE_S", 0.1)
    monkeypatch.setattr(worker_threads, "GRACE_S", 0.1)
    session = runtime.load(faulty, devices=two_devices)
    with pytest.raises(RunTimeoutError):
        session.run(make_input(sleep_s=0.6), timeout=0.05)
    with pytest.raises(SessionClosedError, match="a kernel of an earlier run has not returned"):
        session.run(make_input())
    session.close()
    with pytest.raises(SessionClosedError):
        session.run(make_input())
    workers = [t for t in threading.enumerate() if t.name.startswith("hios ")]
    del session
    gc.collect()
    assert workers  # the kernel is still there, and may use memory of the session when it wakes
    for worker in workers:
        worker.join(10.0)
        assert not worker.is_alive()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise also where pytest was started in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_run_and_the_session_works(session: Session) -> None:
    def interrupt() -> None:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        session.run(make_input(sleep_s=0.4))
    thread.join()
    assert time.monotonic() - start >= 0.4  # a kernel is never stopped half-way
    assert works(session)


def test_interrupts_at_any_moment_leave_a_working_session(session: Session) -> None:
    """Interrupt runs of 2 ms again and again, at times that a clock chooses."""
    interrupted = 0
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        for i in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + 2.5e-3 * (i % 50) / 50)
                session.run(make_input(sleep_s=0.002))
                signal.setitimer(signal.ITIMER_REAL, 0)
                time.sleep(0)  # an interrupt that came late is raised here
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if i % 10 == 0:
                assert works(session)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert interrupted > 50
    assert works(session)


def test_a_forked_child_is_told_to_load_again(session: Session) -> None:
    assert works(session)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            session.run(make_input())
        except SessionClosedError as error:
            status = 0 if "fork" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert works(session)


def test_a_forked_child_can_close_what_it_cannot_use(session: Session) -> None:
    with session._lock:  # as if another thread were in a run
        pid = os.fork()
        if pid == 0:
            with session:
                pass
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert works(session)


def test_a_forked_child_that_exits_normally_does_not_hang(session: Session) -> None:
    pid = os.fork()
    if pid == 0:
        session._shapes[0].executor.close()  # what happens at the exit of an interpreter
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert works(session)


def test_threads_end_where_memory_ended_as_they_were_stopped(
    hand_made: HandMade, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the session at the latest."""
    threads = threading.active_count()
    session = hand_made.load()
    with monkeypatch.context() as patch, pytest.raises(MemoryError):

        def no_memory(thread: threading.Thread) -> bool:
            raise MemoryError

        patch.setattr(threading.Thread, "is_alive", no_memory)
        session.close()
    with pytest.raises(SessionClosedError):
        session.run({"the input": x})
    assert threading.active_count() == threads + 2
    del session
    gc.collect()
    assert threading.active_count() == threads


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "session.close()", "del session"])
def test_a_process_ends_with_an_open_session(
    faulty: Path, two_devices: tuple[str, str], ending: str
) -> None:
    script = f"""
import logging
import sys
import numpy as np
from hios_tvm import runtime
logging.disable()  # tests in other processes use the same cores
session = runtime.load({str(faulty)!r}, devices={two_devices!r})
session.run({{"x": np.zeros({LENGTH}, np.float32)}})
{ending}
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_reported(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise RuntimeError("no memory")

    monkeypatch.setattr(tasks, "raised_message", broken)
    monkeypatch.setattr(executor, "GRACE_S", 0.1)
    monkeypatch.setattr(worker_threads, "GRACE_S", 0.1)
    with pytest.raises(ExecutionError, match="worker thread has died"):
        session.run(make_input(second=-1.0))
    with pytest.raises(SessionClosedError):
        session.run(make_input())


def test_the_deployment_machine_needs_little(hand_made: HandMade, x: np.ndarray) -> None:
    """The TVM runtime alone, without the libraries of the compiler, from another folder."""
    np.save(hand_made.path.with_name("x.npy"), x)
    script = f"""
import sys
for name in ("onnx", "onnxruntime", "networkx", "lark", "rich", "click", "psutil"):
    sys.modules[name] = None
import numpy as np
from hios_tvm import runtime
with runtime.load("hand-made.hios", devices={hand_made.devices!r}) as session:
    np.savez("out.npz", **session.run({{"the input": np.load("x.npy")}}))
assert "tvm" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        timeout=60,
        cwd=hand_made.path.parent,
    )
    outputs = np.load(hand_made.path.with_name("out.npz"))
    for name, expected in hand_made.expected(x).items():
        np.testing.assert_array_equal(outputs[name], expected)
