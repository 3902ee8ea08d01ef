from __future__ import annotations

import pytest

from hios_tvm.measuring.benchmark import _busy_share
from hios_tvm.runtime.trace import RunTrace, Span


def run(device: str, busy: tuple[int, int], whole: tuple[int, int]) -> RunTrace:
    return RunTrace((Span(device, 0, "call", "a", *busy),), *whole)


def test_the_busy_share_is_that_of_the_time_in_runs() -> None:
    """Two runs of 10 ns with a pause between them; the device works for 5 and 2 ns."""
    runs = [run("cpu@0", (0, 5), (0, 10)), run("cpu@0", (50, 52), (50, 60))]
    assert _busy_share(runs, ["cpu@0", "cpu@1"]) == {"cpu@0": pytest.approx(0.35), "cpu@1": 0.0}


def test_sessions_that_work_at_the_same_time_make_a_device_busy_once() -> None:
    runs = [run("cpu@0", (0, 8), (0, 10)), run("cpu@0", (4, 9), (0, 10))]
    assert _busy_share(runs, ["cpu@0"]) == {"cpu@0": pytest.approx(0.9)}


def test_without_traces_nothing_is_known() -> None:
    assert _busy_share([], ["cpu@0"]) == {}
