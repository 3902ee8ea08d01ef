"""The best contiguous split: no path leaves a device and comes back to it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import networkx as nx
import numpy as np

from hios_tvm.errors import InfeasibleError
from hios_tvm.schedulers.throughput import ThroughputProblem
from hios_tvm.schedulers.throughput_units import Units, contiguous_units

Matrix: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
Vector: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"

MAX_IDEALS = 50_000
"""About this many take a minute: the time grows with their square."""

_ROWS = 256  # ideals whose loads are computed at once


@dataclass(frozen=True)
class ContiguousSplit:
    """A contiguous placement, the interval of it, and whether it is the best one.

    It is not where the graph has more ideals than allowed: then it is the best along one
    topological order.
    """

    device_of: tuple[int, ...]
    interval_ms: float
    is_best: bool


def contiguous_split(problem: ThroughputProblem, max_ideals: int = MAX_IDEALS) -> ContiguousSplit:
    """Return the best contiguous split, by dynamic programming over ideals.

    An ideal is a set of units with all that they need. Each device gets the difference of two
    ideals, so the best load of an ideal on some devices follows from those of smaller ideals on
    one device less (Tarnawski et al., section 5.1). The loads of all pairs of ideals are products
    of matrices: what a transfer costs between two ideals depends only on how many readers each has.

    Raises
    ------
    InfeasibleError
        If memory allows no contiguous split.

    Notes
    -----
    O(I^2 (N + D)) for I ideals, N nets and D ways to choose how many devices of each kind.
    """
    interval_ms, device_of, is_best = _split(problem, max_ideals, np.maximum)
    return ContiguousSplit(device_of, interval_ms, is_best)


def serial_split(problem: ThroughputProblem, max_ideals: int = MAX_IDEALS) -> tuple[int, ...]:
    """Return the contiguous split with the least sum of all loads: the device of each operator.

    A single input takes that time where devices work one after another.

    Raises
    ------
    InfeasibleError
        If memory allows no contiguous split.
    """
    return _split(problem, max_ideals, np.add)[1]


def _split(
    problem: ThroughputProblem, max_ideals: int, combine: np.ufunc
) -> tuple[float, tuple[int, ...], bool]:
    """Return the least combination of loads, its placement, and whether none is better."""
    units = contiguous_units(problem)
    needs = _needs(problem, units)
    prefixes = _prefixes(needs)
    ideals = _ideals(needs, max_ideals)
    along_one = _Program(problem, units, prefixes).run(math.inf, combine)
    if ideals is None:
        best = along_one
    else:
        limit_ms = math.inf if along_one is None else along_one[0]
        best = _Program(problem, units, ideals).run(limit_ms, combine)
    if best is None:
        raise InfeasibleError(
            "no contiguous split fits into the memory of the devices; give them more memory"
        )
    return best[0], units.place(best[1]), ideals is not None


def _needs(problem: ThroughputProblem, units: Units) -> list[int]:
    """Return the direct producers of each unit, as bits."""
    needs = [0] * len(units.latency_ms)
    for u, v in problem.edges:
        if units.of_operator[u] != units.of_operator[v]:
            needs[units.of_operator[v]] |= 1 << units.of_operator[u]
    return needs


def _prefixes(needs: Sequence[int]) -> list[int]:
    """Return the ideals along one topological order, as bits; it ends what it has begun first."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(needs)))
    graph.add_edges_from(
        (u, v) for v, mask in enumerate(needs) for u in range(len(needs)) if mask >> u & 1
    )
    postorder = list(nx.dfs_postorder_nodes(graph))
    order = reversed(postorder)
    return list(itertools.accumulate((1 << v for v in order), int.__or__, initial=0))


def _ideals(needs: Sequence[int], limit: int) -> list[int] | None:
    """Return all ideals as bits, or None if there are more than `limit`."""
    ideals = [0]
    known = {0}
    for ideal in ideals:  # grows
        for v, needed in enumerate(needs):
            larger = ideal | 1 << v
            if not needed & ~ideal and larger not in known:
                known.add(larger)
                ideals.append(larger)
        if len(ideals) > limit:
            return None
    return ideals


