"""Worker threads that execute programs; their inner loop is executor.cc."""

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from hios_tvm.errors import DeviceError, ExecutionError, RunTimeoutError, SessionClosedError
from hios_tvm.runtime.abi import ANY_CORE, LEFT, NO_CORE, NativeWorker
from hios_tvm.runtime.devices.cpu.cores import pin_thread
from hios_tvm.runtime.memory import TensorTable, address_of
from hios_tvm.runtime.native import Library
from hios_tvm.runtime.tasks import Task, Team
from hios_tvm.schema.manifest import ALIGNMENT

DEFAULT_SPIN_US = 500.0
"""How long a worker polls for an event before it sleeps.

Waking a sleeper takes 50 us and more on a virtual machine. 500 us are longer than most waits for
another device, and than what a caller does between two runs. With 2 ms, sessions on the same
cores slow each other down.
"""

_SLICE_NS = 50_000_000  # how often a caller checks for interrupts and dead workers
_FAILED, _PAUSED = 1, 2  # what hios_run and hios_lead return
_JOIN_SPIN_NS = 50_000  # other workers end about when a caller that led has ended
_GRACE_S = 5.0  # for the kernels that run when a run is given up


@dataclass
class _Shared:
    """What worker threads and their owner share; threads must not hold the owner itself.

    `stuck` says that a run has not ended: its kernels may still use memory.
    """

    library: Library
    memory: list[Any]
    session: int
    failures: list[tuple[int, int, str]] = field(default_factory=list)
    held: object = None
    stuck: bool = False


@dataclass(frozen=True)
class _Leader:
    """A worker whose place the caller of a run takes: nobody needs to be woken for it.

    `run` starts a run and returns 0 where it has ended, else why not; `go_on` continues it.
    """

    number: int
    run: Callable[[], int]
    go_on: Callable[[], int]


