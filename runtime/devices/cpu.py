"""CPU devices: sets of cores, written ``cpu@0``, ``cpu@0-3`` or ``cpu@0-3+8-11``."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from hios_tvm.errors import DeviceError

__all__ = [
    "allowed_cores",
    "available_features",
    "cpu_device_name",
    "device_model",
    "parse_cores",
    "pin_thread",
    "require_cores",
    "share_cores",
]

MAX_CORES = 256
"""Of one device: parallel.h has the same number."""

_NAME = re.compile(r"cpu@(\d{1,4}(-\d{1,4})?)(\+\d{1,4}(-\d{1,4})?)*")


def parse_cores(name: str) -> tuple[int, ...]:
    """Return the cores of the device called `name`, ascending.

    >>> parse_cores("cpu@0-2+8")
    (0, 1, 2, 8)

    Raises
    ------
    DeviceError
        If `name` is not of that form, or names a core twice.
    """
    if not _NAME.fullmatch(name):
        raise DeviceError(f"{name!r} is no CPU device: write cpu@0, cpu@0-3 or cpu@0-3+8-11")
    cores: list[int] = []
    for part in name.removeprefix("cpu@").split("+"):
        first, _, last = part.partition("-")
        cores.extend(range(int(first), int(last or first) + 1))
    if not 0 < len(set(cores)) == len(cores) <= MAX_CORES:
        raise DeviceError(f"device {name!r} names no core, one twice, or more than {MAX_CORES}")
    return tuple(sorted(cores))


def device_model(name: str) -> str:
    """Return what devices that run a kernel equally fast have in common.

    >>> device_model("cpu@0-3"), device_model("cpu@4-7")
    ('cpu/4', 'cpu/4')
    """
    return f"cpu/{len(parse_cores(name))}"


def allowed_cores() -> frozenset[int]:
    """Return the cores that this process may use (affinity masks and cpusets included)."""
    return frozenset(os.sched_getaffinity(0))


def require_cores(name: str) -> tuple[int, ...]:
    """Return the cores of device `name`, or a `DeviceError` if this process may not use them."""
    cores, allowed = parse_cores(name), allowed_cores()
    missing = [core for core in cores if core not in allowed]
    if missing:
        raise DeviceError(
            f"device {name!r} needs core {missing[0]}, but this process may only use "
            f"{cpu_device_name(allowed)}; map the artifact's devices to others with devices="
        )
    return cores


def share_cores(cores: tuple[int, ...], streams: int) -> tuple[tuple[int, ...], ...]:
    """Return the cores of streams 1 to `streams`: equal shares, as far as there are cores.

    >>> share_cores((0, 1, 2, 3), 2)
    ((0, 1), (2, 3))
    >>> share_cores((0,), 2)
    ((0,), (0,))
    """
    each = max(1, len(cores) // streams)
    return tuple(
        tuple(cores[(i * each + k) % len(cores)] for k in range(each)) for i in range(streams)
    )


def pin_thread(core: int) -> None:
    """Keep the calling thread on `core`; an `OSError` if the system refuses."""
    os.sched_setaffinity(0, (core,))


def available_features() -> frozenset[str] | None:
    """Return this machine's CPU features, in the words of /proc/cpuinfo; None if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    key = "flags" if platform.machine() in ("x86_64", "AMD64") else "Features"
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return frozenset(value.split())
    return None


def cpu_device_name(cores: Iterable[int]) -> str:
    """Return the name of the device with these cores.

    >>> cpu_device_name([0, 1, 2, 8])
    'cpu@0-2+8'
    """
    groups: list[list[int]] = []
    for core in sorted(cores):
        if groups and core == groups[-1][-1] + 1:
            groups[-1].append(core)
        else:
            groups.append([core])
    parts = [str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups]
    return "cpu@" + "+".join(parts)
