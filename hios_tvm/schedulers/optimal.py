"""The best schedule of a small graph, by branch and bound."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hios_tvm.errors import InfeasibleError, UsageError
from hios_tvm.schedulers.bounds import least_work_ms
from hios_tvm.schedulers.list_schedule import Clock, advance, order_of
from hios_tvm.schedulers.memory import Memory
from hios_tvm.schedulers.portfolio import portfolio
from hios_tvm.schedulers.problem import Groups, PlacedStage, Problem
from hios_tvm.schedulers.refine import RefineOptions, refined
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class OptimalOptions:
    """Options of the exact search.

    Attributes
    ----------
    max_operators : int
        Larger graphs are refused: time grows exponentially.
    time_limit_s : float
        After it the search ends with an error: its best schedule is not proven optimal.
    """

    max_operators: int = 10
    time_limit_s: float = 60.0

    def __post_init__(self) -> None:
        if self.max_operators < 0 or not self.time_limit_s > 0.0:
            raise UsageError(
                "max_operators must not be negative and time_limit_s must be positive, got "
                f"{self.max_operators} and {self.time_limit_s}"
            )


def optimal(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: OptimalOptions
) -> Schedule:
    """Return a schedule with the least makespan over all placements, orders, stages and groups.

    Stages without a measurement take the time of the analytic model. Devices without common cores
    count as independent; where they are not, the schedule is the best one of independent devices.

    Raises
    ------
    UsageError
        If the graph has more operators than `max_operators`, or the time limit has passed.
    InfeasibleError
        If no scheduler finds a schedule.
    """
    if len(graph.operators) > options.max_operators:
        raise UsageError(
            f"graph {graph.name!r} has {len(graph.operators)} operators, more than the "
            f"{options.max_operators} of 'optimal'; use 'refine', or raise max_operators"
        )
    modelled = replace(costs, measure_stage=None)
    independent = replace(platform, independence=1.0)
    problem = Problem.of(graph, modelled, independent)
    search = _Search(problem, options.time_limit_s)
    failure = None
    try:
        start = portfolio(graph, modelled, independent)[0][1]
        start = refined(graph, modelled, independent, start, RefineOptions())
        search.start_from(order_of(problem, start))
    except InfeasibleError as error:  # memory is so tight that only the search finds a way
        failure = error
    search.extend(Clock.at_start(problem), [], 0, 0.0)
    if failure is not None and search.best_ms == math.inf:
        raise failure
    return problem.schedule("optimal", search.best)


class _Search:
    """Depth-first search over lists of stages by ascending start.

    Every schedule is such a list, once: so the start of a stage bounds what comes after it.
    """

    def __init__(self, problem: Problem, time_limit_s: float) -> None:
        self.problem = problem
        self.best: list[PlacedStage] = []
        self.best_ms = math.inf
        self.deadline = time.monotonic() + time_limit_s
        self.time_limit_s = time_limit_s
        self.all = (1 << len(problem.operators)) - 1
        self.before = [sum(1 << u for u, _ in inputs) for inputs in problem.predecessors]
        self.after = [
            sum(1 << v for v in problem.operators if self.before[v] >> u & 1)
            for u in problem.operators
        ]
        self.least_ms, self.work_ms = _least_and_work_ms(problem)
        self.exchanges = _exchanges(problem.platform)
        self.devices_to_try: dict[frozenset[int], list[int]] = {}
        units = problem.platform.units
        self.devices_of = [
            [d for d in problem.devices if unit in units[d]]
            for unit in range(problem.platform.unit_count)
        ]
        self.memory = Memory(problem)
        self.seen_ms: dict[tuple[object, ...], float] = {}

    def start_from(self, stages: Sequence[PlacedStage]) -> None:
        """Look for schedules that are better than `stages`."""
        clock = Clock.at_start(self.problem)
        advance(clock, stages)
        self.best, self.best_ms = list(stages), max(clock.free_ms)

    def extend(self, clock: Clock, stages: list[PlacedStage], done: int, now_ms: float) -> None:
        """Try everything that can follow `stages`, the last of which started at `now_ms`."""
        if done == self.all:
            if max(clock.free_ms) < self.best_ms:
                self.best, self.best_ms = list(stages), max(clock.free_ms)
            return
        if not self._is_new(clock, done, now_ms):
            return
        children: list[tuple[float, float, int, PlacedStage, Clock, int]] = []
        for stage in self._next_stages(clock, done):
            if time.monotonic() > self.deadline:
                raise UsageError(
                    f"'optimal' has not finished in {self.time_limit_s} s; raise time_limit_s, or "
                    "use 'refine'"
                )
            arrivals = (clock.end_ms[u] + times[clock.device[u]] for u, times in stage.inputs)
            start_ms = max([clock.free_ms[stage.device], *arrivals])
            if start_ms < now_ms:
                continue
            after = clock.copy()
            advance(after, [stage])
            members = sum(1 << v for v in stage.operators)
            bound_ms = self._bound_ms(after, done | members, start_ms)
            children.append((bound_ms, start_ms, len(children), stage, after, done | members))
        for bound_ms, start_ms, _, stage, after, ended in sorted(children, key=lambda c: c[:3]):
            if bound_ms < self.best_ms - 1e-12:
                self.extend(after, [*stages, stage], ended, start_ms)

    def _next_stages(self, clock: Clock, done: int) -> Iterator[PlacedStage]:
        """Yield stages of one operator, and of several groups, on each device."""
        devices = self._devices(clock, done)
        left = self.memory.copy()
        for v in (v for v in self.problem.operators if done >> v & 1):
            left.take(clock.device[v], (v,))
        streams = max(self.problem.platform.devices[d].streams for d in devices)
        for members in self._closed_sets(done):
            parts = self._parts(members)
            if len(members) == 1:
                ways: Iterator[Groups] = iter([(tuple(members),)])
            else:  # one group of several is never better than a stage for each
                ways = (groups for groups in _partitions(parts) if 2 <= len(groups) <= streams)
            for groups in ways:
                for d in devices:
                    if not left.fits(d, members):
                        continue
                    if len(groups) <= max(1, self.problem.platform.devices[d].streams):
                        stage = self.problem.stage(groups, d)
                        if stage.ms < math.inf:
                            yield stage

    def _closed_sets(self, done: int) -> Iterator[list[int]]:
        """Yield sets of operators that need only what is done and each other."""
        left = [v for v in self.problem.operators if not done >> v & 1]

        def grow(first: int, chosen: list[int], mask: int) -> Iterator[list[int]]:
            for i in range(first, len(left)):
                v = left[i]
                if not self.before[v] & ~mask:
                    yield [*chosen, v]
                    yield from grow(i + 1, [*chosen, v], mask | 1 << v)

        if any(device.streams > 1 for device in self.problem.platform.devices):
            yield from grow(0, [], done)
        else:
            yield from ([v] for v in left if not self.before[v] & ~done)

    def _parts(self, members: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the connected parts of `members`, each in topological order."""
        parts: list[set[int]] = []
        for v in members:
            joined = {v}
            for part in [p for p in parts if any(self.before[v] >> u & 1 for u in p)]:
                parts.remove(part)
                joined |= part
            parts.append(joined)
        return [tuple(sorted(part)) for part in parts]

    def _devices(self, clock: Clock, done: int) -> list[int]:
        """Return the devices to try: of those that can still be exchanged, the first.

        An exchange that leaves devices with an operator where they are changes nothing so far.
        """
        used = frozenset(clock.device[v] for v in self.problem.operators if done >> v & 1)
        if used not in self.devices_to_try:
            first = list(self.problem.devices)
            for exchange in self.exchanges:
                if all(exchange[d] == d for d in used):
                    for d, other in enumerate(exchange):
                        low, high = sorted((first[d], first[other]))
                        first = [low if each == high else each for each in first]
            self.devices_to_try[used] = sorted(set(first))
        return self.devices_to_try[used]

    def _bound_ms(self, clock: Clock, done: int, now_ms: float) -> float:
        """Return a lower bound of every continuation, whose stages start at `now_ms` or later."""
        problem = self.problem
        end_ms: dict[int, float] = {}
        longest = max(clock.free_ms)
        work = 0.0
        for v in problem.operators:
            if done >> v & 1:
                continue
            earliest = now_ms
            for u, e in problem.predecessors[v]:
                if u in end_ms:
                    earliest = max(earliest, end_ms[u])
                else:
                    remote = problem.arrival_ms[e]
                    least = min(remote[d][clock.device[u]] for d in problem.runs_on(v))
                    earliest = max(earliest, clock.end_ms[u] + least)
            end_ms[v] = earliest + self.least_ms[v]
            longest = max(longest, end_ms[v])
            work += self.work_ms[v]
        free_ms = clock.free_ms
        begun = sum(max(now_ms, min(free_ms[d] for d in able)) for able in self.devices_of)
        return max(longest, (begun + work) / len(self.devices_of))

    def _is_new(self, clock: Clock, done: int, now_ms: float) -> bool:
        """Whether nothing seen so far can be continued in every way that this state can.

        The past acts on the future through the times when devices are free, the ends and places of
        operators that others still read, and the weights on each device. A smaller `now_ms` allows
        more. Sums of equal times in another order differ in their last digits.
        """
        ends = tuple(
            (round(clock.end_ms[v], 9), clock.device[v])
            for v in self.problem.operators
            if done >> v & 1 and self.after[v] & ~done
        )
        places = tuple(clock.device) if self.memory.limited else ()
        key = (done, tuple(round(ms, 9) for ms in clock.free_ms), ends, places)
        if self.seen_ms.get(key, math.inf) <= now_ms:
            return False
        self.seen_ms[key] = now_ms
        return True


