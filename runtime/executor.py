"""Worker threads that execute programs; their inner loop is executor.cc."""

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from hios_tvm.errors import DeviceError, ExecutionError, RunTimeoutError, SessionClosedError
from hios_tvm.runtime.abi import ANY_CORE, LEFT, NO_CORE, NativeInstruction, NativeWorker
from hios_tvm.runtime.memory import TensorTable, address_of
from hios_tvm.runtime.tasks import NativeProgram, Task, Team
from hios_tvm.runtime.worker_threads import (
    GRACE_S,
    Shared,
    Slot,
    Started,
    make_threads,
    shut_down,
)
from hios_tvm.schema.manifest import ALIGNMENT

DEFAULT_SPIN_US = 500.0
"""How long a worker polls for an event before it sleeps.

Waking a sleeper takes 50 us and more on a virtual machine. 500 us are longer than most waits for
another device, and than what a caller does between two runs. With 2 ms, sessions on the same
cores slow each other down.
"""

SLICE_NS = 50_000_000
"""How often a caller checks for interrupts and dead workers."""

_HANGS = "a kernel of an earlier run has not returned"
_FAILED, _PAUSED = 1, 2  # what hios_run and hios_lead return
_JOIN_SPIN_NS = 50_000  # other workers end about when a caller that led has ended