class Executor:
    """Worker threads, one for each task; `run` executes all of them once.

    Not thread-safe: its owner serialises runs.

    Parameters
    ----------
    tasks
        What each worker executes; at least one. Equal events in different tasks are the same event.
    tensors
        The addresses of the buffers that instructions name.
    memory
        Owner of those buffers: it lives as long as any kernel runs.
    spin_us : float
        How long a worker polls for an event before it sleeps. After the first 20 us it yields its
        core between polls.

    Raises
    ------
    ArtifactError
        If a library lacks a kernel.
    DeviceError
        If a thread cannot be pinned to its core, or has no access to its GPU.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        tensors: TensorTable,
        *,
        memory: object = None,
        spin_us: float = DEFAULT_SPIN_US,
    ) -> None:
        library = tasks[0].library
        signals = dict.fromkeys(event for task in tasks for event in task.host_events)
        events = {event: i for i, event in enumerate(signals)}
        state, session = _aligned_zeros(library.dll.hios_session_bytes(len(events)))
        library.dll.hios_open(session, len(tasks), len(events))
        self.tasks = tuple(tasks)
        spin_ns = int(1000 * spin_us)
        self._shared = _Shared(library, [state, tensors, memory], session)
        # No comprehension may hold this object: Python 3.11 loses one for which there is no memory
        self._teams = teams = self._open_teams(spin_ns)
        lowered = [task.lower(tensors, events, teams) for task in tasks]
        self._operators = [program.operators for program in lowered]
        self._times = [np.zeros(len(operators) + 1, np.int64) for operators in self._operators]
        self._closed = False
        self._pid = os.getpid()
        self._workers = (NativeWorker * len(tasks))()
        for task, native, worker, times in zip(
            tasks, lowered, self._workers, self._times, strict=True
        ):
            self._shared.memory += [native, times, task.library, self._workers]
            worker.program = ctypes.addressof(native.instructions)
            worker.length = len(native.operators)
            worker.driver, worker.context = native.driver, native.context
            worker.times = address_of(times)
            worker.spin_ns = spin_ns
            worker.next, worker.core = LEFT, NO_CORE
        self._leader = self._find_leader()
        self._threads: list[threading.Thread] = []
        weakref.finalize(self, _shut_down, self._shared, self._threads)
        self._start_threads()

    def run(self, timeout: float | None = None, held: object = None) -> None:
        """Execute all programs once.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which the run is given up.
        held
            Memory of this run: it lives until the last kernel has returned.

        Raises
        ------
        ExecutionError
            If a kernel fails; the executor works again afterwards.
        RunTimeoutError
            If `timeout` is over. Where a kernel does not return either, the executor is closed.
        """
        if self._closed or self._shared.stuck:
            self.require_free()
        leader = self._leader if timeout is None else None
        try:
            self._shared.stuck = True  # until all workers have left
            self._shared.held = held
            if leader is not None:
                if code := leader.run():
                    self._lead_on(leader, code)
            else:
                self._shared.library.dll.hios_start(self._shared.session, False)
                self._join(None if timeout is None else time.monotonic() + timeout)
            self._shared.stuck = False
        except BaseException:
            self._give_up(leader)
            raise
        self._shared.held = None
        if self._shared.failures:
            number, index, message = self._shared.failures[0]
            self._shared.failures.clear()
            operator = self._operators[number][index]
            what = "a copy or wait" if operator is None else f"operator {operator!r}"
            raise ExecutionError(
                f"{what} failed on {self.tasks[number].device_of(index)}: {message}",
                operator=operator,
            )

    def _find_leader(self) -> _Leader | None:
        """Return the first worker that has a core, else the first that feeds a GPU."""
        with_core = (n for n, task in enumerate(self.tasks) if task.core is not None)
        for_gpu = (n for n, worker in enumerate(self._workers) if worker.driver is not None)
        number = next(with_core, next(for_gpu, None))
        if number is None:
            return None
        task, worker = self.tasks[number], self._workers[number]
        worker.core = ANY_CORE if task.core is None else task.core
        own = ctypes.c_void_p(self._shared.session), ctypes.byref(worker)
        return _Leader(
            number,
            partial(task.library.dll.hios_run, *own, _SLICE_NS, _JOIN_SPIN_NS),
            partial(task.library.dll.hios_lead, *own, _SLICE_NS),
        )

    def _lead_on(self, leader: _Leader, code: int) -> None:
        """End a run that could not be ended at once, for the reason `code`."""
        while code in (_FAILED, _PAUSED):  # paused now and then, so that Python handles interrupts
            if code == _FAILED:
                status, failed = (
                    getattr(self._workers[leader.number], n) for n in ("status", "failed")
                )
                message = self.tasks[leader.number].failure(status)
                self._shared.failures.append((leader.number, failed - 1, message))
            code = leader.go_on()
        self._join(None)

    def times(self, task: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return when each instruction of `task` began in the last run, then when the last ended.

        Nanoseconds of the monotonic clock.
        """
        return self._times[task].copy()

    @property
    def is_forked(self) -> bool:
        """Whether this process was forked from the owner: it has none of the threads."""
        return os.getpid() != self._pid

    @property
    def is_stuck(self) -> bool:
        """Whether a run was given up and its kernels have not returned: they still use memory."""
        return self._shared.stuck

    def require_open(self) -> None:
        """Raise `SessionClosedError` after `close`, and in a forked child."""
        if self.is_forked:
            raise SessionClosedError(
                "the session belongs to the process that loaded it: load the artifact again after "
                "a fork"
            )
        if self._closed:
            raise SessionClosedError("the session is closed: load the artifact again")

    def require_free(self) -> None:
        """Raise `SessionClosedError` after `close`, and where kernels of a run still use memory."""
        self.require_open()
        if self._shared.stuck:
            raise SessionClosedError(
                "a kernel of an earlier run has not returned: load the artifact again"
            )

    def close(self) -> None:
        """End all threads; `run` raises from now on. Closing twice is fine."""
        self._closed = True
        _shut_down(self._shared, self._threads)  # where this fails, it is done again in the end

    def _open_teams(self, spin_ns: int) -> dict[Team, int]:
        """Return the address of each team that the tasks name."""
        teams: dict[Team, int] = {}
        for task in self.tasks:
            for team in task.teams:
                if team not in teams:
                    memory, teams[team] = _aligned_zeros(task.library.dll.hios_team_bytes())
                    task.library.dll.hios_team_open(teams[team], len(team), spin_ns)
                    self._shared.memory.append(memory)
        return teams

    def _start_threads(self) -> None:
        started: SimpleQueue[BaseException | None] = SimpleQueue()
        for number, (task, worker) in enumerate(zip(self.tasks, self._workers, strict=True)):
            where = f"core {task.core}" if task.core is not None else f"task {number}"
            self._threads.append(
                threading.Thread(
                    target=_work,
                    args=(self._shared, task, number, ctypes.addressof(worker), started),
                    name=f"hios {where}",
                    daemon=True,  # a forgotten session must not keep the process alive
                )
            )
        try:
            for thread in self._threads:
                thread.start()
            errors = [error for _ in self._threads if (error := started.get()) is not None]
            if errors:
                raise errors[0]
        except BaseException as failure:
            # One that the system has started may not be alive in Python's eyes yet.
            self._shared.library.dll.hios_stop(self._shared.session)
            self.close()
            if isinstance(failure, (DeviceError, OSError)):
                raise DeviceError(f"a worker cannot be put on its device: {failure}") from failure
            if isinstance(failure, RuntimeError):  # of Python, where the system allows no more
                raise DeviceError(
                    f"this process cannot start {len(self._threads)} threads: {failure}"
                ) from failure
            raise

    def _join(self, deadline: float | None) -> None:
        dll, session = self._shared.library.dll, self._shared.session
        while True:
            limit = _SLICE_NS
            if deadline is not None:
                limit = max(0, min(limit, int(1e9 * (deadline - time.monotonic()))))
            if dll.hios_join(session, limit):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise RunTimeoutError("the run took longer than its timeout and was given up")
            if not all(thread.is_alive() for thread in self._threads):
                raise ExecutionError("a worker thread has died: load the artifact again")

    def _give_up(self, leader: _Leader | None) -> None:
        dll, session = self._shared.library.dll, self._shared.session
        dll.hios_abort(session)
        end = time.monotonic() + _GRACE_S
        while leader is not None and leader.go_on() and time.monotonic() < end:
            pass
        while time.monotonic() < end and all(thread.is_alive() for thread in self._threads):
            if dll.hios_join(session, _SLICE_NS):
                self._shared.stuck = False
                self._shared.held = None
                self._shared.failures.clear()
                return


