"""Lower bounds: against exhaustive search of small graphs, and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cases import Case, cases, divided, make_case, moldable
from exhaustive import exhaustive_ms, layered_ms
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.experiments.random_graphs import LayeredGraphOptions, layered_graph
from hios_tvm.schedulers.bounds import lower_bound_ms
from hios_tvm.schema.costs import Measurement, StageKey, stage_key
from hios_tvm.schema.platform import Platform


def bound_ms(case: Case) -> float:
    return lower_bound_ms(case.graph, case.costs, case.platform)


@st.composite
def measured(draw: st.DrawFn, max_operators: int, max_devices: int) -> Case:
    """Cases in which some stages of two groups were measured, faster or slower than modelled."""
    case = draw(cases(max_operators, max_devices))
    names = [op.name for op in case.graph.operators]
    joint: dict[str, dict[StageKey, Measurement]] = {}
    for model in {device.model for device in case.platform.devices} if len(names) > 1 else ():
        for _ in range(draw(st.integers(0, 3))):
            chosen = st.lists(st.sampled_from(names), unique=True, min_size=2, max_size=4)
            members = sorted(draw(chosen), key=names.index)
            middle = draw(st.integers(1, len(members) - 1))
            key = stage_key([members[:middle], members[middle:]])
            ms = case.costs.modelled_stage_ms(key, model) * draw(st.floats(0.2, 1.3))
            joint.setdefault(model, {})[key] = Measurement(ms)
    return replace(case, costs=replace(case.costs, joint=joint))


@settings(deadline=None, max_examples=25)
@given(case=measured(max_operators=5, max_devices=3), streams=st.integers(1, 2))
def test_no_schedule_of_independent_devices_is_below_the_bound(case: Case, streams: int) -> None:
    devices = tuple(replace(device, streams=streams) for device in case.platform.devices)
    case = replace(case, platform=replace(case.platform, devices=devices, independence=1.0))
    assert bound_ms(case) <= layered_ms(case, streams) * (1 + 1e-9)


@settings(deadline=None, max_examples=20)
@given(case=measured(max_operators=3, max_devices=2))
def test_no_schedule_of_devices_that_disturb_each_other_is_below_the_bound(case: Case) -> None:
    names = tuple(device.name for device in case.platform.devices)
    assert bound_ms(case) <= exhaustive_ms(case, names) * (1 + 1e-9)


@pytest.mark.parametrize(("transfer_ms", "expected_ms"), [(0.5, 5.5), (9.0, 9.0)])
def test_sources_wait_for_a_transfer_or_for_each_other(
    transfer_ms: float, expected_ms: float
) -> None:
    r"""
    a   b   The sources take 4 ms, c takes 1 ms: one of them
     \ /    is elsewhere, or both are on one device.
      c
    """
    edges = [("a", "c"), ("b", "c")]
    case = make_case({"a": 4.0, "b": 4.0, "c": 1.0}, edges, transfer_ms=transfer_ms)
    assert layered_ms(case, 2) == expected_ms
    assert bound_ms(case) == pytest.approx(expected_ms)


def test_devices_idle_until_the_first_transfer_and_after_the_last() -> None:
    r"""
        s        s and t take 1 ms, the four between them 3 ms each, and every transfer 1 ms:
     / / \ \     one of two devices has nothing to do for 2 ms at either end.
    a b   c d
     \ \ / /
        t
    """
    edges = [("s", name) for name in "abcd"] + [(name, "t") for name in "abcd"]
    times = {"s": 1.0, "a": 3.0, "b": 3.0, "c": 3.0, "d": 3.0, "t": 1.0}
    case = make_case(times, edges, transfer_ms=1.0, platform=Platform.uniform(2, streams=1))
    assert layered_ms(case, 1) == (2.0 + 14.0 + 2.0) / 2
    assert bound_ms(case) == pytest.approx(9.0)


def test_an_operator_that_all_others_wait_for_shares_no_stage() -> None:
    case = make_case(
        {"s": 4.0, "a": 1.0, "b": 1.0},
        [("s", "a"), ("s", "b")],
        platform=Platform.uniform(1),
        utilization=dict.fromkeys("sab", 0.5),
    )
    assert layered_ms(case, 2) == 4.0 + 1.5
    assert bound_ms(case) == pytest.approx(5.5)


def test_wide_devices_count_for_all_their_cores() -> None:
    """Both cores run s, and start together."""
    edges = [("s", "a"), ("s", "b")]
    case = make_case({"s": 2.0, "a": 3.0, "b": 3.0}, edges, transfer_ms=1.0)
    times = {"cpu/1": {"s": 2.0, "a": 3.0, "b": 3.0}, "cpu/2": {"s": 1.0, "a": 3.0, "b": 3.0}}
    case = moldable(case, divided("cpu@0-1"), times)
    assert layered_ms(case, 1) == 5.0
    assert bound_ms(case) == pytest.approx(5.0)


def test_the_bound_of_a_wide_graph_is_near_the_best_schedule_known() -> None:
    """200 operators on 4 devices; a long search finds 94.58 ms."""
    instance = layered_graph(LayeredGraphOptions(), seed=0)
    bound = lower_bound_ms(instance.graph, instance.costs, instance.platform)
    assert 93.5 < bound <= 94.58
