"""This machine's CPU devices as a platform."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hios_tvm.backends.cache import CostCache
from hios_tvm.backends.cpu.platform import cpu_platform
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.errors import DeviceError, UsageError
from hios_tvm.schema.platform import Device, Link, Platform

CORES = sorted(os.sched_getaffinity(0))


def test_one_device_needs_no_measurement() -> None:
    platform = cpu_platform([f"cpu@{CORES[0]}"], host_target())
    assert platform.devices == (Device(f"cpu@{CORES[0]}", model="cpu/1", streams=1),)
    assert platform.independence == 1.0


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_two_devices_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"cpu@{core}" for core in CORES[:2]]
    cache = CostCache(tmp_path)
    first = cpu_platform(names, host_target(), cache=cache)
    assert 0.0 < first.independence <= 1.0
    # A copy of 1 MB takes at least what the fastest memory takes, at most what a disk would.
    assert 0.001 < first.default_link.transfer_ms(1_000_000) < 10.0
    monkeypatch.setattr("hios_tvm.backends.cpu.platform.measure_together", None)
    assert cpu_platform(names, host_target(), cache=cache) == first


def test_given_measurements_make_a_platform_of_another_machine() -> None:
    measured = Platform.uniform(2, link=Link(0.01, 5.0), independence=0.7)
    platform = cpu_platform(["cpu@96-127", "cpu@0-3+8"], host_target(), measured=measured)
    assert [device.model for device in platform.devices] == ["cpu/32", "cpu/5"]
    assert platform.independence == 0.7
    assert platform.link("cpu@96-127", "cpu@0-3+8") == Link(0.01, 5.0)


def test_a_core_belongs_to_one_device() -> None:
    with pytest.raises(UsageError, match="core 1 belongs to cpu@0-1 and to cpu@1"):
        cpu_platform(["cpu@0-1", "cpu@1"], host_target())


def test_a_core_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceError, match="cpu@4000"):
        cpu_platform(["cpu@4000"], host_target())