@dataclass(frozen=True)
class Leader:
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
    more
        The same for each further slot, where several runs are to go on at once.
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
        more: Sequence[TensorTable] = (),
        memory: object = None,
        spin_us: float = DEFAULT_SPIN_US,
    ) -> None:
        library = tasks[0].library
        signals = dict.fromkeys(event for task in tasks for event in task.host_events)
        events = {event: i for i, event in enumerate(signals)}
        tables = (tensors, *more)
        state, session = _aligned_zeros(library.dll.hios_session_bytes(len(events), len(tables)))
        library.dll.hios_open(session, len(tasks), len(events), len(tables))
        self.tasks = tuple(tasks)
        spin_ns = int(1000 * spin_us)
        slots = tuple(Slot() for _ in tables)
        self._shared = Shared(library, [state, tables, memory], session, slots)
        # No comprehension may hold this object: Python 3.11 loses one for which there is no memory
        self._teams = teams = self._open_teams(spin_ns)
        lowered = [_lower(task, tables, events, teams) for task in tasks]
        self._operators = [program.operators for program in lowered]
        self._times = [
            np.zeros((len(tables), len(operators) + 1), np.int64) for operators in self._operators
        ]
        self._closed = self._hangs = False
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
        weakref.finalize(self, shut_down, self._shared, self._threads)
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
        slot = self._shared.slots[0]
        if self._closed or slot.stuck:
            self.require_free()
        leader = self._leader if timeout is None else None
        try:
            slot.stuck = True  # until all workers have left
            slot.held = held
            if leader is not None:
                if code := leader.run():
                    self._lead_on(leader, code)
            else:
                run = self._shared.library.dll.hios_start(self._shared.session, False)
                self._join(run, None if timeout is None else time.monotonic() + timeout)
            slot.stuck = False
        except BaseException:
            self._give_up(self._latest(), leader)
            raise
        self._raise_failure(slot)

    def _latest(self) -> int:
        return int(self._shared.library.dll.hios_latest(self._shared.session))

    def _raise_failure(self, slot: Slot) -> None:
        """Let go of what a run that has ended held; raise the first failure of a kernel."""
        slot.held = None
        if not slot.failures:
            return
        number, index, message = slot.failures[0]
        slot.failures.clear()
        operator = self._operators[number][index]
        what = "a copy or wait" if operator is None else f"operator {operator!r}"
        raise ExecutionError(
            f"{what} failed on {self.tasks[number].device_of(index)}: {message}",
            operator=operator,
        )

    def _find_leader(self) -> Leader | None:
        """Return the first worker that has a core, else the first that feeds a GPU.

        Where there are several slots nobody leads: the caller's next run may be another's.
        """
        if len(self._shared.slots) > 1:
            return None
        with_core = (n for n, task in enumerate(self.tasks) if task.core is not None)
        for_gpu = (n for n, worker in enumerate(self._workers) if worker.driver is not None)
        number = next(with_core, next(for_gpu, None))
        if number is None:
            return None
        task, worker = self.tasks[number], self._workers[number]
        worker.core = ANY_CORE if task.core is None else task.core
        own = ctypes.c_void_p(self._shared.session), ctypes.byref(worker)
        return Leader(
            number,
            partial(task.library.dll.hios_run, *own, SLICE_NS, _JOIN_SPIN_NS),
            partial(task.library.dll.hios_lead, *own, SLICE_NS),
        )

    def _lead_on(self, leader: Leader, code: int) -> None:
        """End a run that could not be ended at once, for the reason `code`."""
        while code in (_FAILED, _PAUSED):  # paused now and then, so that Python handles interrupts
            if code == _FAILED:
                status, failed = (
                    getattr(self._workers[leader.number], n) for n in ("status", "failed")
                )
                message = self.tasks[leader.number].failure(status)
                self._shared.slots[0].failures.append((leader.number, failed - 1, message))
            code = leader.go_on()
        self._join(self._latest(), None)

    def times(self, task: int, slot: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return when each instruction of `task` began, then when the last ended.

        Nanoseconds of the monotonic clock, of the last run in `slot`.
        """
        times: np.ndarray[Any, np.dtype[np.int64]] = self._times[task][slot]
        return times.copy()

    @property
    def is_forked(self) -> bool:
        """Whether this process was forked from the owner: it has none of the threads."""
        return os.getpid() != self._pid

    @property
    def is_stuck(self) -> bool:
        """Whether a run was given up and its kernels have not returned: they still use memory."""
        return any(slot.stuck for slot in self._shared.slots)

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
        if self.is_stuck:
            raise SessionClosedError(f"{_HANGS}: load the artifact again")

    def close(self) -> None:
        """End all threads; `run` raises from now on. Closing twice is fine."""
        self._closed = True
        shut_down(self._shared, self._threads)  # where this fails, it is done again in the end

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
        started: Started = SimpleQueue()
        addresses = [ctypes.addressof(worker) for worker in self._workers]
        self._threads += make_threads(self._shared, self.tasks, addresses, started)
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

    def _join(self, run: int, deadline: float | None) -> None:
        dll, session = self._shared.library.dll, self._shared.session
        while True:
            limit = SLICE_NS
            if deadline is not None:
                limit = max(0, min(limit, int(1e9 * (deadline - time.monotonic()))))
            if dll.hios_join(session, run, limit):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise RunTimeoutError("the run took longer than its timeout and was given up")
            if not all(thread.is_alive() for thread in self._threads):
                raise ExecutionError("a worker thread has died: load the artifact again")
            if self._hangs:
                raise ExecutionError(f"{_HANGS}: load the artifact again")

    def _give_up(self, run: int, leader: Leader | None) -> None:
        dll, session = self._shared.library.dll, self._shared.session
        dll.hios_abort(session, run)
        end = time.monotonic() + GRACE_S
        while leader is not None and leader.go_on() and time.monotonic() < end:
            pass
        while time.monotonic() < end and all(thread.is_alive() for thread in self._threads):
            if dll.hios_join(session, run, SLICE_NS):
                self._shared.slot_of(run).clear()
                return
        self._hangs = True


def _lower(
    task: Task,
    tables: Sequence[TensorTable],
    events: Mapping[Hashable, int],
    teams: Mapping[Team, int],
) -> NativeProgram:
    """Return the instructions of all slots, one slot behind the other."""
    first, *others = (task.lower(tensors, events, teams) for tensors in tables)
    if not others:
        return first
    programs = [first, *others]
    length = len(first.operators)
    together = (NativeInstruction * max(1, len(programs) * length))()
    for i, program in enumerate(programs):
        together[i * length : (i + 1) * length] = program.instructions[:length]
    held = [what for program in programs for what in program.held]
    return replace(first, instructions=together, held=held)


def _aligned_zeros(nbytes: int) -> tuple[np.ndarray[Any, Any], int]:
    memory = np.zeros(nbytes + ALIGNMENT, np.uint8)
    return memory, address_of(memory) + -address_of(memory) % ALIGNMENT
