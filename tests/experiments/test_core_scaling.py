"""Networks on more cores than were measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hios_tvm.errors import CostError, UsageError
from hios_tvm.experiments.core_scaling import SETUPS, ScalingModel, on_cores
from hios_tvm.schedulers import make_schedule
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.instance import Instance, read_instance
from hios_tvm.zoo.costs import cost_file

MODEL = ScalingModel(parallel_share=0.75, barrier_ms=0.5, independence=0.8)


def test_times_follow_amdahl_and_the_barrier() -> None:
    assert MODEL.ms({1: 8.0}, 1) == 8.0
    assert MODEL.ms({1: 8.0}, 4) == 2.0 + 6.0 / 4 + 2 * 0.5
    # Two cores save 2 ms and wait 0.5 ms: 5 of 8 ms are parallel.
    assert MODEL.ms({1: 8.0, 2: 6.0}, 2) == 6.0
    assert MODEL.ms({1: 8.0, 2: 6.0}, 8) == pytest.approx(3.0 + 5.0 / 8 + 3 * 0.5)
    assert MODEL.ms({1: 8.0, 2: 9.0}, 4) == 8.0 + 2 * 0.5  # nothing is parallel
    assert MODEL.ms({1: 0.0, 2: 0.0}, 4) == 1.0
    with pytest.raises(UsageError, match="parallel_share must be in"):
        ScalingModel(parallel_share=1.5)


@pytest.mark.parametrize(("setup", "devices"), list(zip(SETUPS, (1, 4, 2, 7), strict=True)))
def test_setups_are_devices_of_one_machine(setup: str, devices: int) -> None:
    instance = on_cores(read_instance(cost_file("squeezenet1_1")), 4, setup, MODEL)
    assert len(instance.platform.devices) == devices
    assert {core for device in instance.platform.devices for core in device.cores} == set(range(4))
    assert instance.platform.slowdown(3) == pytest.approx(1.75)  # a quarter for each other core
    instance.costs.check(instance.graph, instance.platform)
    schedule = make_schedule("heft", instance.graph, instance.costs, instance.platform)
    assert 0.0 < (schedule.lower_bound_ms or 0.0) <= (schedule.makespan_ms or 0.0)


def test_measured_times_of_several_sizes_are_used() -> None:
    one = read_instance(cost_file("squeezenet1_1"))
    halves = {
        op.name: Measurement(0.6 * one.costs.latency_ms(op.name, "cpu/1"))
        for op in one.graph.operators
    }
    two = replace(one, costs=CostTable({"cpu/2": halves}))
    both = replace(one, costs=CostTable({**one.costs.latency, **two.costs.latency}))
    instance = on_cores(both, 2, "choice", MODEL)
    name = one.graph.operators[0].name
    assert instance.costs.latency_ms(name, "cpu/2") == halves[name].ms
    assert instance.costs.latency["cpu/2"][name].source == "measured"
    with pytest.raises(CostError, match="has no time on one core"):
        on_cores(two, 2, "choice", MODEL)


def test_a_choice_is_at_least_as_good_as_one_device() -> None:
    network = read_instance(cost_file("squeezenet1_1"))

    def makespan_ms(setup: str) -> float:
        made: Instance = on_cores(network, 4, setup, ScalingModel())
        schedule = make_schedule("hios-lp", made.graph, made.costs, made.platform)
        return schedule.makespan_ms or 0.0

    assert makespan_ms("choice") <= makespan_ms("one device") < makespan_ms("single cores")
