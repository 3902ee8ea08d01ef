"""The one loop that measures latencies: contestants run in turn, in short bursts.

Other processes, the clock of the CPU and its temperature change over seconds. Contestants that are
measured one after another are measured on different machines, so to say; in turn, all of them see
the same one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Burst = Callable[[Sequence[float]], Sequence[float]]
"""Runs a contestant a few times: from its latencies so far to those of the new runs, in ms."""


@dataclass(frozen=True)
class LatencySummary:
    """Milliseconds over runs; `spread_ms` is the interquartile range, `percentiles` by number."""

    runs: int
    mean_ms: float
    median_ms: float
    spread_ms: float
    min_ms: float
    max_ms: float
    percentiles_ms: dict[str, float]

    @staticmethod
    def of(
        latencies_ms: Sequence[float], percentiles: Sequence[float] = (50, 90, 95, 99, 99.9)
    ) -> LatencySummary:
        """Sum up one latency per run.

        >>> LatencySummary.of([1.0, 2.0, 3.0], percentiles=[50]).percentiles_ms
        {'p50': 2.0}
        """
        values = np.asarray(latencies_ms, dtype=np.float64)
        low, median, high = np.percentile(values, [25, 50, 75])
        return LatencySummary(
            runs=len(values),
            mean_ms=float(values.mean()),
            median_ms=float(median),
            spread_ms=float(high - low),
            min_ms=float(values.min()),
            max_ms=float(values.max()),
            percentiles_ms={f"p{p:g}": float(np.percentile(values, p)) for p in percentiles},
        )


def latencies_of(run: Callable[[], object]) -> Iterator[float]:
    """Call `run` again and again, and yield the milliseconds of each call.

    >>> from itertools import islice
    >>> all(ms >= 0 for ms in islice(latencies_of(list), 3))
    True
    """
    while True:
        start = time.perf_counter()
        run()
        yield 1000 * (time.perf_counter() - start)


def measure_in_turn(
    bursts: Sequence[Burst],
    is_enough: Callable[[int, Sequence[float]], bool],
    *,
    pause_s: float = 0.0,
    progress: Callable[[int, int], None] = lambda turn, contestant: None,
) -> list[list[float]]:
    """Let contestants run in bursts, one after another, until each has run enough.

    Parameters
    ----------
    bursts : sequence of function
        One for each contestant.
    is_enough : function
        Whether a contestant is done, from the number of turns and its latencies.
    pause_s : float
        Seconds to wait after each burst: a thread pool spins for a while before it sleeps, and
        would take a core from the next contestant.
    progress : function, optional
        Called before each burst with the number of the turn and that of the contestant.

    Returns
    -------
    list of list of float
        Milliseconds of all runs of each contestant.

    Examples
    --------
    >>> measure_in_turn([lambda _: [1.0], lambda _: [2.0, 3.0]], lambda turn, _: turn == 2)
    [[1.0, 1.0], [2.0, 3.0, 2.0, 3.0]]
    """
    latencies: list[list[float]] = [[] for _ in bursts]
    turn = 0
    while waiting := [i for i, known in enumerate(latencies) if not is_enough(turn, known)]:
        for i in waiting:
            progress(turn, i)
            latencies[i] += bursts[i](latencies[i])
            time.sleep(pause_s)
        turn += 1
    return latencies
