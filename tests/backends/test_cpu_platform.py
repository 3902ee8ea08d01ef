"""This machine's CPU devices as a platform."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hios_tvm.backends.cache import CostCache
from hios_tvm.backends.cpu.platform import cpu_platform
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cpu.measure import Together, cpu_platform_of
from hios_tvm.schema.platform import Device, Link, Platform

CORES = sorted(os.sched_getaffinity(0))


def test_one_device_needs_no_measurement() -> None:
    platform = cpu_platform([f"cpu@{CORES[0]}"], host_target())
    name = f"cpu@{CORES[0]}"
    expected = Device(name, model="cpu/1", streams=1, cores=(CORES[0],), memory="host")
    assert platform.devices == (expected,)
    assert platform.independence == 1.0


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_two_devices_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"cpu@{core}" for core in CORES[:2]]
    cache = CostCache(tmp_path)
    first = cpu_platform(names, host_target(), cache=cache)
    assert 0.0 < first.independence <= 1.0
    # Reading in place takes at least a signal, at most what copying from memory would.
    assert 0.00001 < first.default_link.transfer_ms(1_000_000) < 1.0
    monkeypatch.setattr("hios_tvm.backends.cpu.platform.measure_together", None)
    assert cpu_platform(names, host_target(), cache=cache) == first


def test_given_measurements_make_a_platform_of_another_machine() -> None:
    measured = Platform.uniform(2, link=Link(0.01, 5.0), independence=0.7)
    platform = cpu_platform(["cpu@96-127", "cpu@0-3+8"], host_target(), measured=measured)
    assert [device.model for device in platform.devices] == ["cpu/32", "cpu/5"]
    assert platform.independence == 0.7
    assert platform.link("cpu@96-127", "cpu@0-3+8") == Link(0.01, 5.0)


def test_devices_may_share_cores() -> None:
    """Such devices need no stream groups; their memory is that of the whole."""
    measured = Platform.uniform(2, link=Link(0.01, 5.0), independence=0.7)
    platform = cpu_platform(["cpu@0-1", "cpu@0", "cpu@1"], host_target(), measured=measured)
    assert platform.shares_cores
    assert [(d.model, d.streams, d.cores, d.memory) for d in platform.devices] == [
        ("cpu/2", 1, (0, 1), "host"),
        ("cpu/1", 1, (0,), "host"),
        ("cpu/1", 1, (1,), "host"),
    ]


def test_devices_of_several_numa_nodes_have_several_memories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = {0: frozenset({0, 1}), 1: frozenset({2, 3})}
    monkeypatch.setattr("hios_tvm.runtime.devices.cpu.measure.numa_nodes", lambda: nodes)
    names = ["cpu@0-1", "cpu@2-3", "cpu@2"]
    platform = Together(Link(0.001, 100.0), Link(0.01, 5.0), 0.8).on(cpu_platform_of(names))
    assert [device.memory for device in platform.devices] == ["node0", "node1", "node1"]
    assert platform.link("cpu@2-3", "cpu@2") == Link(0.001, 100.0)
    assert platform.link("cpu@0-1", "cpu@2") == Link(0.01, 5.0)
    whole = cpu_platform_of(["cpu@0-3", "cpu@0", "cpu@3"])
    assert {device.memory for device in whole.devices} == {"host"}


def test_a_core_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceError, match="cpu@4000"):
        cpu_platform(["cpu@4000"], host_target())
