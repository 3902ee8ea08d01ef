"""Worker threads, and what they share with the executor that owns them."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeAlias

from hios_tvm.runtime.abi import NativeWorker
from hios_tvm.runtime.native import Library
from hios_tvm.runtime.tasks import Task

GRACE_S = 5.0
"""For the kernels that run when a run is given up, or when threads are to end."""

Started: TypeAlias = SimpleQueue[BaseException | None]
"""Gets what each thread begins with: None, or an error."""


@dataclass
class Slot:
    """What a run has of its own.

    `failures` has task, instruction and message of each kernel that failed; `held` is memory of
    the run. `stuck` says that it has not ended: its kernels may still use memory.
    """

    failures: list[tuple[int, int, str]] = field(default_factory=list)
    held: object = None
    stuck: bool = False

    def clear(self) -> None:
        """Forget a run that has ended."""
        self.stuck = False
        self.held = None
        self.failures.clear()


@dataclass
class Shared:
    """What worker threads and their owner share; threads must not hold the owner itself."""

    library: Library
    memory: list[Any]
    session: int
    slots: tuple[Slot, ...]

    def slot_of(self, run: int) -> Slot:
        """Return what the run of this number has of its own."""
        return self.slots[run % len(self.slots)]


def make_threads(
    shared: Shared, tasks: Sequence[Task], workers: Sequence[int], started: Started
) -> list[threading.Thread]:
    """Return a thread for each of `tasks`, whose worker has its address in `workers`.

    Each puts None into `started` when it is ready, or what it failed with.
    """
    threads = []
    for number, (task, worker) in enumerate(zip(tasks, workers, strict=True)):
        where = f"core {task.core}" if task.core is not None else f"task {number}"
        threads.append(
            threading.Thread(
                target=_work,
                args=(shared, task, number, worker, started),
                name=f"hios {where}",
                daemon=True,  # a forgotten session must not keep the process alive
            )
        )
    return threads


def pin_thread(core: int) -> None:
    """Keep the calling thread on `core`; an `OSError` if the system refuses."""
    os.sched_setaffinity(0, (core,))


def _work(shared: Shared, task: Task, number: int, worker: int, started: Started) -> None:
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
        what = number, native.failed - 1, task.failure(native.status)
        shared.slot_of(native.run).failures.append(what)


def shut_down(shared: Shared, threads: list[threading.Thread]) -> None:
    """End the threads; in a forked child there are none. Doing it twice is fine."""
    alive = [thread for thread in threads if thread.is_alive()]
    if not alive:
        return
    shared.library.dll.hios_stop(shared.session)
    for thread in alive:
        if thread is not threading.current_thread():
            thread.join(GRACE_S)
    stuck = any(slot.stuck for slot in shared.slots)
    if stuck or any(thread.is_alive() for thread in alive):
        _ABANDONED.append(shared)  # a kernel has not returned, and still uses this memory


_ABANDONED: list[Shared] = []
