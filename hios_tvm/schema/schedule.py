"""The schedule: for each device its stages, for each stage its stream groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from hios_tvm.errors import ScheduleError
from hios_tvm.schema.device_names import whole_device
from hios_tvm.schema.strict_json import Document

StreamGroup = tuple[str, ...]

HOST_MEMORY = "host"
"""The memory of CPUs that nothing else is said about."""


@dataclass(frozen=True)
class Stage:
    """Operators that one device runs at the same time.

    Each stream group runs on a stream of its own, its operators one after another. Where devices
    share cores, `position` orders their stages: of two stages whose devices share a core, the one
    with the smaller position runs first.
    """

    groups: tuple[StreamGroup, ...]
    position: int | None = field(default=None, metadata={"optional": True})

    @cached_property
    def operators(self) -> tuple[str, ...]:
        """All operators, group after group."""
        return tuple(name for group in self.groups for name in group)


@dataclass(frozen=True)
class DeviceSchedule:
    """The stages that the device called `device` runs, in order.

    Devices of one `memory` hand tensors over by reference. None is the memory of the host for
    CPUs, and that of the whole GPU for GPUs and parts of them.
    """

    device: str = field(metadata={"json": "name"})
    stages: tuple[Stage, ...]
    memory: str | None = field(default=None, metadata={"optional": True})

    @cached_property
    def operators(self) -> tuple[str, ...]:
        """All operators in the order of their stages."""
        return tuple(name for stage in self.stages for name in stage.operators)


@dataclass(frozen=True)
class Schedule:
    """Placement and stages of every operator, as a scheduler made them.

    `makespan_ms` is the evaluator's prediction, `lower_bound_ms` what no schedule can beat;
    both are None in a schedule that nobody has evaluated yet.
    """

    scheduler: str
    devices: tuple[DeviceSchedule, ...]
    makespan_ms: float | None = None
    lower_bound_ms: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def placement(self) -> Mapping[str, str]:
        """Device of each operator."""
        return {name: device.device for device in self.devices for name in device.operators}

    def memories(self, own_memory: Collection[str] = ()) -> dict[str, str]:
        """Return the memory of each device; those in `own_memory` have one of their own.

        Which they share with the other parts of the same device.
        """
        return {
            device.device: whole_device(device.device)
            if device.device in own_memory
            else device.memory or HOST_MEMORY
            for device in self.devices
        }

    def over(self, devices: Sequence[str]) -> Schedule:
        """Return it for all of `devices`, in their order, and without a prediction.

        Raises
        ------
        ScheduleError
            If it uses another device.
        """
        own = {device.device: device for device in self}
        unknown = sorted(own.keys() - set(devices))
        if unknown:
            raise ScheduleError(
                f"the schedule uses {unknown[0]!r}, and the devices are {', '.join(devices)}: name "
                "all of its devices"
            )
        complete = tuple(own.get(name, DeviceSchedule(name, ())) for name in devices)
        return replace(self, devices=complete, makespan_ms=None, lower_bound_ms=None)

    def without_idle_parts(self, devices: Collection[str]) -> Schedule:
        """Return it without the devices that have no stages and are not among `devices`."""
        kept = tuple(own for own in self.devices if own.stages or own.device in devices)
        return replace(self, devices=kept)

    def __iter__(self) -> Iterator[DeviceSchedule]:
        return iter(self.devices)

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the schedule as JSON; `from_json` restores an equal one."""
        return _FILE.to_json(self, indent=indent)

    @staticmethod
    def from_json(text: str | bytes) -> Schedule:
        """Read what `to_json` wrote, or a person by hand; anything else is a `ScheduleError`."""
        return _FILE.from_json(text)


def one_after_another(operators: Iterable[str], device: str) -> Schedule:
    """Return the schedule that runs the operators in this order on one device."""
    stages = tuple(Stage(((operator,),)) for operator in operators)
    return Schedule("sequential", (DeviceSchedule(device, stages),))


_FILE = Document("schedule", 1, Schedule, ScheduleError, "make it again with hios-tvm schedule -o")
