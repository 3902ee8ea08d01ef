"""Kinds of devices: a folder for each, with one `interface.DeviceKind`."""

from collections.abc import Iterable

from hios_tvm.errors import DeviceError, UsageError
from hios_tvm.runtime.devices.cpu.kind import CPU
from hios_tvm.runtime.devices.cuda.kind import CUDA
from hios_tvm.runtime.devices.interface import DeviceKind

KINDS: dict[str, DeviceKind] = {kind.kind: kind for kind in (CPU, CUDA)}
"""What the runtime knows of each kind of device."""

HOST = CPU.kind
"""The kind of device that the host's cores are."""


def kind_of(device: str) -> DeviceKind:
    """Return the kind of the device called `device`, which may be malformed behind its kind.

    Raises
    ------
    DeviceError
        If there is no such kind.
    """
    for name, kind in KINDS.items():
        if device.startswith(name):
            return kind
    examples = " or ".join(kind.first for kind in KINDS.values())
    raise DeviceError(f"device {device!r} is unknown: write for example {examples}")


def of_kind(kind: str, devices: Iterable[str]) -> tuple[str, ...]:
    """Return those of `devices` that are of `kind`."""
    return tuple(device for device in devices if kind_of(device).kind == kind)


def check_devices(devices: Iterable[str]) -> None:
    """Raise `DeviceError` where a name is no device, `UsageError` where two names conflict."""
    names = tuple(devices)
    if len(set(names)) != len(names):
        raise UsageError(f"devices are named twice in {', '.join(names)}")
    for kind in dict.fromkeys(kind_of(name).kind for name in names):
        KINDS[kind].check_names(of_kind(kind, names))
