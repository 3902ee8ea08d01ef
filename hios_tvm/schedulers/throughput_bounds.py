"""Lower bounds of the time from one result to the next."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from hios_tvm.schedulers.throughput import ThroughputProblem
from hios_tvm.schedulers.throughput_units import Units, units_of_colour

_ROUNDS = 4
_STEPS = 60


def interval_bound_ms(problem: ThroughputProblem) -> float:
    """Return an interval that no placement beats, with all transfers left out.

    The larger of two:

    - the unit that takes longest where it is fastest;
    - the work of all units, shared by all devices. Give each device a weight: the largest load is
      at least the weighted mean of all loads, and a unit adds to that at least its least weighted
      time. This holds for any weights, and the best are looked for.

    Raises
    ------
    InfeasibleError
        If a unit fits on no device.
    """
    units = units_of_colour(problem)
    if not units.latency_ms:
        return 0.0
    longest_ms = max(min(times) for times in units.latency_ms)
    return max(longest_ms, _shared_work_ms(problem, units))


def _shared_work_ms(problem: ThroughputProblem, units: Units) -> float:
    """Maximize the second bound, which is concave in the weights, one kind of device at a time."""
    kinds = Counter((device.kind, device.memory_bytes) for device in problem.devices)
    first = {(d.kind, d.memory_bytes): i for i, d in reversed([*enumerate(problem.devices)])}
    times = np.array(units.latency_ms, float)[:, [first[kind] for kind in kinds]]
    counts = np.array(list(kinds.values()), float)

    def bound_ms(logarithms: np.ndarray) -> float:
        weights = np.exp(logarithms)
        return float((times * weights).min(1).sum() / (counts @ weights))

    best = np.zeros(len(counts))
    for _ in range(_ROUNDS if len(counts) > 1 else 0):
        for kind in range(len(counts)):
            low, high = best.copy(), best.copy()
            low[kind], high[kind] = best[kind] - math.log(1e4), best[kind] + math.log(1e4)
            for _ in range(_STEPS):
                third = (high - low) / 3.0
                if bound_ms(low + third) < bound_ms(high - third):
                    low = low + third
                else:
                    high = high - third
            best = max(best, (low + high) / 2.0, key=bound_ms)
    return bound_ms(best) * (1.0 - 1e-12)  # sums in another order differ in their last digits
