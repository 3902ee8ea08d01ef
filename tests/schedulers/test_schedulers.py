"""Every scheduler on any problem: valid, not below the bound, and what each one promises."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from cases import Case, cases, make_case
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.errors import CostError, InfeasibleError, ScheduleError, UsageError
from hios_tvm.schedulers import SCHEDULERS, evaluated, make_schedule
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.graph import Tensor
from hios_tvm.schema.platform import Device, Platform
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

OPTIONS: dict[str, dict[str, object]] = {"refine": {"moves": 100}, "auto": {"moves": 100}}
"""So that searches take no time on tiny graphs."""


def make(name: str, case: Case, **options: object) -> Schedule:
    options = {**OPTIONS.get(name, {}), **options}
    return make_schedule(name, case.graph, case.costs, case.platform, **options)


def check(case: Case, schedule: Schedule) -> float:
    """The oracle of all tests: evaluates, or names the broken rule. Returns the makespan."""
    timeline = evaluate(case.graph, case.costs, case.platform, schedule)
    assert schedule.makespan_ms == timeline.makespan_ms
    assert schedule.lower_bound_ms is not None
    assert timeline.makespan_ms >= schedule.lower_bound_ms - 1e-9
    spans = sorted(
        (timeline.start_ms[stage.operators[0]], timeline.end_ms[stage.operators[0]], core)
        for device in schedule
        for stage in device.stages
        for core in next(d.cores for d in case.platform.devices if d.name == device.device)
    )
    free_ms: dict[int, float] = {}
    for start_ms, end_ms, core in spans:
        assert start_ms >= free_ms.get(core, 0.0) - 1e-9, f"core {core} is used twice"
        free_ms[core] = end_ms
    return timeline.makespan_ms


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_schedules_are_valid(name: str, data: st.DataObject) -> None:
    case = data.draw(cases(max_operators=5 if name == "optimal" else 12))
    schedule = make(name, case)
    check(case, schedule)
    assert make(name, case) == schedule


def optimum_ms(case: Case) -> float:
    """Exhaustive search over placements and topological orders, one operator a stage."""
    names = [op.name for op in case.graph.operators]
    best = float("inf")
    for order in itertools.permutations(names):
        position = {name: i for i, name in enumerate(order)}
        if any(position[e.src] > position[e.dst] for e in case.graph.edges):
            continue
        for places in itertools.product(case.platform.devices, repeat=len(names)):
            schedule = Schedule(
                "exhaustive",
                tuple(
                    DeviceSchedule(
                        device.name,
                        tuple(
                            Stage(((name,),), i)
                            for i, (name, place) in enumerate(zip(order, places, strict=True))
                            if place is device
                        ),
                    )
                    for device in case.platform.devices
                ),
            )
            timeline = evaluate(case.graph, case.costs, case.platform, schedule)
            best = min(best, timeline.makespan_ms)
    return best


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
@settings(deadline=None, max_examples=25)
@given(case=cases(max_operators=4, max_devices=2))
def test_no_schedule_of_single_operators_beats_the_optimum(name: str, case: Case) -> None:
    one_stream = tuple(replace(device, streams=1) for device in case.platform.devices)
    case = replace(case, platform=replace(case.platform, devices=one_stream))
    schedule = make(name, case)
    optimum = optimum_ms(case)
    assert check(case, schedule) >= optimum - 1e-9
    assert schedule.lower_bound_ms <= optimum + 1e-9


def test_independent_operators_spread_over_all_devices() -> None:
    """Ties are broken by the sum of finish times, so that no device stays empty."""
    case = make_case({f"v{i}": 1.0 for i in range(8)}, [], platform=Platform.uniform(4))
    schedule = make_schedule("hios-lp", case.graph, case.costs, case.platform)
    assert check(case, schedule) == 2.0
    assert all(len(device.operators) == 2 for device in schedule)


def test_the_longest_path_stays_on_one_device() -> None:
    r"""
    a - b - c - d    5 ms each: no operator of the chain may leave
     \         /
      x ------       1 ms, on the second device only where it is back before d starts
    """
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "x"), ("x", "d")]
    latency_ms = {"a": 5.0, "b": 5.0, "x": 1.0, "c": 5.0, "d": 5.0}
    for transfer_ms, expected in ((0.0, 20.0), (4.0, 20.0), (100.0, 21.0)):
        case = make_case(latency_ms, edges, transfer_ms=transfer_ms)
        schedule = make_schedule("hios-lp", case.graph, case.costs, case.platform)
        assert check(case, schedule) == expected
        assert len({schedule.placement[name] for name in "abcd"}) == 1


def test_the_window_groups_small_operators_and_inter_only_does_not() -> None:
    names = ["a", "b", "c", "d"]
    case = make_case(
        dict.fromkeys(names, 1.0),
        [],
        platform=Platform.uniform(1),
        utilization=dict.fromkeys(names, 0.2),
    )
    grouped = make_schedule("hios-lp", case.graph, case.costs, case.platform)
    assert [len(stage.groups) for stage in grouped.devices[0].stages] == [2, 2]
    assert check(case, grouped) == pytest.approx(3.0)  # two stages of 0.5 * 2 + 0.5 * 1
    apart = make_schedule("hios-lp", case.graph, case.costs, case.platform, inter_only=True)
    assert check(case, apart) == 4.0
    wide = make_schedule("hios-lp", case.graph, case.costs, case.platform, window=4, max_streams=4)
    assert [len(stage.groups) for stage in wide.devices[0].stages] == [2, 2]  # 2 streams only


def test_the_window_never_groups_on_a_device_with_one_stream() -> None:
    case = make_case(
        {"a": 1.0, "b": 1.0},
        [],
        platform=Platform((Device("device0", streams=1),)),
        utilization={"a": 0.1, "b": 0.1},
    )
    schedule = make_schedule("hios-lp", case.graph, case.costs, case.platform)
    assert check(case, schedule) == 2.0


def test_operators_go_only_where_they_can_run() -> None:
    case = make_case({"a": 1.0, "b": 1.0, "c": 1.0}, [("a", "b"), ("b", "c")])
    platform = Platform((Device("device0", model="small"), Device("device1", model="large")))
    times = {name: Measurement(1.0) for name in "abc"}
    costs = CostTable({"small": {"a": times["a"], "c": times["c"]}, "large": {"b": times["b"]}})
    case = Case(case.graph, costs, platform)
    schedule = make_schedule("hios-lp", case.graph, case.costs, case.platform)
    check(case, schedule)
    assert schedule.placement == {"a": "device0", "b": "device1", "c": "device0"}
    with pytest.raises(InfeasibleError, match="no device can run every operator"):
        make_schedule("sequential", case.graph, case.costs, case.platform)
    with pytest.raises(CostError, match="no time for 1 operators"):
        make_schedule("hios-lp", case.graph, costs, Platform((platform.devices[0],)))


def test_sequential_takes_the_fastest_device() -> None:
    case = make_case({"a": 1.0, "b": 1.0}, [])
    platform = Platform((Device("device0", model="slow"), Device("device1", model="fast")))
    times = {"slow": 2.0, "fast": 1.0}
    costs = CostTable(
        {model: {name: Measurement(ms) for name in "ab"} for model, ms in times.items()}
    )
    schedule = make_schedule("sequential", case.graph, costs, platform)
    assert schedule.placement == {"a": "device1", "b": "device1"}
    assert schedule.makespan_ms == 2.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("best", {}, "'best' is unknown; known are"),
        ("sequential", {"window": 2}, "has no option 'window'"),
        ("hios-lp", {"window": 0}, "must be at least 1"),
    ],
)
def test_wrong_names_and_options_are_refused(
    name: str, options: dict[str, int], message: str
) -> None:
    case = make_case({"a": 1.0}, [])
    with pytest.raises(UsageError, match=message):
        make_schedule(name, case.graph, case.costs, case.platform, **options)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_a_graph_without_operators_has_an_empty_schedule(name: str) -> None:
    schedule = make(name, make_case({}, []))
    assert schedule.makespan_ms == 0.0
    assert not schedule.placement


@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_auto_is_never_predicted_slower_than_any_other(case: Case) -> None:
    best = make("auto", case)
    assert best.makespan_ms is not None
    for name in SCHEDULERS.keys() - {"optimal"}:
        try:
            assert best.makespan_ms <= check(case, make(name, case)) + 1e-9, name
        except InfeasibleError:
            continue


def test_refine_finds_what_lists_cannot() -> None:
    """HEFT and HIOS send the first two operators apart, though transfers cost more than they do."""
    edges = [("a", "c"), ("b", "c"), ("c", "d")]
    case = make_case({"a": 2.0, "b": 2.0, "c": 1.0, "d": 1.0}, edges, transfer_ms=1.5)
    schedule = make("refine", case, moves=300)
    assert check(case, schedule) == 5.5  # b beside a, and its result copied: 2 + 1.5 + 1 + 1


def test_refine_is_the_same_for_a_seed_and_stops_in_time() -> None:
    names = [f"v{i}" for i in range(12)]
    edges = list(itertools.pairwise(names[::2]))
    case = make_case({name: 1.0 + i % 5 for i, name in enumerate(names)}, edges, transfer_ms=0.3)
    assert make("refine", case, seed=3) == make("refine", case, seed=3)
    unrefined = min(check(case, make(name, case)) for name in ("hios-lp", "hios-mr", "heft"))
    assert check(case, make("refine", case, time_limit_s=0.0)) <= unrefined


def test_heft_uses_gaps() -> None:
    """`small` comes last by rank, and runs while the second device waits for a's copy."""
    edges = [("a", "far"), ("a", "near"), ("far", "z"), ("near", "z")]
    latency_ms = {"a": 1.0, "far": 4.0, "near": 3.0, "z": 1.0, "small": 1.0}
    case = make_case(latency_ms, edges, transfer_ms=0.5)
    schedule = make("heft", case, inter_only=True)
    assert check(case, schedule) == 6.0
    assert schedule.devices[1].operators == ("small", "near")


