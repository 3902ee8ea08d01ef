"""Many inputs through sessions of one artifact, which run at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Inputs taken for each session: while one runs, the next one waits, so that no core has to."""


def run_in_order(runs: Sequence[Callable[[T], R]], inputs: Iterable[T]) -> Iterator[R]:
    """Yield what comes of each of `inputs` in their order; each goes to one of `runs` that is free.

    Inputs are taken as there is room for them, so they may be without end. An error of a run is
    raised in the place of its result. At the end, also an early one, nothing runs any more.
    """
    free: SimpleQueue[Callable[[T], R]] = SimpleQueue()
    for run in runs:
        free.put(run)

    def run_next(value: T) -> R:
        run = free.get()  # there is one: there are as many threads
        try:
            return run(value)
        finally:
            free.put(run)

    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(len(runs), thread_name_prefix="hios run_many") as threads:
        try:
            for value in inputs:
                pending.append(threads.submit(run_next, value))
                if len(pending) >= _AHEAD * len(runs):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
