"""Placements for many inputs: against every placement of small graphs, and by hand."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placements import QUICK, placements, problems

from hios_tvm.errors import InfeasibleError, ScheduleError, UsageError
from hios_tvm.schedulers.throughput import (
    ThroughputDevice,
    ThroughputOperator,
    ThroughputProblem,
    device_loads_ms,
)
from hios_tvm.schedulers.throughput_bounds import interval_bound_ms
from hios_tvm.schedulers.throughput_contiguous import contiguous_split
from hios_tvm.schedulers.throughput_search import ThroughputOptions, find_pipeline


def is_contiguous(problem: ThroughputProblem, device_of: Sequence[int]) -> bool:
    """Whether the devices can be ordered so that no edge leads back."""
    graph = nx.DiGraph((device_of[u], device_of[v]) for u, v in problem.edges)
    graph.remove_edges_from([*nx.selfloop_edges(graph)])
    return nx.is_directed_acyclic_graph(graph)


@settings(max_examples=15, deadline=None)
@given(problems(max_operators=5))
def test_no_placement_beats_the_bound(problem: ThroughputProblem) -> None:
    best_ms = min(placements(problem))[0]
    assert interval_bound_ms(problem) <= best_ms
    pipeline = find_pipeline(problem, QUICK)
    assert pipeline.loads_ms == device_loads_ms(problem, pipeline.device_of)
    assert pipeline.interval_ms >= best_ms


@st.composite
def dear_problems(draw: st.DrawFn) -> ThroughputProblem:
    """Transfers that take about as long as operators or longer, and no, one or two hosts."""
    problem = draw(problems(max_operators=5))
    factor = draw(st.sampled_from([1.0, 4.0, 16.0]))
    operators = tuple(
        replace(each, transfer_ms=factor * each.transfer_ms) for each in problem.operators
    )
    *accelerators, host = problem.devices
    hosts = [replace(host, name=f"host {i}") for i in range(draw(st.integers(0, 2)))]
    devices = (*accelerators, *hosts[:1], *hosts[1:])
    return replace(problem, operators=operators, devices=devices)


@settings(max_examples=40, deadline=None)
@given(dear_problems())
def test_no_placement_beats_the_bound_where_transfers_are_dear(problem: ThroughputProblem) -> None:
    best_ms = min(placements(problem), default=(math.inf, ()))[0]
    try:
        bound_ms = interval_bound_ms(problem)
    except InfeasibleError:
        assert best_ms == math.inf
    else:
        assert bound_ms <= best_ms


def test_the_bound_counts_transfers() -> None:
    assert interval_bound_ms(chain(1.0, 1.0, transfer_ms=9.0)) == pytest.approx(2.0, rel=2e-3)
    # Two devices: one transfer of 0.1 ms between them, which both pay.
    assert interval_bound_ms(chain(*[1.0] * 4, transfer_ms=0.1)) == pytest.approx(2.1, rel=2e-3)
    # With three, the two in the middle of the first and the last transfer pay for both.
    three = chain(*[1.0] * 6, transfer_ms=0.3, devices=3)
    assert interval_bound_ms(three) == pytest.approx(2.4, rel=2e-3)
    assert min(placements(three))[0] == pytest.approx(2.6)


@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_the_best_placement_of_small_graphs(seed: int) -> None:
    draw = random.Random(seed)
    operators = tuple(
        ThroughputOperator(f"v{v}", (draw.randint(1, 9), draw.randint(5, 30)), draw.randint(0, 2))
        for v in range(7)
    )
    edges = tuple(pair for pair in itertools.combinations(range(7), 2) if draw.random() < 0.4)
    devices = (
        ThroughputDevice("a0"),
        ThroughputDevice("a1"),
        ThroughputDevice("host", 1, is_host=True),
    )
    problem = ThroughputProblem(operators, edges, devices)
    assert find_pipeline(problem, QUICK).interval_ms == min(placements(problem))[0]


@settings(max_examples=15, deadline=None)
@given(problems(max_operators=5))
def test_the_contiguous_split_is_the_best_one_of_all(problem: ThroughputProblem) -> None:
    contiguous = [ms for ms, each in placements(problem) if is_contiguous(problem, each)]
    if not contiguous:
        with pytest.raises(InfeasibleError):
            contiguous_split(problem)
        return
    split = contiguous_split(problem)
    assert split.is_best
    assert is_contiguous(problem, split.device_of)
    assert math.isclose(split.interval_ms, min(contiguous))
    assert math.isclose(split.interval_ms, max(device_loads_ms(problem, split.device_of)))


@settings(max_examples=15, deadline=None)
@given(problems(max_operators=7, limits=False))
def test_the_search_is_never_above_where_it_starts_and_repeats_itself(
    problem: ThroughputProblem,
) -> None:
    split = contiguous_split(problem)
    found = find_pipeline(problem, QUICK)
    assert found.interval_ms <= split.interval_ms * (1 + 1e-9)
    assert found == find_pipeline(problem, QUICK, split.device_of)
    one_order = contiguous_split(problem, max_ideals=1)
    assert not one_order.is_best
    assert one_order.interval_ms >= split.interval_ms * (1 - 1e-9)


def chain(*latency_ms: float, transfer_ms: float = 0.0, devices: int = 2) -> ThroughputProblem:
    operators = [ThroughputOperator(f"v{v}", (ms,), transfer_ms) for v, ms in enumerate(latency_ms)]
    edges = tuple((v, v + 1) for v in range(len(operators) - 1))
    return ThroughputProblem(
        tuple(operators), edges, tuple(ThroughputDevice(f"d{d}") for d in range(devices))
    )


def test_a_device_that_comes_back_to_a_chain_can_be_faster() -> None:
    problem = chain(3.0, 4.0, 1.0)
    assert contiguous_split(problem).interval_ms == 5.0
    pipeline = find_pipeline(problem, QUICK)
    assert (pipeline.interval_ms, pipeline.lower_bound_ms, pipeline.gap) == (4.0, 4.0, 0.0)


def test_each_side_pays_for_an_output_once() -> None:
    operators = tuple(ThroughputOperator(name, (1.0,), 0.5) for name in "abc")
    devices = (
        ThroughputDevice("d0"),
        ThroughputDevice("d1"),
        ThroughputDevice("host", is_host=True),
    )
    problem = ThroughputProblem(operators, ((0, 1), (0, 2)), devices)
    assert device_loads_ms(problem, (0, 1, 1)) == (1.5, 2.5, 0.0)
    assert device_loads_ms(problem, (0, 1, 2)) == (1.5, 1.5, 1.0)
    assert device_loads_ms(problem, (2, 0, 0)) == (2.5, 0.0, 1.0)


def test_dear_transfers_keep_a_graph_on_one_device() -> None:
    assert find_pipeline(chain(1.0, 1.0, transfer_ms=9.0), QUICK).interval_ms == 2.0


@pytest.mark.parametrize(
    ("device_of", "message"),
    [
        ((0,), "1 operators are placed"),
        ((0, 2), "device 2"),
        ((0, 1), "apart from others of colour 'red'"),
        ((1, 1), "d1 has 3 bytes for 4"),
    ],
)
def test_a_placement_that_breaks_a_rule_is_refused(
    device_of: tuple[int, ...], message: str
) -> None:
    operators = tuple(ThroughputOperator(name, (1.0,), 0.0, 2.0, "red") for name in "ab")
    devices = (ThroughputDevice("d0"), ThroughputDevice("d1", memory_bytes=3.0))
    with pytest.raises(ScheduleError, match=message):
        device_loads_ms(ThroughputProblem(operators, (), devices), device_of)


def test_what_fits_on_no_device_is_named() -> None:
    problem = chain(1.0, 2.0)
    operators = (problem.operators[0], replace(problem.operators[1], memory_bytes=2.0))
    devices = (ThroughputDevice("d0", memory_bytes=1.0),)
    with pytest.raises(InfeasibleError, match="'v1'"):
        find_pipeline(replace(problem, operators=operators, devices=devices), QUICK)


def test_senseless_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="'a'"):
        ThroughputOperator("a", (-1.0,))
    with pytest.raises(UsageError, match="leads to none"):
        ThroughputProblem((), ((0, 1),), (ThroughputDevice("d0"),))
    with pytest.raises(UsageError, match="rounds"):
        ThroughputOptions(rounds=-1)
