"""The best placement for many inputs that a local search finds; it need not be contiguous."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hios_tvm.errors import InfeasibleError, UsageError
from hios_tvm.schedulers.throughput import Pipeline, ThroughputProblem, device_loads_ms
from hios_tvm.schedulers.throughput_bounds import interval_bound_ms
from hios_tvm.schedulers.throughput_contiguous import contiguous_split
from hios_tvm.schedulers.throughput_units import Units, units_of_colour

MOVES_PER_UNIT = 400
FIRST_TEMPERATURE, LAST_TEMPERATURE = 0.03, 5e-4
"""Mean growth of the energy that is accepted, as a share of the largest load."""
POWER = 16
"""Of the norm of all loads that is the energy: the largest counts most, but not alone."""
BUSIEST_SHARE = 0.3
"""Share of moves that start on the device with the largest load."""
NEIGHBOUR_SHARE = 0.7
"""Share of moves that go to the device of a neighbour."""
CHAIN_SHARE, MEAN_CHAIN = 0.6, 20
"""Share of moves that take neighbours along, and how many they try."""
EXCHANGE_SHARE = 0.3
"""Share of moves after which a unit goes the other way."""


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions:
    """Options of the search.

    Attributes
    ----------
    moves : int, optional
        Moves to try in each round; without it, `MOVES_PER_UNIT` times the units.
    rounds : int
        Each starts hot, from the best placement of those before.
    time_limit_s : float
        The search ends here even if moves are left. Below the limit, equal options give equal
        placements.
    max_ideals : int
        The contiguous split that the search starts from is the best one of graphs with as many
        ideals at most.
    seed : int
        Of the random numbers.
    """

    moves: int | None = None
    rounds: int = 2
    time_limit_s: float = 30.0
    max_ideals: int = 3000
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.moves or 0, self.rounds, self.time_limit_s, self.max_ideals)
        if not all(number >= 0 for number in numbers):
            raise UsageError(
                "moves, rounds, time_limit_s and max_ideals must not be negative, got "
                f"{', '.join(map(str, numbers))}"
            )


def find_pipeline(
    problem: ThroughputProblem, options: ThroughputOptions, start_at: Sequence[int] | None = None
) -> Pipeline:
    """Return the best placement that simulated annealing finds, with its loads and a bound.

    It starts from the devices `start_at` of the operators. Without them it starts from the best
    contiguous split, or where memory allows none, from a placement of large units first.

    Raises
    ------
    InfeasibleError
        If no placement is found that memory allows.
    """
    units = units_of_colour(problem)
    if start_at is None:
        start_at = _start(problem, units, options)
    start = units.placed(start_at)
    found = Search(problem, units, start, options).run()
    device_of = min(
        (units.place(start), units.place(found)),
        key=lambda placement: max(device_loads_ms(problem, placement)),
    )
    loads_ms = device_loads_ms(problem, device_of)
    return Pipeline(device_of, loads_ms, interval_bound_ms(problem))


def _start(problem: ThroughputProblem, units: Units, options: ThroughputOptions) -> tuple[int, ...]:
    try:
        return contiguous_split(problem, options.max_ideals).device_of
    except InfeasibleError:
        return units.place(_largest_first(problem, units))


def _largest_first(problem: ThroughputProblem, units: Units) -> list[int]:
    free = [device.memory_bytes for device in problem.devices]
    device_of = [0] * len(units.latency_ms)
    for v in sorted(range(len(device_of)), key=lambda v: -units.memory_bytes[v]):
        able = [
            d
            for d, ms in enumerate(units.latency_ms[v])
            if ms < math.inf and units.memory_bytes[v] <= free[d]
        ]
        if not able:
            name = problem.operators[units.of_operator.index(v)].name
            raise InfeasibleError(
                f"no device has memory left for operator {name!r}: {units.memory_bytes[v]:.0f} "
                "bytes; give devices more memory, or add devices"
            )
        device_of[v] = max(able, key=free.__getitem__)
        free[device_of[v]] -= units.memory_bytes[v]
    return device_of


class Search:
    """Simulated annealing over the devices of units.

    A move takes a unit to another device, and units that it shares transfers with along, one after
    another; of these steps, those up to the best energy are made.
    """

    def __init__(
        self,
        problem: ThroughputProblem,
        units: Units,
        start: Sequence[int],
        options: ThroughputOptions,
    ) -> None:
        self.units = units
        self.options = options
        self.random = random.Random(options.seed)
        self.devices = range(len(problem.devices))
        self.capacity = [device.memory_bytes for device in problem.devices]
        self.is_host = [device.is_host for device in problem.devices]
        self.device = list(start)
        self.neighbours = _neighbours(units)
        self.loads = [0.0] * len(self.devices)
        self.used = [0.0] * len(self.devices)
        counts = [[0] * len(self.devices) for _ in units.nets]
        for count, net in zip(counts, units.nets, strict=True):
            for v in net.units:
                count[start[v]] += 1
            if max(count) < len(net.units):
                for d in self.devices:
                    self.loads[d] += net.transfer_ms if count[d] and not self.is_host[d] else 0.0
        self.nets_of: list[list[tuple[list[int], int, float]]] = [[] for _ in start]
        for count, net in zip(counts, units.nets, strict=True):
            for v in sorted(net.units):
                self.nets_of[v].append((count, len(net.units), net.transfer_ms))
        for v, d in enumerate(start):
            self.loads[d] += units.latency_ms[v][d]
            self.used[d] += units.memory_bytes[v]
        self.scale_ms = self._outcome_ms()

    def run(self) -> tuple[int, ...]:
        """Return the best placement of units that was found."""
        best, best_ms = list(self.device), self._outcome_ms()
        count = len(self.device)
        moves = MOVES_PER_UNIT * count if self.options.moves is None else self.options.moves
        deadline = time.monotonic() + self.options.time_limit_s
        if self.scale_ms <= 0.0 or len(self.devices) < 2:
            return tuple(best)
        for _ in range(self.options.rounds):
            self._restart(best)
            energy = self._energy()
            for move in range(moves):
                if not move & 63:
                    if time.monotonic() > deadline:
                        return tuple(best)
                    cooling = (LAST_TEMPERATURE / FIRST_TEMPERATURE) ** (move / moves)
                limit = energy + FIRST_TEMPERATURE * cooling * self.random.expovariate(1.0)
                made = self._try(limit)
                if made is None:
                    continue
                energy = made
                outcome_ms = self._outcome_ms()
                if outcome_ms < best_ms:
                    best, best_ms = list(self.device), outcome_ms
        return tuple(best)

    def _restart(self, placement: Sequence[int]) -> None:
        for v, d in enumerate(placement):
            if self.device[v] != d:
                self._move(v, d)

    def _try(self, limit: float) -> float | None:
        """Make a random move; return the energy, or None where it is undone, above `limit`."""
        draw = self.random.random
        v = self._first()
        source = self.device[v]
        near = self.neighbours[v]
        if near and draw() < NEIGHBOUR_SHARE:
            target = self.device[near[int(draw() * len(near))][0]]
        else:
            target = int(draw() * len(self.devices))
        if target == source or not self._fits(v, target):
            return None
        self._move(v, target)
        moved, energy = self._take_along(v, source, target)
        if draw() < EXCHANGE_SHARE:
            other = int(draw() * len(self.device))
            if self.device[other] == target and other not in moved and self._fits(other, source):
                self._move(other, source)
                moved.append(other)
                energy = self._energy()
        if energy <= limit:
            return energy
        for other in reversed(moved):
            self._move(other, source if self.device[other] == target else target)
        return None

    def _first(self) -> int:
        """Return a unit to move, at times on the busiest device."""
        draw = self.random.random
        v = int(draw() * len(self.device))
        if draw() < BUSIEST_SHARE:
            busiest = self.loads.index(max(self.loads))
            for _ in self.devices:
                if self.device[v] == busiest:
                    break
                v = int(draw() * len(self.device))
        return v

    def _take_along(self, v: int, source: int, target: int) -> tuple[list[int], float]:
        """Let units follow `v`, those with most transfers to it first; return what has moved."""
        draw = self.random.random
        moved = [v]
        energy = least = self._energy()
        kept = 1
        steps = int(self.random.expovariate(1.0 / MEAN_CHAIN)) if draw() < CHAIN_SHARE else 0
        pull: defaultdict[int, float] = defaultdict(float)
        last = v
        for _ in range(steps):
            for w, ms in self.neighbours[last]:
                if self.device[w] == source:
                    pull[w] += ms * (0.5 + draw())
            if not pull:
                break
            last = max(pull, key=pull.__getitem__)
            del pull[last]
            if not self._fits(last, target):
                continue
            self._move(last, target)
            moved.append(last)
            energy = self._energy()
            if energy < least:
                kept, least = len(moved), energy
        for w in reversed(moved[kept:]):
            self._move(w, source)
        return moved[:kept], least

    def _fits(self, v: int, device: int) -> bool:
        return (
            self.units.latency_ms[v][device] < math.inf
            and self.used[device] + self.units.memory_bytes[v] <= self.capacity[device]
        )

    def _outcome_ms(self) -> float:
        """Return what is to be small."""
        return max(self.loads)

    def _energy(self) -> float:
        """Return the logarithm of the norm of all loads."""
        total = 0.0
        for load in self.loads:
            total += (load / self.scale_ms) ** POWER
        return math.log(total) / POWER

    def _move(self, v: int, target: int) -> None:
        """Move one unit; loads follow from the counts of units that each net has on each device."""
        source = self.device[v]
        less = more = 0.0
        for count, size, ms in self.nets_of[v]:
            here, there = count[source], count[target]
            if here == size:  # the net was on one device, and is on two now
                less -= ms
                more += ms
            else:
                if here == 1:
                    less += ms
                if there == 0:
                    more += ms
                elif there == size - 1:  # it is on one device now
                    more -= ms
            count[source] = here - 1
            count[target] = there + 1
        times = self.units.latency_ms[v]
        self.loads[source] -= times[source] + (0.0 if self.is_host[source] else less)
        self.loads[target] += times[target] + (0.0 if self.is_host[target] else more)
        self.used[source] -= self.units.memory_bytes[v]
        self.used[target] += self.units.memory_bytes[v]
        self.device[v] = target


def _neighbours(units: Units) -> list[list[tuple[int, float]]]:
    """Return for each unit those that share nets with it, and the transfers of these."""
    shared: list[defaultdict[int, float]] = [defaultdict(float) for _ in units.latency_ms]
    for net in units.nets:
        members = sorted(net.units)
        for v in members:
            for w in members:
                if v != w:
                    shared[v][w] += net.transfer_ms / (len(members) - 1)
    return [sorted(each.items()) for each in shared]
