"""What schedulers for one device share: trying one device of each model."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hios_tvm.errors import InfeasibleError
from hios_tvm.schedulers.memory import Memory
from hios_tvm.schedulers.problem import PlacedStage, Problem


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """There is nothing to choose."""


def best_device(
    problem: Problem,
    stages_on: Callable[[Problem, int], list[PlacedStage]],
    devices: Iterable[int] | None = None,
) -> list[PlacedStage]:
    """Return the stages that take the least time, on the first of `devices` of each model.

    Raises
    ------
    InfeasibleError
        If no device can run every operator.
    """
    kinds: dict[tuple[str, int], int] = {}
    memory = Memory(problem)
    for d in problem.devices if devices is None else devices:
        device = problem.platform.devices[d]
        if not memory.fits(d, problem.operators):
            continue
        if all(d in problem.runs_on(v) for v in problem.operators):
            kinds.setdefault((device.model, device.streams), d)
    if not kinds:
        raise InfeasibleError(
            "no device can run every operator and hold all weights; use a scheduler that places "
            "operators, such as hios-lp"
        )
    made = [stages_on(problem, d) for d in kinds.values()]
    return min(made, key=lambda stages: sum(stage.ms for stage in stages))
