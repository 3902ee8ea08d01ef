"""The real executor with several inputs in flight, on emulated devices."""

from __future__ import annotations

import pytest

from hios_tvm.errors import UsageError
from hios_tvm.measuring.emulate_throughput import emulate_throughput
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schedulers.throughput import Pipeline
from hios_tvm.schedulers.throughput_stages import contiguous_pipeline, pipeline_schedule
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.plain_graph import graph_of_edges
from hios_tvm.schema.platform import Link, Platform


def instance_of(
    times_ms: dict[str, float], edges: list[tuple[str, str]], link_ms: float, devices: int = 2
) -> Instance:
    graph = graph_of_edges(list(times_ms), edges, name="g")
    costs = CostTable({"device": {name: Measurement(ms) for name, ms in times_ms.items()}})
    link = Link(link_ms, float("inf"))
    return Instance(graph, costs, Platform.uniform(devices, link=link))


@pytest.mark.parametrize(("sessions", "predicted_ms"), [(1, 13.0), (2, 6.5)])
def test_results_come_at_the_pace_of_the_largest_load(sessions: int, predicted_ms: float) -> None:
    """6 + 5 + 2 ms on one device, 2 + 10 ms on the other: both pay for the output of b."""
    times = {"a": 6.0, "b": 5.0, "c": 10.0}
    instance = instance_of(times, [("a", "b"), ("b", "c")], 2.0)
    pipeline = contiguous_pipeline(instance.graph, instance.costs, instance.platform)
    assert (pipeline.device_of, pipeline.loads_ms) == ((0, 0, 1), (13.0, 12.0))
    result = emulate_throughput(instance, pipeline, sessions=sessions, results=8)
    assert result.predicted_ms == predicted_ms
    schedule = pipeline_schedule(instance.graph, pipeline, instance.platform)
    one_ms = evaluate(instance.graph, instance.costs, instance.platform, schedule).makespan_ms
    assert one_ms == 23.0
    # Nearer to the largest load than to one input after another.
    assert 0.99 * predicted_ms < result.interval_ms < (predicted_ms + one_ms / sessions) / 2


def test_an_output_is_given_once_and_taken_by_each_reader() -> None:
    times = {"a": 4.0, "b": 4.0, "c": 4.0}
    instance = instance_of(times, [("a", "b"), ("a", "c")], 3.0, devices=3)
    pipeline = Pipeline((0, 1, 2), (7.0, 7.0, 7.0))
    result = emulate_throughput(instance, pipeline, results=8, scale=3.0)
    assert 0.99 * 7.0 < result.interval_ms < 10.0  # of a that gives twice


def test_nothing_to_emulate_is_an_error() -> None:
    instance = instance_of({"a": 0.0}, [], 0.0)
    with pytest.raises(UsageError, match="nothing to emulate"):
        emulate_throughput(instance, Pipeline((0,), (0.0, 0.0)))
