"""The evaluator: by hand, by rules, and against a second implementation."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from cases import Case, cases, make_case
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.errors import CostError, GraphError, ScheduleError
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor
from hios_tvm.schema.platform import Device, Platform
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage


def schedule(*devices: list[list[list[str]]]) -> Schedule:
    """One list of stages a device; a stage is a list of stream groups."""
    return Schedule(
        "by hand",
        tuple(
            DeviceSchedule(f"device{d}", tuple(Stage(tuple(map(tuple, s))) for s in stages))
            for d, stages in enumerate(devices)
        ),
    )


def singles(*names: str) -> list[list[list[str]]]:
    return [[[name]] for name in names]


DIAMOND = make_case(
    {"a": 1.0, "b": 2.0, "c": 3.0, "d": 1.0},
    [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")],
    transfer_ms=0.5,
)


def test_a_remote_input_arrives_after_its_transfer() -> None:
    r"""
      a (device 0)        b stays, c runs on device 1 from 1.5 to 4.5,
     / \                  its result is back at 5
    b   c (device 1)
     \ /
      d
    """
    timeline = evaluate(
        DIAMOND.graph,
        DIAMOND.costs,
        DIAMOND.platform,
        schedule(singles("a", "b", "d"), singles("c")),
    )
    assert timeline.start_ms == {"a": 0.0, "b": 1.0, "c": 1.5, "d": 5.0}
    assert timeline.makespan_ms == 6.0
    assert timeline.busy_ms == {"device0": 4.0, "device1": 3.0}
    assert [(t.src, t.dst, t.start_ms, t.end_ms) for t in timeline.transfers] == [
        ("a", "c", 1.0, 1.5),
        ("c", "d", 4.5, 5.0),
    ]


def test_a_predecessor_counts_by_its_own_end_not_by_the_clock_of_its_device() -> None:
    case = make_case({"a": 1.0, "late": 9.0, "b": 1.0}, [("a", "b")])
    timeline = evaluate(
        case.graph, case.costs, case.platform, schedule(singles("a", "late"), singles("b"))
    )
    assert timeline.start_ms["b"] == 1.0


def test_a_stage_couples_starts_and_ends() -> None:
    case = make_case(
        {"a": 2.0, "b": 1.0}, [], platform=Platform.uniform(1), utilization={"a": 0.5, "b": 0.5}
    )
    stage = schedule([[["a"], ["b"]]])
    timeline = evaluate(case.graph, case.costs, case.platform, stage)
    assert timeline.end_ms == {"a": 2.5, "b": 2.5}  # 0.5 * 3 + 0.5 * max(2, 1.5)


def test_measured_joint_time_counts_before_the_model() -> None:
    case = make_case({"a": 2.0, "b": 1.0}, [], platform=Platform.uniform(1))
    measured = CostTable(case.costs.latency, joint={"device": {(("a",), ("b",)): Measurement(2.1)}})
    stage = schedule([[["b"], ["a"]]])  # the order of groups does not count
    assert evaluate(case.graph, measured, case.platform, stage).makespan_ms == 2.1


def test_a_stage_is_measured_once_when_it_is_asked_for() -> None:
    asked = []

    def measure(model: str, groups: tuple[tuple[str, ...], ...]) -> Measurement:
        asked.append((model, groups))
        return Measurement(2.2)

    case = make_case({"a": 2.0, "b": 1.0}, [], platform=Platform.uniform(1))
    costs = CostTable(case.costs.latency, measure_stage=measure)
    for _ in range(2):
        makespan_ms = evaluate(case.graph, costs, case.platform, schedule([[["a"], ["b"]]]))
        assert makespan_ms.makespan_ms == 2.2
    assert asked == [("device", (("a",), ("b",)))]
    assert CostTable.from_json(costs.to_json()).joint == costs.joint


def test_devices_that_share_hardware_slow_each_other_down() -> None:
    """Alone 4 ms each; together at half speed until the shorter one ends."""
    platform = Platform.uniform(2, independence=0.5)
    case = make_case({"a": 4.0, "b": 2.0}, [], platform=platform)
    timeline = evaluate(case.graph, case.costs, platform, schedule(singles("a"), singles("b")))
    assert timeline.end_ms["b"] == pytest.approx(4.0)
    assert timeline.end_ms["a"] == pytest.approx(6.0)


@settings(deadline=None, max_examples=200)
@given(cases(), st.randoms(use_true_random=False))
def test_equals_a_second_implementation_where_devices_are_independent(
    case: Case, random: object
) -> None:
    platform = Platform(case.platform.devices)
    orders: list[list[str]] = [[] for _ in platform.devices]
    for op in case.graph.operators:
        orders[random.randrange(len(orders))].append(op.name)  # type: ignore[attr-defined]
    position = {op.name: i for i, op in enumerate(case.graph.operators)}
    made = Schedule(
        "by hand",
        tuple(
            DeviceSchedule(d.name, tuple(Stage(((name,),), position[name]) for name in order))
            for d, order in zip(platform.devices, orders, strict=True)
        ),
    )
    timeline = evaluate(case.graph, case.costs, platform, made)

    end: dict[str, float] = {}
    clock: dict[int | str, float] = {}  # of each core, and each device without cores
    for op in case.graph.operators:  # topological, and so is every order of a device or a core
        d = next(i for i, order in enumerate(orders) if op.name in order)
        device = platform.devices[d]
        ready = [
            end[src] + (0.0 if src in orders[d] else case.costs.transfer[src, op.name].ms)
            for src in op.inputs
        ]
        needed = device.cores or (device.name,)
        begin = max([0.0, *(clock.get(unit, 0.0) for unit in needed), *ready])
        end[op.name] = begin + case.costs.latency_ms(op.name, device.model)
        clock.update(dict.fromkeys(needed, end[op.name]))
    assert timeline.end_ms == pytest.approx(end)
    assert timeline.makespan_ms == pytest.approx(max(end.values()))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (schedule(singles("a", "b", "d")), "1 operators are not scheduled, such as 'c'"),
        (schedule(singles("a", "b", "c", "d", "a")), "'a' is scheduled twice"),
        (schedule(singles("a", "b", "c", "d", "e")), "'e' is not part of the graph"),
        (schedule([], [], singles("a", "b", "c", "d")), "'device2' is not part of the platform"),
        (schedule([[["a"]], [["b"], ["c"]], [["d"], []]]), "is empty"),
        (schedule([[["a"], ["b"]], *singles("c", "d")]), "share a stage, but one needs the other"),
        (schedule([[["b", "a"]], *singles("c", "d")]), "'b' comes before 'a', which it needs"),
        (schedule(singles("b", "a", "c", "d")), "wait for each other in a cycle"),
        (schedule([[["a"]], [["d"]]], singles("b", "c")), None),
        (schedule(singles("d", "a"), singles("b", "c")), "wait for each other in a cycle"),
    ],
)
def test_the_first_broken_rule_is_named(made: Schedule, message: str | None) -> None:
    if message is None:
        evaluate(DIAMOND.graph, DIAMOND.costs, DIAMOND.platform, made)
        return
    with pytest.raises(ScheduleError, match=message):
        evaluate(DIAMOND.graph, DIAMOND.costs, DIAMOND.platform, made)


def test_a_stage_may_not_have_more_groups_than_the_device_has_streams() -> None:
    platform = Platform((Device("device0", streams=1),))
    with pytest.raises(ScheduleError, match="2 stream groups, the device 1 streams"):
        evaluate(
            DIAMOND.graph,
            DIAMOND.costs,
            platform,
            schedule([[["a"]], [["b"], ["c"]], [["d"]]]),
        )


def test_a_path_through_another_stage_is_a_cycle() -> None:
    case = make_case({"a": 1.0, "b": 1.0, "c": 1.0}, [("a", "b"), ("b", "c")])
    with pytest.raises(ScheduleError, match="cycle"):
        evaluate(case.graph, case.costs, case.platform, schedule([[["a"], ["c"]]], singles("b")))


@pytest.mark.parametrize("ms", [-1.0, math.nan, math.inf])
def test_a_time_must_be_finite_and_not_negative(ms: float) -> None:
    with pytest.raises(CostError, match="finite and not negative"):
        Measurement(ms)


def test_graphs_that_are_none_are_refused() -> None:
    x = Tensor("x", (2, 3), "float32")
    a = Operator("a", "k", ("y",), ("x",))
    b = Operator("b", "k", ("x",), ("y",))
    y = Tensor("y", (2, 3), "float32")
    with pytest.raises(GraphError, match="cycle"):
        OperatorGraph("g", (a, b), (x, y))
    with pytest.raises(GraphError, match="unique"):
        OperatorGraph("g", (b, b), (x, y), inputs=("x",))
    with pytest.raises(GraphError, match="unknown tensor 'y'"):
        OperatorGraph("g", (b,), (x,), inputs=("x",))
    with pytest.raises(GraphError, match="never written"):
        OperatorGraph("g", (), (x,), outputs=("x",))


@settings(deadline=None, max_examples=50)
@given(cases())
def test_everything_survives_a_round_trip_through_json(case: Case) -> None:
    costs = replace(case.costs, platform=case.platform)
    text = costs.to_json(case.graph)
    assert CostTable.from_json(text) == costs
    assert CostTable.from_data(json.loads(text)) == (costs, case.graph)
    made = schedule(singles(*(op.name for op in case.graph.operators)))
    assert Schedule.from_json(made.to_json()) == made


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99}', '{"version": 1}', "nonsense"])
def test_other_files_are_one_clear_error(text: str) -> None:
    with pytest.raises(CostError, match="cost table"):
        CostTable.from_json(text)
    with pytest.raises(ScheduleError, match="schedule"):
        Schedule.from_json(text)
