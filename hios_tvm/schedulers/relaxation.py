"""What all schedules of a graph have in common: earliest starts, and work between starts and ends.

Times of a schedule are those of operators: an operator starts when its stage starts and the
operators before it in its stream group have taken their times alone, and ends likewise. A group
takes no longer in the model than its stage, so that no operator runs shorter than alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

Neighbours = list[list[tuple[int, float]]]
"""For each operator those at the other ends of its edges, and the least times of transfers."""

STEPS = 100
"""How many earliest starts, and how many latest ends, are looked at in graphs of any size."""


@dataclass(frozen=True)
class Relaxation:
    """Operators by position, in topological order; all numbers are the least of any schedule.

    Attributes
    ----------
    latency_ms : sequence of float
        Time from start to end.
    occupied_ms : sequence of float
        Time of its device: shorter than the latency where stages of several groups pay.
    work_ms : sequence of float
        Time of its device times the units that the device has.
    width : sequence of int
        Most units that it can run on.
    sources, readers : list of list of (int, float)
        What each operator reads from, and what reads from it.
    """

    latency_ms: Sequence[float]
    occupied_ms: Sequence[float]
    work_ms: Sequence[float]
    width: Sequence[int]
    sources: Neighbours
    readers: Neighbours

    @cached_property
    def head_ms(self) -> list[float]:
        """A time before which each operator cannot start.

        Some sources are on its device, and the device runs them one after another; the others pay
        transfers. The least of these starts is found at those that arrive last from elsewhere: to
        take them over costs no more than to take over others.

        References
        ----------
        .. [1] Al-Mouhamed, "Lower bound on the number of processors and time for scheduling
           precedence graphs with communication costs", IEEE Transactions on Software Engineering
           16(12), 1990.
        """
        head_ms: list[float] = []
        for sources in self.sources:
            arrivals = sorted(
                ((head_ms[u] + self.latency_ms[u] + ms, u) for u, ms in sources), reverse=True
            )
            head_ms.append(self._head_ms(head_ms, arrivals))
        return head_ms

    @cached_property
    def backward(self) -> Relaxation:
        """The problem with time running backward; its operators are in reverse order."""
        last = len(self.latency_ms) - 1

        def turned(edges: Neighbours) -> Neighbours:
            return [[(last - v, ms) for v, ms in own] for own in reversed(edges)]

        return replace(
            self,
            latency_ms=self.latency_ms[::-1],
            occupied_ms=self.occupied_ms[::-1],
            work_ms=self.work_ms[::-1],
            width=self.width[::-1],
            sources=turned(self.readers),
            readers=turned(self.sources),
        )

    @property
    def tail_ms(self) -> list[float]:
        """A time that is left to the end of all when each operator has ended."""
        return self.backward.head_ms[::-1]

    def _head_ms(self, head_ms: Sequence[float], arrivals: Sequence[tuple[float, int]]) -> float:
        """Return the least start over the numbers of sources on the same device."""

        def here_ms(count: int) -> float:
            own = sorted(((head_ms[u], u) for _, u in arrivals[:count]), reverse=True)
            end_ms = busy_ms = 0.0
            for start_ms, u in own:  # the device takes these no earlier than the last of them
                busy_ms += self.occupied_ms[u]
                end_ms = max(end_ms, start_ms + max(busy_ms, self.latency_ms[u]))
            return end_ms

        def away_ms(count: int) -> float:
            return arrivals[count][0] if count < len(arrivals) else 0.0

        low, high = 0, len(arrivals)  # `here_ms` grows with the count, `away_ms` falls
        while low < high:
            middle = (low + high) // 2
            if here_ms(middle) >= away_ms(middle):
                high = middle
            else:
                low = middle + 1
        return min(here_ms(low), away_ms(low - 1)) if low else away_ms(0)


def path_bound_ms(relaxed: Relaxation) -> float:
    """Return the longest way through an operator: what must be before it, itself, and after it."""
    return max(map(sum, zip(relaxed.head_ms, relaxed.latency_ms, relaxed.tail_ms, strict=True)))


def interval_bound_ms(relaxed: Relaxation, speed: float, saved_ms: float = 0.0) -> float:
    """Return the makespan that leaves room for the work between earliest starts and latest ends.

    Take the operators that cannot start before h and have at least t behind them. Each unit runs
    one of them first and one last, no two units the same but for the width of a device. So n units
    are not busy with them before the n least heads, nor within the n least tails of the end. The
    sources, of these operators, of the one that a unit runs first are on other devices, so that
    its head counts their transfers; likewise the tail of the last one where t is 0. Fewer units
    than all may be used, and together they do no more work in a time than `speed` says: so the
    bound is the least one over the numbers of units.

    The same is done with time running backward, and the larger bound counts.

    Parameters
    ----------
    speed : float
        Units of work that all units do in a unit of time at most.
    saved_ms : float
        Work that measured stages take less than the model says.

    Notes
    -----
    O(E + V + n) for E edges, V operators and n units, in some thousand numpy operations.

    References
    ----------
    .. [1] Fernandez and Bussell, "Bounds on the number of processors and time for multiprocessor
       optimal schedules", IEEE Transactions on Computers C-22(8), 1973.
    .. [2] Carlier, "Scheduling jobs with release dates and tails on identical machines to minimize
       the makespan", European Journal of Operational Research 29(3), 1987.
    """
    return max(_interval_ms(each, speed, saved_ms) for each in (relaxed, relaxed.backward))


def _interval_ms(relaxed: Relaxation, speed: float, saved_ms: float) -> float:
    head_ms, tail_ms = np.array(relaxed.head_ms), np.array(relaxed.tail_ms)
    starts = np.unique(head_ms)
    if len(starts) > STEPS:
        starts = starts[np.linspace(0, len(starts) - 1, STEPS).astype(int)]
    units = np.minimum(1.0, speed - np.arange(np.ceil(speed)))
    copies = np.minimum(relaxed.width, len(units))  # a wide device may be first on several units
    order = np.argsort(-tail_ms, kind="stable")
    order = np.repeat(order, copies[order])
    first = _first_ms(relaxed, starts)[:, order]
    inside = starts[:, None] <= head_ms[order]
    first[~inside] = np.inf
    share_ms = (np.array(relaxed.work_ms) / copies)[order]
    none = np.full((len(starts), len(units)), np.inf)
    heads, tails, work = none, none, np.full(len(starts), -saved_ms, float)

    def makespan_ms() -> float:
        idle = np.cumsum((heads + tails) * units, axis=1)
        least = np.min((idle + work[:, None]) / np.cumsum(units), axis=1)
        return float(np.max(least, initial=0.0, where=least < np.inf))

    best_ms = 0.0
    for some in np.array_split(np.arange(len(order)), STEPS):
        heads = _smallest(heads, first[:, some])
        tails = _smallest(tails, np.where(inside[:, some], tail_ms[order[some]], np.inf))
        work += inside[:, some] @ share_ms[some]
        best_ms = max(best_ms, makespan_ms())
    last = _first_ms(relaxed.backward, np.zeros(1))[0, ::-1][order]
    tails = _smallest(none, np.where(inside, last, np.inf))
    return max(best_ms, makespan_ms())


def _first_ms(relaxed: Relaxation, starts: np.ndarray) -> np.ndarray:
    """Return, for each set and operator, its head if all its sources in the set are elsewhere.

    Set i has the operators whose heads are at least ``starts[i]``.
    """
    first = np.tile(relaxed.head_ms, (len(starts), 1))
    rows = np.searchsorted(starts, relaxed.head_ms, side="right")  # in how many sets each one is
    for v, sources in enumerate(relaxed.sources):
        for u, transfer_ms in sources:
            arrival_ms = relaxed.head_ms[u] + relaxed.latency_ms[u] + transfer_ms
            np.maximum(first[: rows[u], v], arrival_ms, out=first[: rows[u], v])
    return first


def _smallest(found: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Return the smallest numbers of each row of two arrays, as many as the first one has."""
    both = np.concatenate([found, more], axis=1)
    return np.sort(both, axis=1)[:, : found.shape[1]]
