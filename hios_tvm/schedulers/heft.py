"""HEFT: operators by upward rank, each where it ends first, in gaps too; then the window."""

from collections.abc import Sequence

from hios_tvm.schedulers.gaps import Gaps
from hios_tvm.schedulers.list_schedule import Clock, Timed
from hios_tvm.schedulers.memory import Memory
from hios_tvm.schedulers.problem import PlacedStage, Problem
from hios_tvm.schedulers.window import WindowOptions, group_in_window
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule

CHARGES = (0.0, 1.0, 2.0, 4.0)
"""What an operator's work, spread over all cores, counts beside its end where devices share cores.

At 0 each operator would take all cores whenever it ends first there, and others would wait.
"""


def heft(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: WindowOptions
) -> Schedule:
    """Put each operator, by descending upward rank, on the device where it ends first.

    An operator may go into a gap between two others. The window of HIOS then groups small ones.
    Where devices share cores, operators also pay for the work that they keep others from: several
    prices are tried, and devices of one size.

    Raises
    ------
    CostError
        If an operator can run on no device.

    Notes
    -----
    O(D (V G + E)) for V operators, E edges, D devices and G gaps after an operator's inputs.

    References
    ----------
    .. [1] Topcuoglu, Hariri and Wu, "Performance-Effective and Low-Complexity Task Scheduling for
       Heterogeneous Computing", IEEE TPDS 13(3), 2002.
    """
    problem = Problem.of(graph, costs, platform)
    start = Clock.at_start(problem)
    if platform.shares_cores:
        orders = [earliest_finish_order(problem, problem.devices, charge) for charge in CHARGES]
        if not Memory(problem).limited:
            orders += [earliest_finish_order(problem, devices) for devices in problem.of_one_size]
        best = min(orders, key=lambda order: Timed(start, order).outcome)
    else:
        best = earliest_finish_order(problem, problem.devices)
    return problem.schedule("heft", group_in_window(problem, start, best, options))


def earliest_finish_order(
    problem: Problem, devices: Sequence[int], charge: float = 0.0
) -> list[PlacedStage]:
    """Return HEFT's mapping: one operator a stage, by start time.

    An operator goes to that one of `devices` (of all, where none of these can run it) on which its
    end is first, with `charge` times its work over the number of cores added: work is its time on
    the device, times the cores of the device.
    """
    width = [device.width for device in problem.platform.devices]
    charge /= problem.platform.unit_count
    memory = Memory(problem)
    gaps = Gaps(Clock.at_start(problem))
    for v in problem.priority:
        best: tuple[float, float, PlacedStage] | None = None
        able = problem.runs_on(v)
        for device in [d for d in able if d in devices] or able:
            if not memory.fits(device, (v,)):
                continue
            stage = problem.single(v, device)
            start_ms = gaps.start_ms(stage)
            price_ms = start_ms + stage.ms + charge * width[device] * stage.ms
            if best is None or price_ms < best[0]:
                best = price_ms, start_ms, stage
        if best is None:
            raise memory.full(v)
        _, start_ms, stage = best
        memory.take(stage.device, (v,))
        gaps.take(stage, start_ms)
    return gaps.by_start()
