"""What the name of a device says: ``cpu@0-3`` is cores, ``cuda:0`` a GPU, ``cuda:0.1/2`` a half."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from hios_tvm.errors import DeviceError, UsageError

GPU_STREAMS = 4
"""Stream groups that a stage on one GPU has at most."""

MAX_CORES = 256
"""Of one device: parallel.h has the same number."""

_CPU = re.compile(r"cpu@(\d{1,4}(-\d{1,4})?)(\+\d{1,4}(-\d{1,4})?)*", re.ASCII)
_GPU = re.compile(r"cuda:(\d{1,3})(?:\.(\d{1,2})/(\d{1,2}))?", re.ASCII)
_PART = re.compile(r"(.+)\.\d{1,2}/\d{1,2}", re.ASCII)
_ALL_PARTS = re.compile(r"(cuda:\d{1,3})/(\d{1,2})", re.ASCII)


@dataclass(frozen=True)
class GpuPlace:
    """A GPU, or one of the `parts` that share its multiprocessors equally."""

    index: int
    part: int = 0
    parts: int = 1


def parse_cores(name: str) -> tuple[int, ...]:
    """Return the cores of the device called `name`, ascending.

    >>> parse_cores("cpu@0-2+8")
    (0, 1, 2, 8)

    Raises
    ------
    DeviceError
        If `name` is not of that form, or names a core twice.
    """
    if not _CPU.fullmatch(name):
        raise DeviceError(f"{name!r} is no CPU device: write cpu@0, cpu@0-3 or cpu@0-3+8-11")
    cores: list[int] = []
    for part in name.removeprefix("cpu@").split("+"):
        first, _, last = part.partition("-")
        cores.extend(range(int(first), int(last or first) + 1)[: MAX_CORES + 1])
    if not 0 < len(set(cores)) == len(cores) <= MAX_CORES:
        raise DeviceError(f"device {name!r} names no core, one twice, or more than {MAX_CORES}")
    return tuple(sorted(cores))


def cores_of(name: str) -> tuple[int, ...]:
    """Return the cores that the device called `name` occupies: none where it is no CPU.

    >>> cores_of("cpu@0-1"), cores_of("cuda:0")
    ((0, 1), ())
    """
    return parse_cores(name) if _CPU.fullmatch(name) else ()


def cpu_model_name(name: str) -> str:
    """Return what devices that run a kernel equally fast have in common.

    >>> cpu_model_name("cpu@0-3"), cpu_model_name("cpu@4-7")
    ('cpu/4', 'cpu/4')
    """
    return f"cpu/{len(parse_cores(name))}"


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


def cpu_divisions(name: str) -> tuple[str, ...]:
    """Return the device called `name`, its halves, quarters, and so on to its single cores.

    Parts are runs of the list of its cores, of sizes that differ by one at most.

    >>> cpu_divisions("cpu@0-3")
    ('cpu@0-3', 'cpu@0-1', 'cpu@2-3', 'cpu@0', 'cpu@1', 'cpu@2', 'cpu@3')
    >>> cpu_divisions("cpu@0-2")
    ('cpu@0-2', 'cpu@0', 'cpu@1-2', 'cpu@1', 'cpu@2')
    """
    cores = parse_cores(name)
    names: list[str] = []
    parts = 1
    while True:
        ends = [i * len(cores) // parts for i in range(parts + 1)]
        names += [cpu_device_name(cores[i:j]) for i, j in pairwise(ends)]
        if parts == len(cores):
            return tuple(dict.fromkeys(names))
        parts = min(2 * parts, len(cores))


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


def whole_device(name: str) -> str:
    """Return the device of which the one called `name` is a part: itself where it is whole.

    Parts of a device share its memory.

    >>> whole_device("cuda:0.1/2"), whole_device("cuda:0")
    ('cuda:0', 'cuda:0')
    """
    match = _PART.fullmatch(name)
    return name if match is None else match[1]


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


def parse_device_list(text: str) -> tuple[str, ...]:
    """Split ``cpu@0-3,cpu@4-7`` into its device names; ``cuda:0/2`` are both halves of a GPU.

    >>> parse_device_list("cpu@0, cpu@1")
    ('cpu@0', 'cpu@1')
    """
    names = split_devices(text)
    if not names:
        raise UsageError("no device is named; write for example --devices cpu@0,cpu@1")
    return names


def outermost(names: Iterable[str]) -> tuple[str, ...]:
    """Return the CPU devices that are not part of another one.

    >>> outermost(["cpu@0-1", "cpu@0", "cpu@1", "cpu@2"])
    ('cpu@0-1', 'cpu@2')
    """
    cores = {name: set(parse_cores(name)) for name in names}
    return tuple(
        name for name, own in cores.items() if not any(own < other for other in cores.values())
    )
