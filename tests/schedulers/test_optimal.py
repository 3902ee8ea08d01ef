"""`optimal` and `ios` against exhaustive search, and the others against `optimal`."""

from __future__ import annotations

import itertools
import logging
import random
import statistics
from dataclasses import replace

import pytest
from cases import Case, cases, divided, make_case, moldable
from exhaustive import exhaustive_ms, layered_ms, makespan_ms
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.errors import InfeasibleError, UsageError
from hios_tvm.schedulers import SCHEDULERS, make_schedule
from hios_tvm.schema.platform import Device, Link, Platform
from hios_tvm.schema.schedule import Schedule


def independent(case: Case) -> Case:
    return replace(case, platform=replace(case.platform, independence=1.0))


def make(name: str, case: Case, **options: object) -> Schedule:
    return make_schedule(name, case.graph, case.costs, case.platform, **options)


def with_streams(case: Case, streams: int) -> Case:
    devices = tuple(replace(device, streams=streams) for device in case.platform.devices)
    return independent(replace(case, platform=replace(case.platform, devices=devices)))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(case=cases(max_operators=4, max_devices=2))
def test_both_exhaustive_searches_find_the_same(case: Case) -> None:
    case = independent(case)
    devices = tuple(device.name for device in case.platform.devices)
    most = max(device.streams for device in case.platform.devices)
    assert layered_ms(case, most) == pytest.approx(exhaustive_ms(case, devices))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(case=cases(max_operators=7, max_devices=3))
def test_optimal_is_what_exhaustive_search_finds(case: Case) -> None:
    case = with_streams(case, 1)
    assert makespan_ms(case, make("optimal", case)) == pytest.approx(layered_ms(case, 1))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(case=cases(max_operators=5, max_devices=3))
def test_optimal_stages_are_what_exhaustive_search_finds(case: Case) -> None:
    case = with_streams(case, 2)
    assert makespan_ms(case, make("optimal", case)) == pytest.approx(layered_ms(case, 2))


@settings(deadline=None, max_examples=25)
@given(case=cases(max_operators=5, max_devices=1))
def test_ios_is_what_exhaustive_search_finds_on_one_device(case: Case) -> None:
    """With a stream for each operator: IOS never puts independent operators into one group."""
    (device,) = case.platform.devices
    case = replace(case, platform=Platform((replace(device, streams=5),)))
    schedule = make("ios", case, max_groups=8, max_group_size=8)
    assert makespan_ms(case, schedule) == pytest.approx(exhaustive_ms(case, ("device0",)))


@settings(deadline=None, max_examples=60)
@given(case=cases(max_operators=8, max_devices=3))
def test_nothing_is_better_than_optimal(case: Case) -> None:
    case = independent(case)
    try:
        best = makespan_ms(case, make("optimal", case, time_limit_s=2.0))
    except UsageError:  # many equal costs: too many equal schedules
        return
    for name in SCHEDULERS.keys() - {"optimal"}:
        options = {"moves": 50} if name in ("refine", "auto") else {}
        assert makespan_ms(case, make(name, case, **options)) >= best - 1e-9, name


def random_case(rng: random.Random, operators: int, streams: int) -> Case:
    names = [f"v{i}" for i in range(operators)]
    edges = [e for e in itertools.combinations(names, 2) if rng.random() < 0.3]
    return make_case(
        {name: rng.uniform(0.1, 4.0) for name in names},
        edges,
        transfer_ms={edge: rng.uniform(0.1, 3.0) for edge in edges},
        platform=Platform.uniform(3, streams=streams),
        utilization={name: rng.uniform(0.4, 1.0) for name in names},
    )


@pytest.mark.parametrize(("operators", "streams", "graphs"), [(7, 1, 6), (6, 2, 6)])
def test_all_schedulers_against_exhaustive_search(
    operators: int, streams: int, graphs: int
) -> None:
    rng = random.Random(operators)
    ratios = []
    for _ in range(graphs):
        case = random_case(rng, operators, streams)
        best_ms = layered_ms(case, streams)
        assert makespan_ms(case, make("optimal", case)) == pytest.approx(best_ms)
        ratios.append(makespan_ms(case, make("refine", case)) / best_ms)
        for name in SCHEDULERS.keys() - {"optimal", "refine"}:
            assert makespan_ms(case, make(name, case)) >= best_ms * (1.0 - 1e-9), name
    assert min(ratios) >= 1.0 - 1e-9
    assert statistics.mean(ratios) <= 1.02


