"""The scheduler that returns the best schedule of all others."""

from dataclasses import dataclass, replace

from hios_tvm.errors import InfeasibleError
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schedulers.portfolio import portfolio
from hios_tvm.schedulers.refine import RefineOptions, refined
from hios_tvm.schedulers.sequential import sequential_on
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class AutoOptions(RefineOptions):
    """Options of `refine`; by default the search ends sooner, since every compile waits for it."""

    time_limit_s: float = 4.0


def auto(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: AutoOptions
) -> Schedule:
    """Return the schedule with the smallest predicted makespan that any scheduler finds.

    Where it can, the compiler measures the best few `candidates` too.

    Raises
    ------
    InfeasibleError
        If no scheduler finds a schedule.
    """
    return replace(candidates(graph, costs, platform, options)[0], scheduler="auto")


def candidates(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: AutoOptions
) -> list[Schedule]:
    """Return different schedules with their makespans, the smallest first.

    Each is named after its scheduler, the refined one ``refine``. Of equal makespans the simpler
    scheduler's comes first. Where devices share cores, the device with most cores alone is among
    them, even if the costs say that fewer cores are faster: measured, it may be the fastest.
    """
    made = portfolio(graph, costs, platform)
    schedule = refined(graph, costs, platform, made[0][1], options)
    makespan_ms = evaluate(graph, costs, platform, schedule).makespan_ms
    made.append((makespan_ms, replace(schedule, scheduler="refine")))
    if platform.shares_cores:
        made += _on_most_cores(graph, costs, platform)
    different: list[Schedule] = []
    for makespan_ms, schedule in sorted(made, key=lambda entry: entry[0]):
        if all(schedule.devices != other.devices for other in different):
            different.append(replace(schedule, makespan_ms=makespan_ms))
    return different


def _on_most_cores(
    graph: OperatorGraph, costs: CostTable, platform: Platform
) -> list[tuple[float, Schedule]]:
    """Return the schedule of the device with most cores and its makespan, if it can run all."""
    widest = max(range(len(platform.devices)), key=lambda d: platform.devices[d].width)
    try:
        schedule = sequential_on([widest], graph, costs, platform)
    except InfeasibleError:
        return []
    return [(evaluate(graph, costs, platform, schedule).makespan_ms, schedule)]
