"""A thread's turn to run, for which it waits no longer than its timeout."""

from __future__ import annotations

import threading
import time
from typing import Any

from hios_tvm.errors import RunTimeoutError, UsageError


def check_timeout(timeout: float | None) -> None:
    """Raise `UsageError` unless `timeout` is None or a number from 0."""
    if timeout is not None and not timeout >= 0:  # nor for nan
        raise UsageError(f"timeout must be a number of seconds from 0, not {timeout}")


class Turn:
    """Hold `lock` inside of a ``with`` block.

    Parameters
    ----------
    lock
        A lock of `threading`.
    timeout : float
        Seconds for waiting and for the block together.

    Raises
    ------
    UsageError
        If `timeout` is not a number from 0.
    RunTimeoutError
        If the lock is not free in time.
    """

    def __init__(self, lock: Any, timeout: float) -> None:
        check_timeout(timeout)
        self._lock = lock
        self._timeout = min(timeout, threading.TIMEOUT_MAX)
        self._deadline = time.monotonic() + self._timeout

    @property
    def left_s(self) -> float:
        """The seconds that are left."""
        return max(0.0, self._deadline - time.monotonic())

    def __enter__(self) -> Turn:
        if not self._lock.acquire(timeout=self._timeout):
            raise RunTimeoutError("other runs took longer than the timeout")
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
