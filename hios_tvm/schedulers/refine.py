"""Local search: moves stream groups between stages, positions, devices and numbers of cores."""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hios_tvm.errors import UsageError
from hios_tvm.schedulers.bounds import ROUNDING, lower_bound_ms
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schedulers.list_schedule import Clock, Timed, order_of
from hios_tvm.schedulers.memory import Memory
from hios_tvm.schedulers.portfolio import portfolio
from hios_tvm.schedulers.problem import PlacedStage, Problem
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule

# Found on the paper's random graphs; halving or doubling any of them changes little.
CRITICAL_SHARE = 0.9
"""Share of moves that start on a critical path."""
NEIGHBOUR_SHARE = 0.3
"""Share of moves that go to the device of a producer or consumer."""
JOIN_SHARE = 0.6
"""Share of moves that join a stage, where it has room, rather than go before or after it."""
SIZE_SHARE = 0.3
"""Share of moves, where devices share cores, that only give a stage more cores, or fewer."""
EXCHANGE_SHARE = 0.3
"""Share of moves that exchange two stream groups."""
REACH = 10
"""A move goes at most this many stages away, times the stages that run at once at most."""
MOVES_PER_OPERATOR = 250
FIRST_TEMPERATURE, LAST_TEMPERATURE = 1.4e-3, 1e-4
"""Mean growth that is accepted, as a share of the makespan, at the start and at the end."""


@dataclass(frozen=True, kw_only=True)
class RefineOptions:
    """Options of the local search.

    Attributes
    ----------
    moves : int, optional
        Moves to try; without it, `MOVES_PER_OPERATOR` times the operators.
    time_limit_s : float
        The search ends here even if moves are left. Below the limit, equal moves and seeds give
        equal schedules.
    seed : int
        Of the random numbers.
    """

    moves: int | None = None
    time_limit_s: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.moves or 0) < 0 or not self.time_limit_s >= 0.0:
            raise UsageError(
                f"moves and time_limit_s must not be negative, got {self.moves} and "
                f"{self.time_limit_s}"
            )


def refine(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: RefineOptions
) -> Schedule:
    """Improve the best schedule of all cheap schedulers by simulated annealing.

    Raises
    ------
    InfeasibleError
        If no scheduler finds a schedule.
    """
    start = portfolio(graph, costs, platform)[0][1]
    return replace(refined(graph, costs, platform, start, options), scheduler="refine")


def refined(
    graph: OperatorGraph,
    costs: CostTable,
    platform: Platform,
    start: Schedule,
    options: RefineOptions,
) -> Schedule:
    """Return what simulated annealing makes of `start`, or `start` where that is not better.

    The search counts devices as independent, and takes stage times without a measurement from
    the analytic model; the evaluator compares its result with the start as they are.
    """
    modelled = replace(
        costs, measure_stage=None, joint={m: dict(t) for m, t in costs.joint.items()}
    )
    problem = Problem.of(graph, modelled, platform)
    search = _Search(problem, order_of(problem, start), options)
    found = problem.schedule(start.scheduler, search.run())
    return min(start, found, key=lambda made: evaluate(graph, costs, platform, made).makespan_ms)


