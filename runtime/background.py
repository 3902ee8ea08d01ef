"""Runs in a thread of the session, for callers that do not wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from hios_tvm.errors import SessionClosedError
from hios_tvm.runtime.turn import check_timeout

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class TimedRun(Protocol[T_co]):
    """A run that can be limited in time."""

    def __call__(self, *, timeout: float | None) -> T_co: ...


class Background:
    """Starts runs one after another; its thread starts with the first, and ends with the owner."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hios submitted runs")

    def submit(self, run: TimedRun[T], timeout: float | None) -> Future[T]:
        """Call `run` behind those that were submitted before; waiting for them takes its time.

        Raises
        ------
        UsageError
            If `timeout` is not a number from 0.
        SessionClosedError
            After `close`.
        """
        check_timeout(timeout)
        try:
            return self._pool.submit(_timed(run, timeout))
        except RuntimeError as error:  # of a pool that was shut down, also when Python exits
            raise SessionClosedError(f"the session takes no more runs: {error}") from error

    def close(self) -> None:
        """Cancel what has not begun. What has begun goes on."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _timed(run: TimedRun[T], timeout: float | None) -> Callable[[], T]:
    if timeout is None:
        return lambda: run(timeout=None)
    deadline = time.monotonic() + timeout
    return lambda: run(timeout=max(0.0, deadline - time.monotonic()))