class _Program:
    """The dynamic program over some ideals, which include the empty one and that of all units."""

    def __init__(self, problem: ThroughputProblem, units: Units, ideals: Sequence[int]) -> None:
        count = len(units.latency_ms)
        words = -(-max(1, count) // 64)
        raw = b"".join(ideal.to_bytes(8 * words, "little") for ideal in ideals)
        octets = np.frombuffer(raw, np.uint8).reshape(len(ideals), 8 * words)
        has: Matrix = np.unpackbits(octets, axis=1, bitorder="little")[:, :count].astype(float)

        self.kinds = Counter((d.kind, d.memory_bytes, d.is_host) for d in problem.devices)
        self.devices = [
            [
                i
                for i, d in enumerate(problem.devices)
                if (d.kind, d.memory_bytes, d.is_host) == kind
            ]
            for kind in self.kinds
        ]
        latency = np.array(units.latency_ms, float).reshape(count, len(problem.devices))
        order = np.lexsort((has.sum(1), has @ latency.min(1)))  # subsets come before
        has = has[order]
        self.bits = np.frombuffer(raw, np.uint64).reshape(len(ideals), words)[order]
        self.least_ms: Vector = has @ latency.min(1)
        self.memory = has @ np.array(units.memory_bytes, float)
        self.time: list[Vector] = []
        self.misfits: list[Vector] = []  # how many units of each ideal cannot run on a kind
        for devices in self.devices:
            of_kind = latency[:, devices[0]]
            self.time.append(has @ np.where(np.isinf(of_kind), 0.0, of_kind))
            self.misfits.append(has @ np.isinf(of_kind).astype(float))
        self._factor_transfers(units, has)
        self.has = has

    def _factor_transfers(self, units: Units, has: Matrix) -> None:
        """Compute matrices whose product is what is not transferred between two ideals.

        Let I contain J. What I without J gives away are the nets of I with readers outside, but
        for those whose source is in J. What it takes are the nets with the source in J and
        readers outside of it, but for those of which I has as many readers as J.
        """
        nets = units.nets
        cost = np.array([net.transfer_ms for net in nets])
        reads = np.zeros((has.shape[1], len(nets)))
        for number, net in enumerate(nets):
            reads[list(net.readers), number] = 1.0
        source = has[:, [net.source for net in nets]]
        readers = has @ reads
        is_open = source * (readers < reads.sum(0))
        self.open_ms: Vector = is_open @ cost
        of_larger, of_smaller = [is_open * cost], [source]
        for number in range(int(reads.sum(0).max(initial=0.0))):
            some = np.flatnonzero(reads.sum(0) > number)
            equal = (readers[:, some] == number).astype(float)
            of_larger.append(equal)
            of_smaller.append(equal * is_open[:, some] * cost[some])
        self.of_larger = np.hstack(of_larger)
        self.of_smaller = np.ascontiguousarray(np.hstack(of_smaller).T)

    def run(self, limit_ms: float, combine: np.ufunc) -> tuple[float, tuple[int, ...]] | None:
        """Return the least combination of loads up to `limit_ms`, with the device of each unit.

        None if there is none.
        """
        counts = [len(devices) for devices in self.devices]
        states = list(itertools.product(*(range(n + 1) for n in counts)))[1:]
        best = {state: np.full(len(self.memory), math.inf) for state in states}
        best[(0,) * len(counts)] = np.where(self.has.any(1), math.inf, 0.0)
        before = {state: np.zeros((2, len(self.memory)), int) for state in states}
        limit_ms *= 1.0 + 1e-9  # sums in another order differ in their last digits
        first = np.searchsorted(self.least_ms, self.least_ms - limit_ms)
        for start in range(0, len(self.memory), _ROWS):
            rows = slice(start, start + _ROWS)
            columns = slice(int(first[start]), start + _ROWS)
            loads = self._loads(rows, columns)
            for state in states:
                for kind, load in enumerate(loads):
                    if not state[kind]:
                        continue
                    fewer = tuple(n - (i == kind) for i, n in enumerate(state))
                    values = combine(load, best[fewer][columns])
                    column = values.argmin(1)
                    value = values[np.arange(len(column)), column]
                    better = value < best[state][rows]
                    best[state][rows][better] = value[better]
                    before[state][0, rows][better] = kind
                    before[state][1, rows][better] = column[better] + columns.start
        value_ms = float(best[states[-1]][-1])
        if math.isinf(value_ms):
            return None
        return value_ms, self._placement(before, states[-1])

    def _loads(self, rows: slice, columns: slice) -> list[Matrix]:
        """Return what a device of each kind does, for larger ideals (rows) without smaller ones."""
        larger, smaller = self.bits[rows, None], self.bits[None, columns]
        is_no_subset = np.zeros((larger.shape[0], smaller.shape[1]), bool)
        for word in range(self.bits.shape[1]):
            is_no_subset |= (smaller[..., word] & ~larger[..., word]) != 0

        def difference(values: Vector) -> Matrix:
            return values[rows, None] - values[None, columns]

        transfers = self.open_ms[rows, None] + self.open_ms[None, columns]
        transfers -= self.of_larger[rows] @ self.of_smaller[:, columns]
        loads = []
        for (_, nbytes, is_host), time, misfits in zip(
            self.kinds, self.time, self.misfits, strict=True
        ):
            load = difference(time)
            if not is_host:
                load += transfers
            does_not_fit = is_no_subset | (difference(misfits) > 0)
            if nbytes < math.inf:
                does_not_fit |= difference(self.memory) > nbytes
            load[does_not_fit] = math.inf
            loads.append(load)
        return loads

    def _placement(
        self, before: dict[tuple[int, ...], np.ndarray], state: tuple[int, ...]
    ) -> tuple[int, ...]:
        device_of = np.zeros(self.has.shape[1], int)
        ideal = len(self.memory) - 1
        while any(state) and ideal > 0:
            kind, smaller = (int(n) for n in before[state][:, ideal])
            members = (self.has[ideal] > 0) & (self.has[smaller] == 0)
            device_of[members] = self.devices[kind][state[kind] - 1]
            state = tuple(n - (i == kind) for i, n in enumerate(state))
            ideal = smaller
        return tuple(map(int, device_of))
