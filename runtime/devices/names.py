"""What the name of a device says: ``cpu@0-3`` is cores, ``cuda:0`` a GPU."""

from __future__ import annotations

import re
from typing import Literal

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cpu import parse_cores

__all__ = ["check_device", "device_kind", "gpu_index"]

_GPU = re.compile(r"cuda:(\d{1,3})")


def device_kind(name: str) -> Literal["cpu", "cuda"]:
    """Return what kind of device `name` is, whether or not it is well formed.

    >>> device_kind("cpu@0"), device_kind("cuda:1")
    ('cpu', 'cuda')
    """
    return "cuda" if name.startswith("cuda") else "cpu"


def gpu_index(name: str) -> int:
    """Return which GPU the device called `name` is.

    >>> gpu_index("cuda:1")
    1

    Raises
    ------
    DeviceError
        If `name` is not of that form.
    """
    match = _GPU.fullmatch(name)
    if match is None:
        raise DeviceError(f"{name!r} is no GPU: write cuda:0, cuda:1, ...")
    return int(match[1])


def check_device(name: str) -> None:
    """Raise `DeviceError` where `name` is no device."""
    if device_kind(name) == "cuda":
        gpu_index(name)
    else:
        parse_cores(name)
