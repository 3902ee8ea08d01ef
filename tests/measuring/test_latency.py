"""The one loop that measures latencies, with contestants that only note when they ran."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice

import pytest

from hios_tvm.measuring.latency import LatencySummary, latencies_of, measure_in_turn

Burst = Callable[[Sequence[float]], list[float]]


def contestant(name: str, ran: list[str], *burst: float) -> Burst:
    def run(known: Sequence[float]) -> list[float]:
        ran.append(f"{name}{len(known)}")
        return list(burst)

    return run


def test_contestants_take_turns_and_know_their_latencies() -> None:
    ran: list[str] = []
    bursts = [contestant("a", ran, 1.0), contestant("b", ran, 2.0, 3.0)]
    latencies = measure_in_turn(bursts, lambda turn, _: turn == 3)
    assert ran == ["a0", "b0", "a1", "b2", "a2", "b4"]
    assert latencies == [[1.0] * 3, [2.0, 3.0] * 3]


def test_who_has_run_enough_leaves_the_others_alone() -> None:
    ran: list[str] = []
    bursts = [contestant("a", ran, 1.0, 1.0), contestant("b", ran, 1.0)]
    latencies = measure_in_turn(bursts, lambda _, known: len(known) >= 3)
    assert ran == ["a0", "b0", "a2", "b1", "b2"]
    assert list(map(len, latencies)) == [4, 3]


def test_each_burst_is_reported_before_it_and_followed_by_a_pause() -> None:
    reported: list[tuple[int, int]] = []
    start = time.perf_counter()
    measure_in_turn(
        [contestant("a", [], 1.0)] * 2,
        lambda turn, _: turn == 2,
        pause_s=0.01,
        progress=lambda turn, i: reported.append((turn, i)),
    )
    assert reported == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert time.perf_counter() - start >= 4 * 0.01


def test_a_latency_is_the_time_of_one_run() -> None:
    summary = LatencySummary.of(list(islice(latencies_of(lambda: time.sleep(0.005)), 3)))
    assert summary.runs == 3
    assert 5.0 <= summary.min_ms < 500.0


def test_an_error_of_a_contestant_ends_the_measurement() -> None:
    def fail(_: Sequence[float]) -> list[float]:
        raise RuntimeError("the process died")

    with pytest.raises(RuntimeError, match="the process died"):
        measure_in_turn([fail], lambda turn, _: turn == 1)
