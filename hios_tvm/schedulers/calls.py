"""Placements for one input, where a device runs all that it has as one call.

A device that is not the host's waits for all that its operators need from elsewhere, moves it in,
runs them one after another, and moves out what others need: nobody sees a result before. So a
placement must be contiguous. The host has a core for each operator. The model is that of Tarnawski
et al., Efficient Algorithms for Device Placement of DNN Graph Operators (NeurIPS 2020), appendix A.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from hios_tvm.errors import InfeasibleError, ScheduleError
from hios_tvm.schedulers.throughput import ThroughputProblem, device_loads_ms
from hios_tvm.schedulers.throughput_contiguous import serial_split
from hios_tvm.schedulers.throughput_search import Search, ThroughputOptions
from hios_tvm.schedulers.throughput_units import Units, contiguous_units


@dataclass(frozen=True)
class CallPlacement:
    """The device of each operator, and when the last one has ended."""

    device_of: tuple[int, ...]
    latency_ms: float


def call_latency_ms(problem: ThroughputProblem, device_of: Sequence[int]) -> float:
    """Return the time of one input.

    Raises
    ------
    ScheduleError
        If the placement breaks a rule, or two devices wait for each other.
    """
    loads = device_loads_ms(problem, device_of)
    is_host = [device.is_host for device in problem.devices]
    call: list[Hashable] = [("host", v) if is_host[d] else d for v, d in enumerate(device_of)]
    time_ms: dict[Hashable, float] = {
        each: problem.operators[v].latency_ms[problem.devices[d].kind] if is_host[d] else loads[d]
        for v, (each, d) in enumerate(zip(call, device_of, strict=True))
    }
    needs: dict[Hashable, set[Hashable]] = {each: set() for each in call}
    for u, v in problem.edges:
        if call[u] != call[v]:
            needs[call[v]].add(call[u])
    try:
        return _longest_ms(time_ms, needs)
    except CycleError as error:
        raise ScheduleError(
            "two devices wait for each other: the split is not contiguous"
        ) from error


def _longest_ms(
    time_ms: Mapping[Hashable, float], needs: Mapping[Hashable, set[Hashable]]
) -> float:
    end_ms: dict[Hashable, float] = {}
    for each in TopologicalSorter(needs).static_order():
        start_ms = max((end_ms[other] for other in needs[each]), default=0.0)
        end_ms[each] = start_ms + time_ms[each]
    return max(end_ms.values(), default=0.0)


def find_calls(problem: ThroughputProblem, options: ThroughputOptions) -> CallPlacement:
    """Return the best placement that simulated annealing finds.

    It starts from the best split in which devices work one after another, and from the host alone.

    Raises
    ------
    InfeasibleError
        If memory allows neither.
    """
    hosts = [d for d, device in enumerate(problem.devices) if device.is_host]
    kept = [d for d in range(len(problem.devices)) if d not in hosts[1:]]
    one_host = replace(problem, devices=tuple(problem.devices[d] for d in kept))
    starts = []
    try:
        split = serial_split(problem, options.max_ideals)
        starts.append([kept.index(hosts[0] if d in hosts else d) for d in split])
    except InfeasibleError:
        if not hosts:
            raise
    if hosts:
        starts.append([kept.index(hosts[0])] * len(problem.operators))
    units = contiguous_units(one_host)
    found = []
    for start in starts:
        search = CallSearch(one_host, units, units.placed(start), options)
        found += [tuple(start), units.place(search.run())]
    latency_ms, device_of = min((call_latency_ms(one_host, each), each) for each in found)
    return CallPlacement(tuple(kept[d] for d in device_of), latency_ms)


class CallSearch(Search):
    """The search for many inputs, with the time of one input in the place of the largest load."""

    def __init__(
        self,
        problem: ThroughputProblem,
        units: Units,
        start: Sequence[int],
        options: ThroughputOptions,
    ) -> None:
        of = units.of_operator
        edges = {(of[u], of[v]) for u, v in problem.edges if of[u] != of[v]}
        self.readers: list[list[int]] = [[] for _ in start]
        self.sources: list[list[int]] = [[] for _ in start]
        for u, v in sorted(edges):
            self.readers[u].append(v)
            self.sources[v].append(u)
        hosts = [d for d, device in enumerate(problem.devices) if device.is_host]
        self.host = hosts[0] if hosts else -1
        self.links: list[defaultdict[int, int]] = [
            defaultdict(int) for _ in range(len(problem.devices) + len(start))
        ]
        self.calls = [self._call(v, d, len(problem.devices)) for v, d in enumerate(start)]
        self.on_host = {v for v, d in enumerate(start) if d == self.host}
        for u, v in edges:
            if self.calls[u] != self.calls[v]:
                self.links[self.calls[u]][self.calls[v]] += 1
        super().__init__(problem, units, start, options)

    def _call(self, v: int, device: int, devices: int) -> int:
        """Return the number of a call: that of its device, or one of each unit of the host."""
        return devices + v if device == self.host else device

    def _outcome_ms(self) -> float:
        """Return the time of one input; infinite where calls wait for each other."""
        loads, first = self.loads, len(self.devices)
        times = self.units.latency_ms
        waits = [0] * len(self.links)
        calls = [d for d in self.devices if d != self.host]
        calls += [first + v for v in self.on_host]
        for call in calls:
            for other in self.links[call]:
                waits[other] += 1
        start_ms = [0.0] * len(self.links)
        ready = [call for call in calls if not waits[call]]
        longest_ms = 0.0
        for call in ready:  # grows
            load_ms = times[call - first][self.host] if call >= first else loads[call]
            end_ms = start_ms[call] + load_ms
            longest_ms = max(longest_ms, end_ms)
            for other in self.links[call]:
                start_ms[other] = max(start_ms[other], end_ms)
                waits[other] -= 1
                if not waits[other]:
                    ready.append(other)
        return longest_ms if len(ready) == len(calls) else math.inf

    def _energy(self) -> float:
        outcome_ms = self._outcome_ms()
        return math.log(outcome_ms / self.scale_ms) if outcome_ms > 0.0 else -math.inf

    def _move(self, v: int, target: int) -> None:
        super()._move(v, target)
        old, new = self.calls[v], self._call(v, target, len(self.devices))
        self.on_host.discard(v)
        if target == self.host:
            self.on_host.add(v)
        self.calls[v] = new
        for w in self.readers[v]:
            self._link(old, self.calls[w], -1)
            self._link(new, self.calls[w], 1)
        for u in self.sources[v]:
            self._link(self.calls[u], old, -1)
            self._link(self.calls[u], new, 1)

    def _link(self, call: int, other: int, change: int) -> None:
        if call != other:
            self.links[call][other] += change
            if not self.links[call][other]:
                del self.links[call][other]
