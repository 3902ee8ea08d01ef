"""Devices that share cores: operators that take one core, some, or all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cases import Case, cases, divided, make_case, moldable
from hypothesis import given, settings

from hios_tvm.errors import InfeasibleError, ScheduleError, UsageError
from hios_tvm.schedulers import make_schedule
from hios_tvm.schedulers.auto import candidates
from hios_tvm.schedulers.evaluate import check_order, evaluate
from hios_tvm.schedulers.gaps import in_gaps
from hios_tvm.schedulers.list_schedule import Clock, Timed
from hios_tvm.schedulers.problem import Problem
from hios_tvm.schedulers.refine import RefineOptions
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import cpu_divisions, parse_cores
from hios_tvm.schema.platform import Device, Platform
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage


def by_hand(**stages: list[tuple[str, int | None]]) -> Schedule:
    """Stages of one operator, each with its position, on ``all`` or on a core ``_0``, ``_1``."""
    names = {"all": "cpu@0-1", "_0": "cpu@0", "_1": "cpu@1"}
    return Schedule(
        "by hand",
        tuple(
            DeviceSchedule(names[key], tuple(Stage(((op,),), position) for op, position in each))
            for key, each in stages.items()
        ),
    )


PAIR = moldable(
    make_case({"a": 4.0, "b": 4.0, "c": 4.0}, [("a", "c")]),
    divided("cpu@0-1"),
    {"cpu/1": {"a": 4.0, "b": 3.0, "c": 4.0}, "cpu/2": {"a": 3.0, "b": 2.0, "c": 2.0}},
)
"""c needs a; b is free."""

ALL_SLOWER = dict.fromkeys("abc", 1.5)


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 7, 16])
def test_divisions_are_nested_and_end_at_single_cores(cores: int) -> None:
    names = cpu_divisions(f"cpu@0-{cores - 1}" if cores > 1 else "cpu@0")
    parts = [set(parse_cores(name)) for name in names]
    assert parts[0] == set(range(cores))
    assert all({core} in parts for core in range(cores))
    assert len(set(names)) == len(names)
    assert all(not one & other or one <= other or other <= one for one in parts for other in parts)


def test_a_stage_waits_for_all_its_cores() -> None:
    timeline = evaluate(
        PAIR.graph, PAIR.costs, PAIR.platform, by_hand(all=[("c", 2)], _0=[("a", 0)], _1=[("b", 1)])
    )
    assert timeline.start_ms == {"a": 0.0, "b": 0.0, "c": 4.0}
    assert timeline.makespan_ms == 6.0


def test_the_position_orders_stages_of_devices_that_share_a_core() -> None:
    """b comes after c, though its core is free before."""
    made = by_hand(all=[("c", 2)], _0=[("a", 0)], _1=[("b", 3)])
    timeline = evaluate(PAIR.graph, PAIR.costs, PAIR.platform, made)
    assert timeline.start_ms == {"a": 0.0, "c": 4.0, "b": 6.0}


def test_a_stage_is_slowed_by_each_core_of_other_devices() -> None:
    """Two single cores at 4/5 of their speed; a stage on both is measured so, and not slowed."""
    platform = replace(PAIR.platform, independence=0.8)
    made = by_hand(all=[("c", 2)], _0=[("a", 0)], _1=[("b", 1)])
    timeline = evaluate(PAIR.graph, PAIR.costs, platform, made)
    assert timeline.end_ms == pytest.approx({"b": 3.75, "a": 4.75, "c": 6.75})
    wide = divided("cpu@0-3", independence=0.4)  # one core slows another by a half
    assert [wide.slowdown(others) for others in range(4)] == pytest.approx([1.0, 1.5, 2.0, 2.5])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            by_hand(all=[("c", 2)], _0=[("a", None)], _1=[("b", 1)]),
            "'a' on 'cpu@0' and that of 'c' on 'cpu@0-1' both need core 0 and have no position",
        ),
        (
            by_hand(all=[("c", 1)], _0=[("a", 0)], _1=[("b", 1)]),
            "'c' on 'cpu@0-1' and that of 'b' on 'cpu@1' both need core 1 and have both position 1",
        ),
        (
            by_hand(all=[("c", 2)], _0=[("a", 1), ("b", 0)]),
            "'a' on 'cpu@0' and that of 'b' on 'cpu@0' .* positions 1 and 0, which must ascend",
        ),
        (by_hand(all=[("c", 0)], _0=[("a", 1)], _1=[("b", 2)]), "wait for each other in a cycle"),
    ],
)
def test_stages_that_overlap_on_a_core_are_refused(made: Schedule, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        evaluate(PAIR.graph, PAIR.costs, PAIR.platform, made)


def test_an_order_of_cores_that_makes_a_cycle_is_found_without_costs() -> None:
    made = by_hand(all=[("c", 0)], _0=[("a", 1)], _1=[("b", 2)])
    with pytest.raises(ScheduleError, match="wait for each other in a cycle"):
        check_order(PAIR.graph, PAIR.platform, made)
    check_order(PAIR.graph, PAIR.platform, by_hand(all=[("c", 1)], _0=[("a", 0)], _1=[("b", 2)]))


def test_one_device_needs_no_positions() -> None:
    made = by_hand(all=[("a", None), ("b", None), ("c", None)], _0=[])
    assert evaluate(PAIR.graph, PAIR.costs, PAIR.platform, made).makespan_ms == 7.0


def test_cores_and_positions_survive_json() -> None:
    costs = replace(PAIR.costs, platform=PAIR.platform)
    assert CostTable.from_json(costs.to_json()) == costs
    made = by_hand(all=[("c", 2)], _0=[("a", 0)], _1=[("b", None)])
    assert Schedule.from_json(made.to_json()) == made
    assert '"stages": [[["b"]]]' in made.to_json()  # as before there were positions


def test_a_device_has_each_core_once() -> None:
    with pytest.raises(UsageError, match="'cpu' has a core twice"):
        Platform((Device("cpu", cores=(0, 0)),))


@pytest.mark.parametrize("name", ["heft", "refine", "auto", "optimal"])
def test_each_operator_takes_as_many_cores_as_pay(name: str) -> None:
    """a and b beside each other, then c on both cores: 6 ms; all of them on both: 7 ms."""
    schedule = make_schedule(name, PAIR.graph, PAIR.costs, PAIR.platform)
    assert schedule.makespan_ms == 6.0
    assert schedule.lower_bound_ms == pytest.approx(5.5)  # the work on one core each, by two
    assert schedule.placement["c"] == "cpu@0-1"
    assert {schedule.placement["a"], schedule.placement["b"]} == {"cpu@0", "cpu@1"}


def test_stages_move_into_the_gaps_that_wide_stages_leave() -> None:
    """c takes both cores when a has ended; b comes last, and runs while its core waits for c."""
    problem = Problem.of(PAIR.graph, PAIR.costs, PAIR.platform)
    both, first, second = problem.devices
    start = Clock.at_start(problem)
    stages = [problem.single(0, first), problem.single(2, both), problem.single(1, second)]
    assert Timed(start, stages).outcome[0] == 9.0
    moved = in_gaps(problem, start, stages)
    assert [stage.operators for stage in moved] == [(0,), (1,), (2,)]
    assert Timed(start, moved).outcome[0] == 6.0


@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_the_default_is_never_predicted_slower_than_one_device(case: Case) -> None:
    problem = case.graph, case.costs, case.platform
    if not case.platform.shares_cores:
        return
    try:
        one_device_ms = make_schedule("sequential", *problem).makespan_ms
    except InfeasibleError:
        return
    assert make_schedule("hios-lp", *problem).makespan_ms <= one_device_ms


def test_all_cores_are_a_candidate_though_one_seems_to_be_faster() -> None:
    case = moldable(PAIR, PAIR.platform, {"cpu/1": dict.fromkeys("abc", 1.0), "cpu/2": ALL_SLOWER})
    found = candidates(case.graph, case.costs, case.platform, RefineOptions(moves=10))
    assert [made.makespan_ms for made in found] == sorted(made.makespan_ms for made in found)
    assert any(len(made.devices[0].operators) == 3 for made in found)
