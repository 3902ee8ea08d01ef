"""IOS: dynamic programming over the stages of one device."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from hios_tvm.errors import UsageError
from hios_tvm.schedulers.one_device import best_device
from hios_tvm.schedulers.problem import PlacedStage, Problem
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class IOSOptions:
    """Options of IOS.

    Attributes
    ----------
    max_groups : int
        Stream groups of a stage (s in the publication); never more than the device has streams.
    max_group_size : int
        Operators of a group (r in the publication).
    max_endings : int
        A block for which more stages would have to be tried is cut into two.
    """

    max_groups: int = 8
    max_group_size: int = 3
    max_endings: int = 5_000

    def __post_init__(self) -> None:
        if min(self.max_groups, self.max_group_size, self.max_endings) < 1:
            raise UsageError(
                "max_groups, max_group_size and max_endings must be at least 1, got "
                f"{self.max_groups}, {self.max_group_size} and {self.max_endings}"
            )


def ios(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: IOSOptions
) -> Schedule:
    """Find the stages of one device that take the least time in sum.

    Blocks, which end at operators that all others come before or after, are solved one by one.

    Raises
    ------
    InfeasibleError
        If no device can run every operator.

    Notes
    -----
    Exact but for the pruning by the options, and for blocks that are cut, which is logged. Merging
    convolutions, the other way to run a stage in the publication, is a pass over the network:
    `hios_tvm.passes.merge_convolutions`.

    References
    ----------
    .. [1] Ding, Zhu, Jia, Pekhimenko and Han, "IOS: Inter-Operator Scheduler for CNN
       Acceleration", MLSys 2021, section 4.
    """
    problem = Problem.of(graph, costs, platform)
    return problem.schedule("ios", best_device(problem, partial(_stages, options=options)))


def _stages(problem: Problem, device: int, options: IOSOptions) -> list[PlacedStage]:
    if problem.platform.devices[device].streams < 2:  # then only the sum of all latencies counts
        return [problem.single(v, device) for v in problem.operators]
    todo = _blocks(problem)[::-1]
    stages: list[PlacedStage] = []
    while todo:
        block = todo.pop()
        if len(block) == 1:
            stages.append(problem.single(block[0], device))
            continue
        try:
            stages += _Block(problem, device, block, options).stages()
        except _TooManyEndings:
            _LOG.info(
                "ios: a block of %d operators has more than max_endings = %d last stages; it is "
                "cut into two, and the schedule may not be the best",
                len(block),
                options.max_endings,
            )
            middle = len(block) // 2
            todo += [block[middle:], block[:middle]]
    return stages


def _blocks(problem: Problem) -> list[list[int]]:
    """Cut the operators after each one that all others come before or after."""
    after = [mask.bit_count() for mask in problem.descendants]
    ancestors = [0] * len(problem.operators)
    for v in problem.operators:
        for u, _ in problem.predecessors[v]:
            ancestors[v] |= ancestors[u] | 1 << u
    blocks: list[list[int]] = [[]]
    # By the number of operators before them: topological, and a cut comes after all before it.
    for v in sorted(problem.operators, key=lambda v: (ancestors[v].bit_count(), v)):
        blocks[-1].append(v)
        if ancestors[v].bit_count() + after[v] + 1 == len(problem.operators):
            blocks.append([])
    return [block for block in blocks if block]


class _TooManyEndings(Exception):
    """The block is too wide."""


class _Block:
    """Dynamic programming over one block; sets of operators are bit masks of their positions."""

    def __init__(
        self, problem: Problem, device: int, block: Sequence[int], options: IOSOptions
    ) -> None:
        self.problem = problem
        self.device = device
        self.block = block
        self.options = options
        self.groups = min(options.max_groups, max(1, problem.platform.devices[device].streams))
        position = {v: i for i, v in enumerate(block)}
        self.successors = [
            sum(1 << position[w] for w, _ in problem.successors[v] if w in position) for v in block
        ]
        self.neighbours = list(self.successors)
        for i, mask in enumerate(self.successors):
            for j in _bits(mask):
                self.neighbours[j] |= 1 << i
        self.tried = 0
        self.stage_of: dict[int, PlacedStage] = {}
        self.best: dict[int, tuple[float, int]] = {0: (0.0, 0)}

    def stages(self) -> list[PlacedStage]:
        """Return the best stages of the whole block, in order."""
        everything = (1 << len(self.block)) - 1
        self._solve(everything)
        stages: list[PlacedStage] = []
        left = everything
        while left:
            ending = self.best[left][1]
            stages.append(self.stage_of[ending])
            left &= ~ending
        return stages[::-1]

    def _solve(self, everything: int) -> None:
        """Find the least time, and the last stage, of every state on the way to `everything`."""
        endings: dict[int, list[int]] = {}
        todo = [everything]
        while todo:
            state = todo[-1]
            if state not in self.best and state not in endings:
                endings[state] = list(self._endings(state, 0, 0))
                todo += [state & ~ending for ending in endings[state]]
                continue
            todo.pop()
            if state not in self.best:
                self.best[state] = min(
                    (self.best[state & ~ending][0] + self._stage(ending).ms, ending)
                    for ending in endings.pop(state)
                )

    def _endings(self, state: int, chosen: int, refused: int) -> Iterator[int]:
        """Yield every set that may be the last stage of `state`: each holds its successors."""
        self.tried += 1
        if self.tried > self.options.max_endings:
            raise _TooManyEndings
        candidates = state & ~chosen & ~refused
        if chosen.bit_count() == self.groups * self.options.max_group_size:
            candidates = 0
        while candidates:
            i = candidates.bit_length() - 1
            bit = 1 << i
            if not self.successors[i] & state & ~chosen:
                if self._part(chosen | bit, i).bit_count() <= self.options.max_group_size:
                    yield from self._endings(state, chosen | bit, refused)
                refused |= bit
            candidates &= ~bit
        if chosen and len(self._parts(chosen)) <= self.groups:
            yield chosen

    def _part(self, chosen: int, i: int) -> int:
        """Return the connected part of `chosen` that holds position `i`."""
        part = frontier = 1 << i
        while frontier:
            reached = 0
            for j in _bits(frontier):
                reached |= self.neighbours[j]
            frontier = reached & chosen & ~part
            part |= frontier
        return part

    def _parts(self, chosen: int) -> list[int]:
        parts = []
        while chosen:
            parts.append(self._part(chosen, chosen.bit_length() - 1))
            chosen &= ~parts[-1]
        return parts

    def _stage(self, ending: int) -> PlacedStage:
        stage = self.stage_of.get(ending)
        if stage is None:
            groups = tuple(
                tuple(self.block[i] for i in _bits(part)) for part in self._parts(ending)
            )
            stage = self.stage_of[ending] = self.problem.stage(groups, self.device)
        return stage


def _bits(mask: int) -> Iterator[int]:
    """Yield the positions of the bits that are set, the lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
