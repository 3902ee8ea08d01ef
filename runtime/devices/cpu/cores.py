"""The cores of this machine: which a process may use, what they can do, threads on them."""

import os
import platform
from contextlib import suppress
from pathlib import Path

from hios_tvm.errors import DeviceError
from hios_tvm.schema.device_names import cpu_device_name, parse_cores


def allowed_cores() -> frozenset[int]:
    """Return the cores that this process may use (affinity masks and cpusets included)."""
    return frozenset(os.sched_getaffinity(0))


def default_devices() -> tuple[str, ...]:
    """Return all cores that this process may use, as one device."""
    return (cpu_device_name(allowed_cores()),)


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


def numa_nodes() -> dict[int, frozenset[int]]:
    """Return the cores of each NUMA node of this machine; nothing where the system does not say."""
    nodes = {}
    for path in Path("/sys/devices/system/node").glob("node[0-9]*/cpulist"):
        with suppress(OSError, DeviceError):
            cores = path.read_text(encoding="ascii").strip().replace(",", "+")
            nodes[int(path.parent.name.removeprefix("node"))] = frozenset(
                parse_cores(f"cpu@{cores}")
            )
    return nodes


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
