"""The schedule: for each device its stages, for each stage its stream groups."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hios_tvm.errors import ScheduleError

__all__ = ["DeviceSchedule", "Schedule", "Stage"]

SCHEDULE_VERSION = 1

StreamGroup = tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Operators that one device runs at the same time.

    Each stream group runs on a stream of its own, its operators one after another.
    """

    groups: tuple[StreamGroup, ...]

    @cached_property
    def operators(self) -> tuple[str, ...]:
        """All operators, group after group."""
        return tuple(name for group in self.groups for name in group)


@dataclass(frozen=True)
class DeviceSchedule:
    """The stages that the device called `device` runs, in order."""

    device: str
    stages: tuple[Stage, ...]

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

    def __iter__(self) -> Iterator[DeviceSchedule]:
        return iter(self.devices)

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the schedule as JSON; `from_json` restores an equal one."""
        return json.dumps(
            {
                "version": SCHEDULE_VERSION,
                "scheduler": self.scheduler,
                "options": dict(self.options),
                "makespan_ms": self.makespan_ms,
                "lower_bound_ms": self.lower_bound_ms,
                "devices": [
                    {"name": device.device, "stages": [stage.groups for stage in device.stages]}
                    for device in self.devices
                ],
            },
            indent=indent,
        )

    @staticmethod
    def from_json(text: str) -> Schedule:
        """Read what `to_json` wrote, or a person by hand; anything else is a `ScheduleError`."""
        try:
            data = json.loads(text)
            if data.get("version") != SCHEDULE_VERSION:
                raise ScheduleError(
                    f"schedule has version {data.get('version')!r}, this program reads version "
                    f"{SCHEDULE_VERSION}"
                )
            return Schedule(
                scheduler=str(data["scheduler"]),
                devices=tuple(
                    DeviceSchedule(
                        device=str(device["name"]),
                        stages=tuple(_stage(groups) for groups in device["stages"]),
                    )
                    for device in data["devices"]
                ),
                makespan_ms=data.get("makespan_ms"),
                lower_bound_ms=data.get("lower_bound_ms"),
                options=data.get("options", {}),
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ScheduleError(f"not a schedule: {error!r}") from error


def _stage(groups: Any) -> Stage:
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise ScheduleError(f"a stage is a list of lists of operator names, got {groups!r}")
    return Stage(tuple(tuple(str(name) for name in group) for group in groups))