class _Search:
    """Simulated annealing over lists of stages.

    A move takes one stream group out of its stage, and puts it before, after or into another stage
    that its producers and consumers leave within reach, so every list stays in a topological order;
    or it goes there in exchange for a group that may take its place.
    Where devices share cores, a stage may also go to one that shares some with its own.
    """

    def __init__(
        self, problem: Problem, stages: Sequence[PlacedStage], options: RefineOptions
    ) -> None:
        self.problem = problem
        self.options = options
        self.random = random.Random(options.seed)
        bound_ms = lower_bound_ms(problem.graph, problem.costs, problem.platform)
        self.bound_ms = bound_ms * (1.0 + 2.0 * ROUNDING)
        self.remaining_ms = _least_remaining_ms(problem)
        self.timed = Timed(Clock.at_start(problem))
        self.stages = self.timed.stages
        self.position = [0] * len(problem.operators)
        self.critical: list[int] = []  # positions on a critical path; empty when not known
        self.memory = Memory(problem)
        self._replace(0, stages)

    def run(self) -> list[PlacedStage]:
        """Return the best list of stages that was found."""
        now_ms = best_ms = self.timed.outcome[0]
        best = list(self.stages)
        started = time.monotonic()
        moves = self.options.moves
        if moves is None:
            moves = MOVES_PER_OPERATOR * len(self.position)
        for move in range(moves if self.stages else 0):
            if best_ms <= self.bound_ms or time.monotonic() - started >= self.options.time_limit_s:
                break
            made = self._move()
            if made is None:
                continue
            cooling = (LAST_TEMPERATURE / FIRST_TEMPERATURE) ** (move / moves)
            temperature = FIRST_TEMPERATURE * cooling
            limit_ms = now_ms * (1.0 + temperature * self.random.expovariate(1.0))
            first, tail = made
            if self.timed.ends_within(limit_ms, first, tail, self.remaining_ms):
                self._replace(first, tail)
                now_ms = self.timed.outcome[0]
                if now_ms < best_ms:
                    best, best_ms = list(self.stages), now_ms
        return best

    def _move(self) -> tuple[int, list[PlacedStage]] | None:
        """Return a random change: the first position that it touches, and all from there on."""
        i = self._source()
        source = self.stages[i]
        if source.overlapping and self.random.random() < SIZE_SHARE:
            return self._resized(i, source)
        group = self.random.choice(source.groups)
        low, high = self._room(group)
        reach = REACH * self.problem.platform.unit_count
        low, high = max(low, i - reach), min(high, i + reach + 1)
        if low >= high:
            return None
        j = self._target(group, low, high)
        if self.random.random() < EXCHANGE_SHARE:
            return self._exchanged(i, group, j)
        rest = tuple(other for other in source.groups if other is not group)
        left = [self.problem.stage(rest, source.device)] if rest else []
        if i == j:
            placed = self._beside(left, group, source.device)
        else:
            placed = self._placed(group, self.stages[j])
        device = placed[0].device
        has_room = device == self.timed.device[group[0]] or self.left.fits(device, group)
        if any(stage.ms == math.inf for stage in placed) or not has_room:
            return None
        if i == j:
            return i, [*placed, *self.stages[i + 1 :]]
        if j < i:
            return j, [*placed, *self.stages[j + 1 : i], *left, *self.stages[i + 1 :]]
        return i, [*left, *self.stages[i + 1 : j], *placed, *self.stages[j + 1 :]]

    def _exchanged(
        self, i: int, group: tuple[int, ...], j: int
    ) -> tuple[int, list[PlacedStage]] | None:
        """Return the list with `group`, of the stage at `i`, for a group of the stage at `j`."""
        other = self.random.choice(self.stages[j].groups)
        low, high = self._room(other)
        if i == j or not low <= i < high:
            return None
        first, last = min(i, j), max(i, j)
        placed = []
        for position, old, new in ((i, group, other), (j, other, group)):
            stage = self.stages[position]
            groups = tuple(new if each is old else each for each in stage.groups)
            placed.append(self.problem.stage(groups, stage.device))
            is_here = self.timed.device[new[0]] == stage.device
            if placed[-1].ms == math.inf or not (is_here or self.left.fits(stage.device, new)):
                return None
        if j < i:
            placed.reverse()
        between = self.stages[first + 1 : last]
        return first, [placed[0], *between, placed[1], *self.stages[last + 1 :]]

    def _resized(self, i: int, source: PlacedStage) -> tuple[int, list[PlacedStage]] | None:
        """Return the list with the stage at position `i` on more or fewer of its cores."""
        sizes = self.problem.next_sizes[source.device]
        if not sizes:
            return None
        device = self.random.choice(sizes)
        streams = max(1, self.problem.platform.devices[device].streams)
        if len(source.groups) > streams or not self.left.fits(device, source.operators):
            return None
        stage = self.problem.stage(source.groups, device)
        return None if stage.ms == math.inf else (i, [stage, *self.stages[i + 1 :]])

    def _placed(self, group: tuple[int, ...], target: PlacedStage) -> list[PlacedStage]:
        """Return `group` in, before or after the stage `target`."""
        streams = self.problem.platform.devices[target.device].streams
        if len(target.groups) < streams and self.random.random() < JOIN_SHARE:
            return [self.problem.stage((*target.groups, group), target.device)]
        return self._beside([target], group, target.device)

    def _beside(
        self, stages: list[PlacedStage], group: tuple[int, ...], device: int
    ) -> list[PlacedStage]:
        """Return `group` before or after `stages`; alone it goes to any device."""
        if not stages:
            device = self.random.choice(self.problem.devices)
        moved = self.problem.stage((group,), device)
        return [moved, *stages] if self.random.random() < 0.5 else [*stages, moved]

    def _source(self) -> int:
        """Return the position of a stage, mostly a critical one."""
        if self.random.random() < CRITICAL_SHARE:
            if not self.critical:
                self.critical = self._critical_path()
            return self.random.choice(self.critical)
        return self.random.randrange(len(self.stages))

    def _room(self, group: tuple[int, ...]) -> tuple[int, int]:
        """Return between which positions producers and consumers let `group` be."""
        low, high = -1, len(self.stages)
        for v in group:
            for u, _ in self.problem.predecessors[v]:
                if self.position[u] > low and u not in group:
                    low = self.position[u]
            for w, _ in self.problem.successors[v]:
                if self.position[w] < high and w not in group:
                    high = self.position[w]
        return low + 1, high

    def _target(self, group: tuple[int, ...], low: int, high: int) -> int:
        """Return a position from `low` to `high`, at times on a neighbour's device."""
        j = self.random.randrange(low, high)
        if self.random.random() >= NEIGHBOUR_SHARE:
            return j
        problem, place = self.problem, self.timed.device
        near = [place[u] for v in group for u, _ in problem.predecessors[v] if u not in group]
        near += [place[w] for v in group for w, _ in problem.successors[v] if w not in group]
        if not near:
            return j
        device = self.random.choice(near)
        around = (*range(j, high), *range(low, j))
        return next((k for k in around if self.stages[k].device == device), j)

    def _replace(self, first: int, tail: Sequence[PlacedStage]) -> None:
        """Put `tail` in the place of everything from position `first` on."""
        self.left = self.memory.after([*self.stages[:first], *tail])
        self.timed.replace(first, tail)
        for i in range(first, len(self.stages)):
            for v in self.stages[i].operators:
                self.position[v] = i
        self.critical = []

    def _critical_path(self) -> list[int]:
        """Return positions of stages, last first, that each wait for the next one in the list."""
        end_ms = [self.timed.end_ms[stage.operators[0]] for stage in self.stages]
        previous: list[int] = []  # the stage that ended last on any core of the same device
        last = [-1] * len(self.problem.devices)
        for i, stage in enumerate(self.stages):
            previous.append(last[stage.device])
            for device in (stage.device, *stage.overlapping):
                if last[device] < 0 or end_ms[last[device]] <= end_ms[i]:
                    last[device] = i
        path: list[int] = []
        i = max(range(len(self.stages)), key=end_ms.__getitem__)
        while i >= 0:
            path.append(i)
            stage = self.stages[i]
            start_ms = end_ms[i] - stage.ms - 1e-9 * end_ms[i]
            if previous[i] >= 0 and end_ms[previous[i]] >= start_ms:
                i = previous[i]
                continue
            waited_for = (
                self.position[u]
                for u, transfer_ms in stage.inputs
                if self.timed.end_ms[u] + transfer_ms[self.timed.device[u]] >= start_ms
            )
            i = next(waited_for, -1)
        return path


def _least_remaining_ms(problem: Problem) -> list[float]:
    """Return the least time from the end of each operator to the end of all."""
    tail_ms = [0.0] * len(problem.operators)
    for v in reversed(problem.operators):
        for w, _ in problem.successors[v]:
            tail_ms[v] = max(tail_ms[v], tail_ms[w] + min(problem.latency_ms[w]))
    return tail_ms
