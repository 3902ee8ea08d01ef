"""What a time from one result to the next leaves to a placement: which outputs it cannot move.

Whether an interval is too short is asked of groups of units that must lie on one device:

- A group's device does the group's work, and for each of its nets pays the transfer, or does the
  work of the net's other groups. A group that fits on no device in that way proves that the
  interval is too short.
- A net is moved by devices that pay for it. Where none of its groups leaves its device time for
  that, the net is on one device, and its groups become one.
- A connected part of the graph with more work than a device has time for is on several devices,
  which are connected by nets that are moved. All devices together have time for all work, and for
  the least of these transfers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hios_tvm.schedulers.throughput import ThroughputProblem
from hios_tvm.schedulers.throughput_units import Units

_MARGIN = 1e-9
"""By this share times have to be above an interval to prove something: sums are rounded."""


@dataclass(frozen=True)
class _Kind:
    """Equal devices: how many, their memory, and whether they transfer nothing."""

    count: int
    memory_bytes: float
    is_host: bool


@dataclass(frozen=True)
class _Groups:
    """Units that lie on one device: times on each kind, bytes, and nets between them."""

    time_ms: list[tuple[float, ...]]
    memory_bytes: list[float]
    nets: list[tuple[frozenset[int], float]]


class Cuts:
    """Proofs that intervals are too short for a problem with its `units`."""

    def __init__(self, problem: ThroughputProblem, units: Units) -> None:
        keys = [(d.kind, d.memory_bytes, d.is_host) for d in problem.devices]
        counts = Counter(keys)
        self._kinds = [_Kind(count, key[1], key[2]) for key, count in counts.items()]
        self._hosts = sum(kind.count for kind in self._kinds if kind.is_host)
        self._devices = len(problem.devices)
        self._units = _Groups(
            [tuple(times[keys.index(key)] for key in counts) for times in units.latency_ms],
            list(units.memory_bytes),
            _joined((net.units, net.transfer_ms) for net in units.nets),
        )

    def are_too_dear(self, interval_ms: float, weights: Sequence[float]) -> bool:
        """Whether no placement has an interval as short as `interval_ms`.

        `weights` are of the kinds of devices, in the order of their first ones: the weighted sum of
        all loads is compared with the weighted sum of what devices have to do.
        """
        most_ms = interval_ms * (1.0 + _MARGIN)
        groups = self._grown(self._units, most_ms)
        if groups is None:
            return True
        work_ms = sum(
            min(w * ms for w, ms in zip(weights, times, strict=True)) for times in groups.time_ms
        )
        paying = [w for w, kind in zip(weights, self._kinds, strict=True) if not kind.is_host]
        moved_ms = min(paying, default=0.0) * self._moved_ms(groups, most_ms)
        time_ms = sum(w * kind.count for w, kind in zip(weights, self._kinds, strict=True))
        return work_ms + moved_ms > most_ms * time_ms

    def _grown(self, groups: _Groups, most_ms: float) -> _Groups | None:
        """Join groups that lie on one device; None where one fits on none."""
        while True:
            parent = list(range(len(groups.time_ms)))
            slack = self._slack(groups, most_ms)
            if slack is None:
                return None
            joined = False
            for (members, _), spare in zip(groups.nets, slack, strict=True):
                able = sum(ms >= 0.0 for ms in spare)
                # Of the devices that a moved net is on, all but the hosts pay.
                if self._hosts < 2 and able < 2 - self._hosts:
                    joined = True
                    one, *others = (_root(parent, v) for v in members)
                    for other in others:
                        parent[_root(parent, other)] = _root(parent, one)
            if not joined:
                return groups
            groups = self._merged(groups, [_root(parent, v) for v in range(len(parent))])

    def _slack(self, groups: _Groups, most_ms: float) -> list[list[float]] | None:
        """Return for each net and group of it the most time that is left where the net is moved.

        On a device that is not the host. None where a group has no device.
        """
        nets_of: list[list[int]] = [[] for _ in groups.time_ms]
        for n, (members, _) in enumerate(groups.nets):
            for v in members:
                nets_of[v].append(n)
        slack: list[list[float]] = [[] for _ in groups.nets]
        for v, times in enumerate(groups.time_ms):
            common = Counter(u for n in nets_of[v] for u in groups.nets[n][0])
            best = [-math.inf] * len(nets_of[v])
            fits = False
            for k, kind in enumerate(self._kinds):
                if times[k] > most_ms:
                    continue
                if kind.is_host:
                    fits = True
                    continue
                least = [
                    min(ms, sum(groups.time_ms[u][k] / common[u] for u in members if u != v))
                    for members, ms in (groups.nets[n] for n in nets_of[v])
                ]
                left_ms = most_ms - times[k] - sum(least)
                fits = fits or left_ms >= 0.0
                for i, (n, ms) in enumerate(zip(nets_of[v], least, strict=True)):
                    best[i] = max(best[i], left_ms + ms - groups.nets[n][1])
            if not fits:
                return None
            for n, ms in zip(nets_of[v], best, strict=True):
                slack[n].append(ms)
        return slack

    def _merged(self, groups: _Groups, root: Sequence[int]) -> _Groups:
        number = {r: i for i, r in enumerate(dict.fromkeys(root))}
        time_ms = [[0.0] * len(self._kinds) for _ in number]
        memory = [0.0] * len(number)
        for v, r in enumerate(root):
            memory[number[r]] += groups.memory_bytes[v]
            for k, ms in enumerate(groups.time_ms[v]):
                time_ms[number[r]][k] += ms
        fitting = [
            tuple(
                ms if nbytes <= kind.memory_bytes else math.inf
                for ms, kind in zip(times, self._kinds, strict=True)
            )
            for times, nbytes in zip(time_ms, memory, strict=True)
        ]
        nets = ((frozenset(number[root[v]] for v in members), ms) for members, ms in groups.nets)
        return _Groups(fitting, memory, _joined(nets))

    def _moved_ms(self, groups: _Groups, most_ms: float) -> float:
        """Return the least time that all devices together spend on transfers."""
        parent = list(range(len(groups.time_ms)))
        for members, _ in groups.nets:
            one, *others = members
            for other in others:
                parent[_root(parent, other)] = _root(parent, one)
        work_ms: defaultdict[int, float] = defaultdict(float)
        for v, times in enumerate(groups.time_ms):
            work_ms[_root(parent, v)] += min(times)
        nets: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        for members, ms in groups.nets:
            nets[_root(parent, next(iter(members)))].append((len(members), ms))
        return sum(
            self._connected_ms(nets[part], math.ceil(ms / most_ms) - 1)
            for part, ms in work_ms.items()
            if ms > most_ms
        )

    def _connected_ms(self, nets: Sequence[tuple[int, float]], joints: int) -> float:
        """Return the least transfers that connect one device more than there are `joints`.

        A net on n devices is n - 1 joints, and all but the hosts pay for it.
        """
        joints = min(joints, self._devices - 1)
        least = [0.0, *[math.inf] * joints]  # for so many joints at least
        for size, ms in nets:
            most = min(size, self._devices) - 1
            for made in range(joints, 0, -1):
                least[made] = min(
                    least[made],
                    *(
                        least[max(0, made - more)] + ms * max(0, more + 1 - self._hosts)
                        for more in range(1, most + 1)
                    ),
                )
        return least[joints]


def _joined(nets: Iterable[tuple[frozenset[int], float]]) -> list[tuple[frozenset[int], float]]:
    """Add up nets of equal groups, and leave out those of one."""
    total: defaultdict[frozenset[int], float] = defaultdict(float)
    for members, ms in nets:
        if len(members) > 1:
            total[members] += ms
    return list(total.items())


def _root(parent: list[int], v: int) -> int:
    while parent[v] != v:
        parent[v] = parent[parent[v]]
        v = parent[v]
    return v
