"""Schedulers side by side, and how their options are read."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from hios_tvm.errors import CostError, UsageError
from hios_tvm.experiments.comparison import (
    check_options,
    choose_schedulers,
    compare_schedulers,
    parse_option,
)
from hios_tvm.schedulers import SCHEDULERS
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.plain_graph import read_plain_graph
from hios_tvm.schema.platform import Device, Platform


def fork(transfer_ms: float = 0.5, consumers: int = 2) -> Instance:
    """One producer, and consumers of 4 ms each on two devices."""
    names = [f"c{i}" for i in range(consumers)]
    data: dict[str, Any] = {
        "operators": [{"name": name, "latency_ms": 4.0} for name in ["a", *names]],
        "edges": [{"src": "a", "dst": name, "transfer_ms": transfer_ms} for name in names],
    }
    graph, costs, _ = read_plain_graph(data)
    return Instance(graph, costs, Platform.uniform(2))


def test_speed_up_gap_and_transfers_are_what_they_say() -> None:
    contestants, failures = compare_schedulers(fork(), ["sequential", "hios-lp"])
    assert failures == {}
    one, two = contestants["sequential"], contestants["hios-lp"]
    assert (one.makespan_ms, one.speedup, one.transfers) == (12.0, 1.0, 0)
    assert (two.makespan_ms, two.speedup, two.transfers) == (8.5, 12.0 / 8.5, 1)
    assert two.gap == two.makespan_ms / two.lower_bound_ms - 1.0
    assert two.seconds > 0.0


def test_a_tensor_that_two_operators_of_a_device_read_is_one_transfer() -> None:
    instance = fork(consumers=4)
    result = compare_schedulers(instance, ["hios-lp"])[0]["hios-lp"]
    spans = evaluate(instance.graph, instance.costs, instance.platform, result.schedule).transfers
    assert len(spans) >= 2
    assert result.transfers == 1


def test_an_empty_graph_has_no_gap() -> None:
    graph, costs, _ = read_plain_graph({"operators": []})
    contestants, _ = compare_schedulers(Instance(graph, costs, Platform.uniform(2)), ["hios-lp"])
    result = contestants["hios-lp"]
    assert (result.makespan_ms, result.gap, result.speedup) == (0.0, 0.0, 1.0)


def test_who_refuses_is_named_and_the_others_go_on() -> None:
    """No single device runs both operators, so that `sequential` has no schedule."""
    graph, costs, _ = read_plain_graph(
        {"operators": [{"name": name, "latency_ms": 1.0} for name in "ab"]}
    )
    times = costs.latency["device"]
    split = CostTable({"left": {"a": times["a"]}, "right": {"b": times["b"]}})
    platform = Platform((Device("x", "left"), Device("y", "right")))
    instance = Instance(graph, split, platform)
    contestants, failures = compare_schedulers(instance, ["sequential", "hios-lp"])
    assert list(contestants) == ["hios-lp"]
    assert contestants["hios-lp"].speedup is None
    assert "sequential" in failures
    with pytest.raises(CostError, match="no time for 2 operators"):
        compare_schedulers(Instance(graph, CostTable({}), platform), ["sequential", "hios-lp"])


def test_schedulers_are_chosen_by_name_or_all() -> None:
    assert choose_schedulers("all") == tuple(SCHEDULERS)
    assert choose_schedulers("heft,hios-lp, heft") == ("heft", "hios-lp")
    for wrong in ("fastest", "hios-lp,fastest", "", ","):
        with pytest.raises(UsageError, match="known are sequential, "):
            choose_schedulers(wrong)


def test_options_are_read_by_their_type() -> None:
    assert parse_option("window=4") == ("window", 4)
    assert parse_option("max-streams=3") == ("max_streams", 3)
    assert parse_option("inter_only=true") == ("inter_only", True)
    assert parse_option("time_limit_s=2") == ("time_limit_s", 2.0)
    assert type(parse_option("time_limit_s=2")[1]) is float
    for wrong in ("window", "=3", "window=", "window=two", "window=2.5", "window=true", "windw=2",
                  "window=null", "inter_only=1", "moves=many", "moves=0.5"):  # fmt: skip
        with pytest.raises(UsageError, match=r"window|option"):
            parse_option(wrong)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_option_of_every_scheduler_can_be_given(name: str) -> None:
    for field in dataclasses.fields(SCHEDULERS[name].options):
        if type(field.default) in (int, float, bool) and math.isfinite(field.default):
            text = str(field.default).lower()
            assert parse_option(f"{field.name}={text}") == (field.name, field.default)
            check_options([name], {field.name: field.default})


def test_an_option_goes_to_those_that_have_it() -> None:
    contestants, _ = compare_schedulers(fork(), ["sequential", "hios-lp"], {"window": 3})
    assert contestants["hios-lp"].schedule.options["window"] == 3
    assert "window" not in contestants["sequential"].schedule.options
    with pytest.raises(UsageError, match="none of sequential has an option 'window'"):
        compare_schedulers(fork(), ["sequential"], {"window": 3})
    with pytest.raises(UsageError, match="window"):
        check_options(["sequential", "hios-lp"], {"window": 0})
