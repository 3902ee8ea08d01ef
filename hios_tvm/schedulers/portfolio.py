"""The fast schedulers; `refine` and `auto` start from their best schedule."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hios_tvm.errors import InfeasibleError
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schedulers.greedy import greedy
from hios_tvm.schedulers.heft import heft
from hios_tvm.schedulers.hios_lp import LongestPathOptions, hios_lp
from hios_tvm.schedulers.hios_mr import hios_mr
from hios_tvm.schedulers.ios import IOSOptions, ios
from hios_tvm.schedulers.one_device import NoOptions
from hios_tvm.schedulers.sequential import sequential
from hios_tvm.schedulers.window import WindowOptions
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule

CHEAP: tuple[Callable[[OperatorGraph, CostTable, Platform], Schedule], ...] = (
    partial(sequential, options=NoOptions()),
    partial(greedy, options=NoOptions()),
    # IOS with stage times from the model: it would have thousands of stages measured
    lambda graph, costs, platform: ios(
        graph, replace(costs, measure_stage=None), platform, IOSOptions()
    ),
    partial(hios_lp, options=LongestPathOptions()),
    partial(hios_mr, options=WindowOptions()),
    partial(heft, options=WindowOptions()),
)


def portfolio(
    graph: OperatorGraph, costs: CostTable, platform: Platform
) -> list[tuple[float, Schedule]]:
    """Return the schedules of all cheap schedulers with their makespans, the smallest first.

    Of equal makespans the simpler scheduler's comes first. One that finds no schedule is left out.

    Raises
    ------
    InfeasibleError
        If none finds one.
    """
    made: list[tuple[float, Schedule]] = []
    failures: list[InfeasibleError] = []
    for scheduler in CHEAP:
        try:
            schedule = scheduler(graph, costs, platform)
        except InfeasibleError as error:
            failures.append(error)
            continue
        made.append((evaluate(graph, costs, platform, schedule).makespan_ms, schedule))
    if not made:
        raise failures[0]
    return sorted(made, key=lambda entry: entry[0])