@pytest.mark.parametrize("seed", range(4))
def test_optimal_is_exact_on_halves_and_quarters(seed: int) -> None:
    """Seven devices, of which many can be exchanged while some are idle."""
    rng = random.Random(seed)
    case = random_case(rng, 4, 1)
    alone_ms = {op.name: rng.uniform(0.5, 4.0) for op in case.graph.operators}
    share = {name: rng.uniform(0.3, 1.0) for name in alone_ms}  # of the work that is divided
    times = {
        f"cpu/{k}": {
            name: ms * (1 - share[name] + share[name] / k) for name, ms in alone_ms.items()
        }
        for k in (1, 2, 4)
    }
    case = moldable(case, divided("cpu@0-3"), times)
    assert makespan_ms(case, make("optimal", case)) == pytest.approx(layered_ms(case, 1))


def test_orders_that_end_alike_are_searched_once() -> None:
    """Eight operators, all one after another: 8! orders of each placement."""
    wide = Device("wide", "device/4", 1, cores=(0, 1, 2, 3))
    narrow = [Device(f"narrow{i}", "device/3", 1, cores=(i, 1, 2)) for i in (0, 3)]
    case = make_case({f"v{i}": 1.0 + 0.1 * i for i in range(8)}, [])
    times = {op.name: 1.0 + 0.1 * i for i, op in enumerate(case.graph.operators)}
    slower = {name: 1.23 * ms for name, ms in times.items()}
    platform = Platform((wide, *narrow), default_link=Link(0.0, 1.0))
    case = moldable(case, platform, {"device/4": times, "device/3": slower})
    schedule = make("optimal", case, time_limit_s=5.0)
    assert makespan_ms(case, schedule) == pytest.approx(sum(times.values()))


def test_large_graphs_and_long_searches_are_refused() -> None:
    names = [f"v{i}" for i in range(11)]
    case = make_case(dict.fromkeys(names, 1.0), [], platform=Platform.uniform(3))
    with pytest.raises(UsageError, match=r"11 operators, more than the 10.*max_operators"):
        make("optimal", case)
    odd = make_case({name: 1.0 + 0.1 * i for i, name in enumerate(names)}, [])
    with pytest.raises(UsageError, match=r"has not finished in 0\.01 s"):
        make("optimal", odd, max_operators=11, time_limit_s=0.01)


@settings(deadline=None, max_examples=60)
@given(case=cases(max_operators=12), max_endings=st.integers(1, 100))
def test_ios_cuts_wide_blocks(case: Case, max_endings: int) -> None:
    schedule = make("ios", case, max_endings=max_endings)
    assert makespan_ms(case, schedule) >= makespan_ms(case, make("ios", case)) - 1e-9


def test_ios_logs_that_a_block_was_cut(caplog: pytest.LogCaptureFixture) -> None:
    case = make_case(dict.fromkeys("abcdef", 1.0), [], platform=Platform.uniform(1, streams=3))
    with caplog.at_level(logging.INFO, "hios_tvm"):
        make("ios", case)
        assert not caplog.messages
        make("ios", case, max_endings=5)
    assert "a block of 6 operators has more than max_endings = 5" in caplog.messages[0]


def test_greedy_takes_all_that_is_ready() -> None:
    r"""
    a   b   c
     \ /    |
      d     e
    """
    edges = [("a", "d"), ("b", "d"), ("c", "e")]
    case = make_case(dict.fromkeys("abcde", 1.0), edges, platform=Platform.uniform(1, streams=3))
    (device,) = make("greedy", case).devices
    assert [stage.groups for stage in device.stages] == [
        (("a",), ("b",), ("c",)),
        (("d",), ("e",)),
    ]


def test_one_device_must_be_able_to_run_everything() -> None:
    case = make_case({"a": 1.0, "b": 1.0}, [])
    costs = replace(
        case.costs,
        latency={
            "x": {"a": case.costs.latency["device"]["a"]},
            "y": {"b": case.costs.latency["device"]["b"]},
        },
    )
    devices = tuple(
        replace(d, model=model) for d, model in zip(case.platform.devices, "xy", strict=True)
    )
    apart = Case(case.graph, costs, Platform(devices))
    for name in ("sequential", "greedy", "ios"):
        with pytest.raises(InfeasibleError, match="no device can run every operator"):
            make(name, apart)
    assert makespan_ms(apart, make("optimal", apart)) == 1.0
