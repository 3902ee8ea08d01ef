"""Devices, the links between them, and the platform that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations

from hios_tvm.errors import UsageError


@dataclass(frozen=True)
class Device:
    """A device that runs kernels in order on each of its streams.

    Attributes
    ----------
    name : str
        As the user writes it: ``cpu@0-3``, ``cuda:0``.
    model : str
        Devices of one model run a kernel equally fast; costs are kept per model.
    streams : int
        How many stream groups a stage may have.
    memory_bytes : int or None
        What weights and buffers may take; None means no limit.
    cores : tuple of int
        What it occupies while it runs: two devices that share a core never run at the same time.
        A device without cores (a GPU) shares nothing.
    memory : str or None
        Devices of one memory hand tensors over by reference; None means a memory of its own.
    """

    name: str
    model: str = "device"
    streams: int = 2
    memory_bytes: int | None = None
    cores: tuple[int, ...] = field(default=(), metadata={"optional": True})
    memory: str | None = field(default=None, metadata={"optional": True})

    @property
    def width(self) -> int:
        """How many units it occupies: its cores, or itself where it has none."""
        return len(self.cores) or 1


@dataclass(frozen=True)
class Link:
    """A copy of n bytes takes ``latency_ms + n / bandwidth`` (GB/s = 1e6 bytes per ms)."""

    latency_ms: float
    bandwidth_gb_s: float

    def transfer_ms(self, nbytes: int) -> float:
        """Milliseconds to copy `nbytes` over this link."""
        return self.latency_ms + nbytes / (self.bandwidth_gb_s * 1e6)


UNLIMITED = Link(latency_ms=0.0, bandwidth_gb_s=float("inf"))
"""A link over which copies take no time."""


@dataclass(frozen=True)
class Platform:
    """Devices in order, one link for each ordered pair, and how independent they are.

    A *unit* is a core, or a device without cores. `independence` is the speed of a device of one
    unit while all units are busy, relative to its speed alone: 1.0 means that devices do not
    disturb each other, one over the number of units that together they do no more than one.
    `links` maps ``(source, destination)`` names; a missing pair uses `default_link`.
    """

    devices: tuple[Device, ...]
    links: tuple[tuple[str, str, Link], ...] = ()
    default_link: Link = UNLIMITED
    independence: float = 1.0

    def __post_init__(self) -> None:
        names = [device.name for device in self.devices]
        if not names:
            raise UsageError("a platform needs at least one device")
        if len(set(names)) != len(names):
            raise UsageError(f"devices are named twice in {', '.join(names)}")
        for device in self.devices:
            if len(set(device.cores)) != len(device.cores):
                raise UsageError(f"device {device.name!r} has a core twice: {device.cores}")
        if not 0.0 < self.independence <= 1.0:
            raise UsageError(f"independence must be in (0, 1], got {self.independence}")

    @staticmethod
    def uniform(
        count: int, *, streams: int = 2, link: Link | None = None, independence: float = 1.0
    ) -> Platform:
        """Return `count` equal devices called ``device0``, ``device1``, ..."""
        devices = tuple(Device(f"device{i}", streams=streams) for i in range(count))
        return Platform(devices, default_link=link or UNLIMITED, independence=independence)

    @cached_property
    def _link_of(self) -> dict[tuple[str, str], Link]:
        return {(src, dst): link for src, dst, link in self.links}

    def link(self, src: str, dst: str) -> Link:
        """Link from device `src` to device `dst`."""
        return self._link_of.get((src, dst), self.default_link)

    def with_memory(self, limits: Mapping[str, int]) -> Platform:
        """Return the platform with what weights and activations may take on some devices."""
        unknown = sorted(limits.keys() - {device.name for device in self.devices})
        if unknown:
            names = ", ".join(device.name for device in self.devices)
            raise UsageError(f"memory is limited for {unknown[0]!r}; the devices are {names}")
        return replace(
            self,
            devices=tuple(
                replace(device, memory_bytes=limits.get(device.name, device.memory_bytes))
                for device in self.devices
            ),
        )

    def with_references(self, reference: Link) -> Platform:
        """Return the platform with `reference` between devices of one memory."""
        links = tuple((a, b, reference) for a, b in self._sharing)
        return replace(self, links=links)

    @property
    def reference(self) -> Link | None:
        """What `links` has between devices of one memory, if anything."""
        return next((self.link(a, b) for a, b in self._sharing if (a, b) in self._link_of), None)

    @property
    def _sharing(self) -> list[tuple[str, str]]:
        """All ordered pairs of devices of one memory."""
        return [
            (a.name, b.name)
            for a, b in permutations(self.devices, 2)
            if a.memory is not None and a.memory == b.memory
        ]

    @cached_property
    def units(self) -> tuple[tuple[int, ...], ...]:
        """Numbers from 0 of the units that each device occupies: its cores, or itself."""
        number: dict[int | str, int] = {}
        return tuple(
            tuple(number.setdefault(unit, len(number)) for unit in device.cores or (device.name,))
            for device in self.devices
        )

    @cached_property
    def unit_count(self) -> int:
        """How many units there are: no more can be busy at once."""
        return 1 + max(unit for units in self.units for unit in units)

    @cached_property
    def shares_cores(self) -> bool:
        """Whether any core belongs to several devices, so that stages need positions."""
        return sum(map(len, self.units)) > self.unit_count

    def slowdown(self, others: int) -> float:
        """How much longer a stage takes while `others` units of other devices are busy.

        The one measured number, `independence` with all n units busy, fixes the model
        ``1 + others * c``. A stage on all cores is never slowed down: its time was measured so.
        """
        if others <= 0:
            return 1.0
        return 1.0 + others * (1.0 / self.independence - 1.0) / (self.unit_count - 1)
