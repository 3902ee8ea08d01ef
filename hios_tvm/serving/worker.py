"""A model's queue, and the thread that runs what waits in it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

from hios_tvm.runtime.arguments import Array
from hios_tvm.runtime.session import Session
from hios_tvm.serving.refusals import QueueFullError, StoppingError

Arrays = Mapping[str, Array]

_SAMPLE_S = 1.0  # how often a run is looked at as a trace, which takes up to a millisecond


class RunObserver(Protocol):
    """Who is told of runs."""

    def ran(self, requests: int, seconds: float) -> None:
        """A run that answered so many requests took `seconds`."""

    def busy(self, device: str, seconds: float) -> None:
        """A device worked for `seconds`."""


@dataclass(frozen=True)
class _Job:
    inputs: Arrays
    result: Future[dict[str, Array]] = field(default_factory=Future)


class Worker:
    """Runs the requests of one model in their order.

    Parameters
    ----------
    session : Session
        The model; the worker closes it.
    limit : int
        Requests that may wait, beside the one that runs.
    observer : RunObserver
        Told of each run, on the worker's thread.
    """

    def __init__(self, session: Session, *, limit: int, observer: RunObserver) -> None:
        self._session = session
        self._limit = limit
        self._observer = observer
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._is_closing = False
        self._shares: Mapping[str, float] = {}
        self._next_sample = 0.0
        self._thread = Thread(target=self._work, name="hios-serve", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether requests are still taken."""
        return self._thread.is_alive() and not self._is_closing

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._jobs.qsize()

    def submit(self, inputs: Arrays) -> Future[dict[str, Array]]:
        """Let `inputs` be run after those that wait already.

        Raises
        ------
        QueueFullError
            If as many wait as may.
        StoppingError
            After `close`.
        """
        if not self.is_running:
            raise StoppingError("the server is shutting down")
        if self._jobs.qsize() >= self._limit:
            raise QueueFullError(f"{self._limit} requests wait already: try again later")
        job = _Job(inputs)
        self._jobs.put(job)
        return job.result

    def close(self) -> None:
        """Run what waits, then close the session. Closing twice is fine."""
        if not self._is_closing:
            self._is_closing = True
            self._jobs.put(None)
        self._thread.join()
        self._session.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.result.set_running_or_notify_cancel():  # else the client has gone
                self._run(job)

    def _run(self, job: _Job) -> None:
        start = time.perf_counter()
        try:
            outputs = self._session.run(job.inputs)
        except Exception as error:
            job.result.set_exception(error)
            return
        seconds = time.perf_counter() - start
        job.result.set_result(outputs)
        self._observe(1, seconds)

    def _observe(self, requests: int, seconds: float) -> None:
        now = time.monotonic()
        if now >= self._next_sample:
            self._next_sample = now + _SAMPLE_S
            busy = self._session.busy_ms()
            self._shares = {device: ms / (1000 * seconds) for device, ms in busy.items()}
        self._observer.ran(requests, seconds)
        for device, share in self._shares.items():
            self._observer.busy(device, share * seconds)
