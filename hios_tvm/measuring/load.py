"""How much of the machine other processes use while something is measured."""

from __future__ import annotations

import os
import time

import psutil

LOADED = 0.1
"""The share of the cores above which the work of other processes is named."""


class LoadMeter:
    """Counts the processor time of others from now on, on the cores that this process may use.

    What the host of a virtual machine takes for its other guests (*steal*) is among it.
    """

    def __init__(self) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._start = self._now()

    def others(self) -> float:
        """Return the share of the cores that others have used, between 0 and 1."""
        now = self._now()
        if self._start is None or now is None or now[0] <= self._start[0]:
            return 0.0
        elapsed_s, used_s = (after - before for before, after in zip(self._start, now, strict=True))
        return min(1.0, max(0.0, used_s / (elapsed_s * len(self._cores))))

    def _now(self) -> tuple[float, float] | None:
        """Return the time, and that of others; None where the system does not tell."""
        try:
            return time.monotonic(), self._busy_s() - _own_s()
        except (OSError, psutil.Error):  # it is for a note only
            return None

    def _busy_s(self) -> float:
        times = psutil.cpu_times(percpu=True)
        known = [times[core] for core in self._cores if core < len(times)]
        return float(sum(sum(core) - core.idle - getattr(core, "iowait", 0.0) for core in known))


def load_note(others: float, doing: str) -> list[str]:
    """Say how busy other processes were, where that matters.

    >>> load_note(0.05, "the runs"), load_note(0.42, "the runs")
    ([], ['other processes used 42% of the cores during the runs: on an idle machine it is faster'])
    """
    if others < LOADED:
        return []
    return [
        f"other processes used {others:.0%} of the cores during {doing}: on an idle machine it is "
        "faster"
    ]


def _own_s() -> float:
    """Processor time of this process and of its children, those that have ended included."""
    me = psutil.Process()
    times = [me.cpu_times()]
    for child in me.children(recursive=True):
        try:
            times.append(child.cpu_times())
        except psutil.NoSuchProcess:  # it is among the ended ones now
            continue
    ended = times[0].children_user + times[0].children_system
    return float(ended) + sum(float(each.user + each.system) for each in times)
