"""Memory limits as a user writes them."""

from __future__ import annotations

import pytest

from hios_tvm.errors import UsageError
from hios_tvm.schema.memory_limits import parse_memory
from hios_tvm.schema.platform import Platform


@pytest.mark.parametrize(
    ("text", "name", "nbytes"),
    [
        ("cpu@0=512MiB", "cpu@0", 512 * 2**20),
        ("cpu@0-3 = 1.5GB", "cpu@0-3", 1_500_000_000),
        ("cuda:0=1TiB", "cuda:0", 2**40),
        ("cpu@0=1000B", "cpu@0", 1000),
        ("cpu@0=7KB", "cpu@0", 7000),
    ],
)
def test_limits_are_read(text: str, name: str, nbytes: int) -> None:
    assert parse_memory(text) == (name, nbytes)


@pytest.mark.parametrize(
    "text", ["", "cpu@0", "cpu@0=", "cpu@0=x", "cpu@0=1.2.3MB", "=5B", "a=-1B"]
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no memory limit; write for example"):
        parse_memory(text)


def test_a_size_without_a_unit_is_explained() -> None:
    with pytest.raises(UsageError, match="write cpu@0=512MiB, or cpu@0=512B for bytes"):
        parse_memory("cpu@0=512")


def test_limits_are_for_devices_that_exist() -> None:
    platform = Platform.uniform(2).with_memory({"device1": 5})
    assert [device.memory_bytes for device in platform.devices] == [None, 5]
    with pytest.raises(UsageError, match="limited for 'device2'; the devices are device0, device1"):
        platform.with_memory({"device2": 5})
