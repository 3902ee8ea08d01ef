"""What the machine is, in the words of a benchmark's reader."""

import hashlib
import os
import platform as _platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Machine:
    """One line for every report; `cores` counts what this process may use."""

    cpu: str
    cores: int
    memory_gib: float
    governor: str
    system: str
    python: str

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB, governor {self.governor}, "
            f"{self.system}, Python {self.python}"
        )

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@cache
def describe_machine() -> Machine:
    """Look at the machine that runs this process."""
    return Machine(
        cpu=_cpu_field("model name") or _platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        governor=_governor(),
        system=f"{_platform.system()} {_platform.release()}",
        python=_platform.python_version(),
    )


def device_fingerprint() -> str:
    """Digest of what the speed of a CPU device depends on, apart from its number of cores."""
    words = [_platform.machine(), _cpu_field("model name"), _cpu_field("flags"), _governor()]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


@cache
def _cpu_field(name: str) -> str:
    """First value of a field of /proc/cpuinfo; empty where the system has none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return ""


@cache
def _governor() -> str:
    try:
        path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
        return path.read_text().strip()
    except OSError:
        return "unknown"