def _work(
    shared: _Shared,
    task: Task,
    number: int,
    worker: int,
    started: SimpleQueue[BaseException | None],
) -> None:
    """Execute `task` in every run, on its core."""
    error: BaseException | None = None
    try:
        if task.core is not None:
            pin_thread(task.core)
        task.enter()
    except BaseException as failure:  # who starts this thread waits for it
        error = failure
    started.put(error)
    native = NativeWorker.from_address(worker)
    while task.library.dll.hios_work(shared.session, worker):
        shared.failures.append((number, native.failed - 1, task.failure(native.status)))


def _shut_down(shared: _Shared, threads: list[threading.Thread]) -> None:
    """End the threads; in a forked child there are none. Doing it twice is fine."""
    alive = [thread for thread in threads if thread.is_alive()]
    if not alive:
        return
    shared.library.dll.hios_stop(shared.session)
    for thread in alive:
        if thread is not threading.current_thread():
            thread.join(_GRACE_S)
    if shared.stuck or any(thread.is_alive() for thread in alive):
        _ABANDONED.append(shared)  # a kernel has not returned, and still uses this memory


def _aligned_zeros(nbytes: int) -> tuple[np.ndarray[Any, Any], int]:
    memory = np.zeros(nbytes + ALIGNMENT, np.uint8)
    return memory, address_of(memory) + -address_of(memory) % ALIGNMENT


_ABANDONED: list[_Shared] = []