def _partitions(parts: list[tuple[int, ...]]) -> Iterator[Groups]:
    """Yield every way to put independent parts into stream groups."""
    if not parts:
        yield ()
        return
    first, rest = parts[0], parts[1:]
    for count in range(len(rest) + 1):
        for together in itertools.combinations(range(len(rest)), count):
            group = tuple(sorted([*first, *(v for i in together for v in rest[i])]))
            others = [part for i, part in enumerate(rest) if i not in together]
            for groups in _partitions(others):
                yield (group, *groups)


def _least_and_work_ms(problem: Problem) -> tuple[list[float], list[float]]:
    """Return the least time from start to end of each operator, and of the time of all cores."""
    operators = problem.graph.operators
    least = [min(times) for times in problem.latency_ms]
    work = [least_work_ms(problem.costs, problem.platform, op.name) for op in operators]
    index = {op.name: v for v, op in enumerate(problem.graph.operators)}
    for stages in problem.costs.joint.values():  # measured, so the model bounds nothing
        for groups, measurement in stages.items():
            longest = max(map(len, groups))
            for v in (index[name] for group in groups for name in group if name in index):
                least[v] = min(least[v], measurement.ms / longest)  # it may lie in a chain
                work[v] = 0.0
    return least, work


def _exchanges(platform: Platform) -> list[list[int]]:
    """Return permutations of the devices that map every schedule to one that is equally good.

    Each exchanges the cores of two devices that have none in common, where that makes every device
    another one of the same kind.
    """
    links = {platform.link(a.name, b.name) for a, b in itertools.permutations(platform.devices, 2)}
    if len(links) > 1:
        return []
    kinds = [(d.model, d.streams, d.memory_bytes) for d in platform.devices]
    device_of = {frozenset(own): d for d, own in enumerate(platform.units)}
    exchanges = []
    for one, other in itertools.combinations(platform.units, 2):
        if len(one) != len(other) or set(one) & set(other):
            continue
        swap = dict(zip((*one, *other), (*other, *one), strict=True))
        images = [device_of.get(frozenset(swap.get(u, u) for u in own)) for own in platform.units]
        exchange = [d for d in images if d is not None]
        is_permutation = sorted(exchange) == list(range(len(kinds)))
        if is_permutation and [kinds[d] for d in exchange] == kinds:
            exchanges.append(exchange)
    return exchanges
