"""Lower bounds of the time from one result to the next."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from hios_tvm.schedulers.throughput import ThroughputProblem
from hios_tvm.schedulers.throughput_cuts import Cuts
from hios_tvm.schedulers.throughput_units import Units, units_of_colour

_ROUNDS = 4
_STEPS = 60
_PRECISION = 1e-4
"""Share by which the bound may stay below the largest interval that is proven to be too short."""


def interval_bound_ms(problem: ThroughputProblem) -> float:
    """Return an interval that no placement beats.

    The largest of three:

    - the unit that takes longest where it is fastest;
    - the work of all units, shared by all devices. Give each device a weight: the largest load is
      at least the weighted mean of all loads, and a unit adds to that at least its least weighted
      time. This holds for any weights, and the best are looked for;
    - the longest interval that work and transfers are proven to exceed (`Cuts`). A longer one
      leaves more to a placement, so that it is found by bisection.

    Raises
    ------
    InfeasibleError
        If a unit fits on no device.
    """
    units = units_of_colour(problem)
    if not units.latency_ms:
        return 0.0
    longest_ms = max(min(times) for times in units.latency_ms)
    shared_ms, weights = _shared_work(problem, units)
    bound_ms = max(longest_ms, shared_ms * (1.0 - 1e-12))  # sums differ in their last digits
    if bound_ms == 0.0:
        return bound_ms
    transfers_ms = sum(net.transfer_ms for net in units.nets)
    most_ms = sum(map(min, units.latency_ms)) + len(problem.devices) * transfers_ms
    return _with_transfers(Cuts(problem, units), bound_ms, most_ms, weights)


def _with_transfers(cuts: Cuts, bound_ms: float, most_ms: float, weights: Sequence[float]) -> float:
    """Return the largest interval of a few that is too short; `bound_ms` is one.

    One above `most_ms` is too short only where there is no placement at all.
    """
    equal = [1.0] * len(weights)

    def is_too_short(interval_ms: float) -> bool:
        return any(cuts.are_too_dear(interval_ms, each) for each in (weights, equal))

    low, high = bound_ms, bound_ms * (1.0 + _PRECISION)
    while high <= most_ms and is_too_short(high):
        low, high = high, high * max(2.0, high / low)
    while high > low * (1.0 + _PRECISION):
        middle = math.sqrt(low * high)
        if is_too_short(middle):
            low = middle
        else:
            high = middle
    return low


def _shared_work(problem: ThroughputProblem, units: Units) -> tuple[float, list[float]]:
    """Maximize the second bound, which is concave in the weights, one kind of device at a time.

    Returns the bound, and the weight of each kind in the order of their first devices.
    """
    keys = [(device.kind, device.memory_bytes, device.is_host) for device in problem.devices]
    kinds = Counter(keys)
    times = np.array(units.latency_ms, float)[:, [keys.index(kind) for kind in kinds]]
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
    return bound_ms(best), [float(weight) for weight in np.exp(best)]