def with_weights(case: Case, nbytes: int, memory_bytes: int) -> Case:
    """Give every operator a weight of its own, and every device a limit."""
    graph = case.graph
    weights = tuple(Tensor(f"w{op.name}", (nbytes,), "int8") for op in graph.operators)
    operators = tuple(
        replace(op, inputs=(*op.inputs, weight.name))
        for op, weight in zip(graph.operators, weights, strict=True)
    )
    graph = replace(
        graph,
        operators=operators,
        tensors=(*graph.tensors, *weights),
        constants=tuple(weight.name for weight in weights),
    )
    devices = tuple(replace(d, memory_bytes=memory_bytes) for d in case.platform.devices)
    return replace(case, graph=graph, platform=replace(case.platform, devices=devices))


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_memory_limits_hold(name: str, data: st.DataObject) -> None:
    """Room for most operators on each device, so that one device is at times too small."""
    case = data.draw(cases(max_operators=5 if name == "optimal" else 12))
    count = len(case.graph.operators)
    room = data.draw(st.integers((count + 1) // 2, count))
    case = with_weights(case, 1000, 1000 * room + case.graph.activation_bytes)
    try:
        schedule = make(name, case)
    except InfeasibleError:
        assert room < count
        return
    check(case, schedule)
    assert all(len(device.operators) <= room for device in schedule)


def test_devices_that_are_too_small_are_named() -> None:
    case = with_weights(make_case({"a": 1.0, "b": 1.0}, []), 1000, 1500)
    for name in ("hios-lp", "hios-mr", "heft", "refine", "auto", "optimal"):
        assert len(set(make(name, case).placement.values())) == 2
    with pytest.raises(InfeasibleError, match="hold all weights"):
        make("sequential", case)
    by_hand = Schedule(
        "by hand", (DeviceSchedule("device0", (Stage((("a",),)), Stage((("b",),)))),)
    )
    with pytest.raises(
        ScheduleError, match=r"'device0' has 1500 bytes of memory.* 2000 for weights"
    ):
        check(case, by_hand)
    smaller = with_weights(make_case({"a": 1.0, "b": 1.0}, []), 1000, 900)
    for name in ("hios-lp", "hios-mr", "heft"):
        with pytest.raises(InfeasibleError, match="memory left for its 1000 bytes"):
            make(name, smaller)


def test_a_weight_that_two_operators_read_counts_once() -> None:
    case = with_weights(make_case({"a": 1.0, "b": 1.0}, [("a", "b")], transfer_ms=9.0), 1000, 1500)
    shared = tuple(replace(op, inputs=(*op.inputs[:-1], "wa")) for op in case.graph.operators)
    case = replace(case, graph=replace(case.graph, operators=shared))
    for name in SCHEDULERS:
        assert check(case, make(name, case)) == 2.0, name


def test_optimal_finds_a_way_where_no_heuristic_has_room() -> None:
    """Two devices of 6 bytes, which only 3 + 3 and 2 + 2 + 2 fill."""
    sizes = {"a": 2, "b": 3, "c": 2, "d": 3, "e": 2}
    case = with_weights(make_case(dict.fromkeys(sizes, 1.0), []), 1, 0)
    tensors = tuple(
        replace(tensor, shape=(sizes[tensor.name[1:]],)) if tensor.dtype == "int8" else tensor
        for tensor in case.graph.tensors
    )
    graph = replace(case.graph, tensors=tensors)
    room = 6 + graph.activation_bytes
    case = replace(
        case,
        graph=graph,
        platform=case.platform.with_memory({device.name: room for device in case.platform.devices}),
    )
    schedule = make("optimal", case)
    check(case, schedule)
    assert {len(device.operators) for device in schedule} == {2, 3}


def test_bounds_hold_where_stages_were_measured() -> None:
    """A stage of a chain that takes less time than its operators do alone."""
    case = make_case({"a": 1.0, "b": 1.0, "c": 1.0}, [("a", "b")], platform=Platform.uniform(1))
    stage = (("a", "b"), ("c",))
    case = replace(case, costs=replace(case.costs, joint={"device": {stage: Measurement(1.7)}}))
    by_hand = Schedule("by hand", (DeviceSchedule("device0", (Stage(stage),)),))
    bounded = evaluated(by_hand, case.graph, case.costs, case.platform)
    assert check(case, bounded) == 1.7
    assert check(case, make("optimal", case)) == 1.7


def test_ios_takes_long_chains() -> None:
    """More stages than Python calls may be nested."""
    names = [f"v{i}" for i in range(1100)]
    edges = [*itertools.pairwise(names[:550]), *itertools.pairwise(names[550:])]
    case = make_case(dict.fromkeys(names, 1.0), edges, platform=Platform.uniform(1))
    schedule = make("ios", case, max_group_size=1)
    assert len(schedule.placement) == 1100
