"""Which rows of a timeline a device has: itself, or its cores where others use some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hios_tvm.schema.device_names import cores_of
from hios_tvm.schema.program import COPY_STREAM

Stream = tuple[str, int]
"""A device and one of its streams."""


def units_of(devices: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return what each device occupies: itself, or each of its cores if it shares one.

    >>> units_of(["cpu@0-1", "cpu@1", "cpu@2-3"])
    {'cpu@0-1': ('core 0', 'core 1'), 'cpu@1': ('core 1',), 'cpu@2-3': ('cpu@2-3',)}
    """
    cores = {name: cores_of(name) for name in devices}
    users: dict[int, int] = {}
    for own in cores.values():
        for core in own:
            users[core] = users.get(core, 0) + 1
    return {
        name: tuple(f"core {core}" for core in own)
        if any(users[core] > 1 for core in own)
        else (name,)
        for name, own in cores.items()
    }


def users_of(devices: Iterable[str]) -> dict[str, list[str]]:
    """Return the units of `units_of`, cores last and ascending, each with the devices on it."""
    users: dict[str, list[str]] = {}
    for name, units in units_of(devices).items():
        for unit in units:
            users.setdefault(unit, []).append(name)
    cores = [unit for unit in users if unit not in users[unit]]
    order = [unit for unit in users if unit not in cores]
    return {unit: users[unit] for unit in order + sorted(cores, key=lambda unit: int(unit[5:]))}


def rows_of(streams: Sequence[Stream]) -> tuple[list[str], Mapping[Stream, tuple[int, ...]]]:
    """Return the labels of the rows from top to bottom, and the rows of each stream, ascending.

    >>> rows_of([("cpu@0-1", 0), ("cpu@0", 0), ("cpu@1", 0)])
    (['core 0', 'core 1'], {('cpu@0-1', 0): (0, 1), ('cpu@0', 0): (0,), ('cpu@1', 0): (1,)})
    """
    units = units_of(dict.fromkeys(device for device, _ in streams))
    ordered = [
        (unit, number)
        for unit, devices in users_of(units).items()
        for number in sorted({n for device, n in streams if device in devices})
    ]
    index = {row: i for i, row in enumerate(ordered)}
    labels = [_label(unit, number) for unit, number in ordered]
    rows = {
        (device, number): tuple(sorted(index[unit, number] for unit in units[device]))
        for device, number in streams
    }
    return labels, rows


def _label(unit: str, stream: int) -> str:
    if stream == 0:
        return unit
    return f"{unit} copies" if stream == COPY_STREAM else f"{unit} stream {stream}"
