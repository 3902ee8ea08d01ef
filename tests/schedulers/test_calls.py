"""Placements whose devices run one call each: against all placements of small graphs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from placements import QUICK, placements, problems

from hios_tvm.errors import InfeasibleError, ScheduleError
from hios_tvm.schedulers.calls import call_latency_ms, find_calls
from hios_tvm.schedulers.calls_bound import call_bound_ms
from hios_tvm.schedulers.throughput import (
    ThroughputDevice,
    ThroughputOperator,
    ThroughputProblem,
)


def latencies(problem: ThroughputProblem) -> list[float]:
    """Of all placements that keep to the rules."""
    found = []
    for _, device_of in placements(problem):
        try:
            found.append(call_latency_ms(problem, device_of))
        except ScheduleError:
            continue
    return found


@settings(max_examples=30, deadline=None)
@given(problems(max_operators=5))
def test_no_placement_is_below_the_bound(
    problem: ThroughputProblem,
) -> None:
    best_ms = min(latencies(problem))
    assert call_bound_ms(problem) <= best_ms * (1 + 1e-9)
    found = find_calls(problem, QUICK)
    assert found.latency_ms == call_latency_ms(problem, found.device_of)
    assert found.latency_ms >= best_ms


def chain(*latency_ms: float, nbytes: float = math.inf, hosts: int = 1) -> ThroughputProblem:
    """A chain of operators of 1 byte and 0.5 ms of transfer; the host takes 10 times as long."""
    operators = tuple(
        ThroughputOperator(f"v{v}", (ms, 10.0 * ms), 0.5, 1.0) for v, ms in enumerate(latency_ms)
    )
    edges = tuple((v, v + 1) for v in range(len(operators) - 1))
    devices = [ThroughputDevice(f"a{i}", 0, nbytes) for i in range(2)]
    devices += [ThroughputDevice(f"core {i}", 1, is_host=True) for i in range(hosts)]
    return ThroughputProblem(operators, edges, tuple(devices))


@pytest.mark.parametrize(
    ("nbytes", "expected_ms"),
    [
        (4.0, 4.0),  # all in one call
        (2.0, 5.0),  # two calls: the first one gives, the second one takes
        (1.0, 23.0),  # the host has two: v0 gives, v3 takes
    ],
)
def test_memory_divides_a_chain(nbytes: float, expected_ms: float) -> None:
    problem = chain(1.0, 1.0, 1.0, 1.0, nbytes=nbytes)
    found = find_calls(problem, QUICK)
    assert found.latency_ms == expected_ms
    assert call_bound_ms(problem) == pytest.approx(expected_ms)


def test_a_call_gives_nothing_before_it_ends_and_the_host_has_a_core_for_each() -> None:
    r"""
      v0        v0 and v1 in a call: v2 waits for both of them. v1 and v2 on the
     /  \       host run beside each other.
    v1  v2
    """
    operators = tuple(ThroughputOperator(f"v{v}", (2.0, 3.0), 0.5) for v in range(3))
    devices = (ThroughputDevice("a"), ThroughputDevice("host", 1, is_host=True))
    problem = ThroughputProblem(operators, ((0, 1), (0, 2)), devices)
    assert call_latency_ms(problem, (0, 0, 1)) == 2.0 + 2.0 + 0.5 + 3.0
    assert call_latency_ms(problem, (0, 1, 1)) == 2.0 + 0.5 + 3.0
    assert call_latency_ms(problem, (1, 1, 1)) == 6.0
    assert find_calls(problem, QUICK).latency_ms == 5.5


def test_devices_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ScheduleError, match="not contiguous"):
        call_latency_ms(chain(1.0, 1.0, 1.0), (0, 1, 0))


def test_the_host_takes_what_fits_nowhere_else() -> None:
    problem = chain(1.0, 1.0, nbytes=0.5)
    assert find_calls(problem, QUICK).device_of == (2, 2)
    without = replace(problem, devices=problem.devices[:2])
    with pytest.raises(InfeasibleError, match="'v0'"):
        find_calls(without, QUICK)
