"""A model's queue, and the thread that runs what waits in it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

from hios_tvm.errors import DeviceError, HiosError
from hios_tvm.runtime.arguments import Array
from hios_tvm.runtime.session import Session
from hios_tvm.serving.batching import divide, fit_together, join, joinable_batch, rows_of
from hios_tvm.serving.refusals import QueueFullError, UnavailableError

Arrays = Mapping[str, Array]

_SAMPLE_S = 1.0  # how often a run is looked at as a trace, which takes up to a millisecond


class RunObserver(Protocol):
    """Who is told of runs."""

    def ran(self, rows: int, seconds: float) -> None:
        """A run of so many rows of the batch took `seconds`; a model without a batch has one."""

    def busy(self, device: str, seconds: float) -> None:
        """A device worked for `seconds`."""


@dataclass(frozen=True)
class _Job:
    inputs: Arrays
    result: Future[dict[str, Array]] = field(default_factory=Future)
    accepted: float = field(default_factory=time.monotonic)


class Worker:
    """Runs the requests of one model in their order, several at once where it has a batch.

    What waits when a run ends is the next batch, as far as it fits; so batches grow with the load.

    Parameters
    ----------
    session : Session
        The model; the worker closes it.
    limit : int
        Requests that may wait, beside the one that runs.
    observer : RunObserver
        Told of each run, on the worker's thread.
    max_batch : int
        Rows that requests are joined to at most, no more than the artifact's; 0: as many.
    max_wait_s : float
        How long a request waits for others to join it.

    Raises
    ------
    DeviceError
        If the system allows no more threads; the session is closed then.
    """

    def __init__(
        self,
        session: Session,
        *,
        limit: int,
        observer: RunObserver,
        max_batch: int = 0,
        max_wait_s: float = 0.0,
    ) -> None:
        self._session = session
        self._batch = joinable_batch(session)
        largest = 1 if self._batch is None else self._batch.largest
        self._max_rows = min(max_batch, largest) if max_batch else largest
        self._max_wait_s = max_wait_s
        self._limit = limit
        self._observer = observer
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._is_closing = False
        self._shares: Mapping[str, float] = {}
        self._next_sample = 0.0
        self._thread = Thread(target=self._work, name="hios-serve", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # of Python, where the system allows no more
            session.close()
            raise DeviceError(f"this process cannot start a thread for a queue: {error}") from error

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
        UnavailableError
            After `close`.
        """
        if not self.is_running:
            raise UnavailableError("the server is shutting down")
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
        held: _Job | None = None  # what did not fit into the last batch
        while (job := held or self._jobs.get()) is not None:
            jobs, held = self._fill(job)
            running = [job for job in jobs if job.result.set_running_or_notify_cancel()]
            if running:  # the clients of others have gone
                self._answer(running)

    def _fill(self, first: _Job) -> tuple[list[_Job], _Job | None]:
        """Return the jobs of the next run, and one that has to wait for the run after it."""
        jobs, batch = [first], self._batch
        if batch is None or self._max_rows == 1:
            return jobs, None
        rows = rows_of(batch, first.inputs)
        end = first.accepted + self._max_wait_s
        while rows < self._max_rows:
            left_s = end - time.monotonic()
            try:
                job = self._jobs.get(timeout=left_s) if left_s > 0 else self._jobs.get_nowait()
            except Empty:
                break
            if job is None:  # the end, which is for `_work`
                self._jobs.put(None)
                break
            rows += rows_of(batch, job.inputs)
            if rows > self._max_rows or not fit_together(batch, first.inputs, job.inputs):
                return jobs, job
            jobs.append(job)
        return jobs, None

    def _answer(self, jobs: list[_Job]) -> None:
        """Run `jobs` at once; where that fails, each on its own, to tell whose fault it is."""
        try:
            results = self._run_together(jobs)
        except Exception as error:
            if len(jobs) == 1 or not isinstance(error, HiosError):
                for job in jobs:
                    job.result.set_exception(error)
            else:
                for job in jobs:
                    self._answer([job])
            return
        for job, outputs in zip(jobs, results, strict=True):
            job.result.set_result(outputs)

    def _run_together(self, jobs: list[_Job]) -> list[dict[str, Array]]:
        batch = self._batch
        if batch is None:
            return [self._run(jobs[0].inputs, 1)]
        rows = [rows_of(batch, job.inputs) for job in jobs]
        if len(jobs) == 1:
            return [self._run(jobs[0].inputs, rows[0])]
        outputs = self._run(join(batch, [job.inputs for job in jobs]), sum(rows))
        return divide(batch, outputs, rows)

    def _run(self, inputs: Arrays, rows: int) -> dict[str, Array]:
        start = time.perf_counter()
        outputs = self._session.run(inputs)
        seconds = time.perf_counter() - start
        now = time.monotonic()
        if now >= self._next_sample:
            self._next_sample = now + _SAMPLE_S
            busy = self._session.busy_ms()
            self._shares = {device: ms / (1000 * seconds) for device, ms in busy.items()}
        self._observer.ran(rows, seconds)
        for device, share in self._shares.items():
            self._observer.busy(device, share * seconds)
        return outputs
