"""What the name of a device says: ``cpu@0-3`` is cores, ``cuda:0`` a GPU, ``cuda:0.1/2`` a half."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cpu import parse_cores

__all__ = [
    "GPU_STREAMS",
    "GpuPlace",
    "check_device",
    "device_kind",
    "gpu_model_name",
    "gpu_place",
    "of_kind",
    "split_devices",
]

GPU_STREAMS = 4
"""Stream groups that a stage on one GPU has at most."""

_GPU = re.compile(r"cuda:(\d{1,3})(?:\.(\d{1,2})/(\d{1,2}))?")
_ALL_PARTS = re.compile(r"(cuda:\d{1,3})/(\d{1,2})")


@dataclass(frozen=True)
class GpuPlace:
    """A GPU, or one of the `parts` that share its multiprocessors equally."""

    index: int
    part: int = 0
    parts: int = 1


def device_kind(name: str) -> Literal["cpu", "cuda"]:
    """Return what kind of device `name` is, whether or not it is well formed.

    >>> device_kind("cpu@0"), device_kind("cuda:1")
    ('cpu', 'cuda')
    """
    return "cuda" if name.startswith("cuda") else "cpu"


def of_kind(kind: Literal["cpu", "cuda"], names: Iterable[str]) -> tuple[str, ...]:
    """Return those of `names` that are devices of `kind`."""
    return tuple(name for name in names if device_kind(name) == kind)


def gpu_place(name: str) -> GpuPlace:
    """Return which GPU, or which part of one, the device called `name` is.

    >>> gpu_place("cuda:1"), gpu_place("cuda:0.1/2")
    (GpuPlace(index=1, part=0, parts=1), GpuPlace(index=0, part=1, parts=2))

    Raises
    ------
    DeviceError
        If `name` is not of that form.
    """
    match = _GPU.fullmatch(name)
    place = (
        None if match is None else GpuPlace(int(match[1]), int(match[2] or 0), int(match[3] or 1))
    )
    if place is None or place.part >= place.parts:
        raise DeviceError(
            f"{name!r} is no GPU: write cuda:0, cuda:1, ..., or cuda:0.1/2 for a half"
        )
    return place


def gpu_model_name(arch: str, parts: int = 1) -> str:
    """Return what GPUs, or parts of them, that run a kernel equally fast have in common.

    >>> gpu_model_name("sm_90"), gpu_model_name("sm_90", 2)
    ('cuda/sm_90', 'cuda/sm_90/2')
    """
    return f"cuda/{arch}" if parts == 1 else f"cuda/{arch}/{parts}"


def split_devices(text: str) -> tuple[str, ...]:
    """Return the devices that `text` names, commas between them.

    >>> split_devices("cpu@0, cuda:0/2")
    ('cpu@0', 'cuda:0.0/2', 'cuda:0.1/2')
    """
    names: list[str] = []
    for name in filter(None, map(str.strip, text.split(","))):
        parts = _ALL_PARTS.fullmatch(name)
        count = 0 if parts is None else int(parts[2])
        names += [f"{parts[1]}.{i}/{count}" for i in range(count)] if parts else [name]
    return tuple(names)


def check_device(name: str) -> None:
    """Raise `DeviceError` where `name` is no device."""
    if device_kind(name) == "cuda":
        gpu_place(name)
    else:
        parse_cores(name)
