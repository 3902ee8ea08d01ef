"""A placement of a model's nodes, as ONNX files hold it, and the schedule that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeVar

from hios_tvm.errors import ScheduleError
from hios_tvm.schema.device_names import cores_of
from hios_tvm.schema.graph import Operator, OperatorGraph
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class NodePlacement:
    """Which device computes each node of a model.

    Attributes
    ----------
    configuration : str
        Its name in the model.
    devices : tuple of str
        The names of the devices there, whatever they mean; empty ones where the model has none.
    device_of : mapping of str to int
        Index of the device of each placed node, by the node's name in operator graphs.
    schedule : Schedule, optional
        Stages and streams, where the model has them too.
    """

    configuration: str
    devices: tuple[str, ...]
    device_of: Mapping[str, int]
    schedule: Schedule | None = None

    def __str__(self) -> str:
        """Write the devices for people."""
        return ", ".join(map(self.describe_device, range(len(self.devices))))

    def describe_device(self, index: int) -> str:
        """Write a device for people: its number, and its name where it has one."""
        name = self.devices[index]
        return f"device {index} ({name})" if name else f"device {index}"

    def schedule_on(self, graph: OperatorGraph, devices: Sequence[str]) -> Schedule:
        """Return a schedule of `graph` that places operators as their nodes are placed.

        An operator without a placed node runs where its first reader does. Stages and streams are
        those of the model, if they are of these operators and of this placement; otherwise each
        device runs its operators one after another, in the order of the graph.

        Parameters
        ----------
        graph : OperatorGraph
        devices : sequence of str
            One for each device of the placement.

        Raises
        ------
        ScheduleError
            If an operator computes nodes of several devices; the message names them.
        """
        if self.schedule is not None and self.is_of(self.schedule, graph):
            return _renamed(self.schedule, devices)
        placed = {operator.name: self._device(operator) for operator in graph.operators}
        readings = {operator.name: _producers(graph, operator) for operator in graph.operators}
        known = {name: device for name, device in placed.items() if device is not None}
        return self._one_after_another(spread(known, readings), devices)

    def is_of(self, schedule: Schedule, graph: OperatorGraph) -> bool:
        """Whether `schedule` has the operators of `graph`, and places them as nodes are placed."""
        is_complete = schedule.placement.keys() == graph.operator.keys()
        return (
            is_complete
            and len(schedule.devices) == len(self.devices)
            and all(
                self.device_of.get(node) == device
                for node, device in devices_of_nodes(graph, schedule).items()
                if node in self.device_of
            )
        )

    def _device(self, operator: Operator) -> int | None:
        """Return the device of an operator's placed nodes, if it has any."""
        placed = [node for node in operator.nodes if node in self.device_of]
        for node in placed[1:]:
            if self.device_of[node] != self.device_of[placed[0]]:
                first, other = (self.describe_device(self.device_of[n]) for n in (placed[0], node))
                raise ScheduleError(
                    f"one kernel computes node {placed[0]!r}, which the model's configuration "
                    f"{self.configuration!r} places on {first}, and node {node!r}, on {other}: "
                    "place them on one device"
                )
        return self.device_of[placed[0]] if placed else None

    def _one_after_another(self, device_of: Mapping[str, int], devices: Sequence[str]) -> Schedule:
        cores = map(set, map(cores_of, devices))
        shared = any(one & other for one, other in combinations(cores, 2))
        stages: list[list[Stage]] = [[] for _ in devices]
        for position, (operator, device) in enumerate(device_of.items()):
            stages[device].append(Stage(((operator,),), position if shared else None))
        own = map(DeviceSchedule, devices, map(tuple, stages))
        return Schedule(f"configuration {self.configuration}", tuple(own))


def devices_of_nodes(graph: OperatorGraph, schedule: Schedule) -> dict[str, int]:
    """Return the device of each node that an operator names, as an index of the schedule's devices.

    Of several operators that compute one node, the last has its result.
    """
    index = {own.device: i for i, own in enumerate(schedule)}
    return {
        node: index[schedule.placement[operator.name]]
        for operator in graph.operators
        for node in operator.nodes
    }


def spread(device_of: Mapping[T, int], readings: Mapping[T, Sequence[T]]) -> dict[T, int]:
    """Give a device to all of a graph: that of the first reader, or of what is read, or the first.

    >>> spread({"b": 1}, {"a": [], "b": ["a"], "c": ["b"], "d": []})
    {'a': 1, 'b': 1, 'c': 1, 'd': 0}

    Parameters
    ----------
    device_of : mapping
        The devices that are known.
    readings : mapping
        What each one reads, in topological order.
    """
    found = dict(device_of)
    first_reader: dict[T, T] = {}
    for reader, read in readings.items():
        for one in read:
            first_reader.setdefault(one, reader)
    for one in reversed(list(readings)):
        if one not in found and first_reader.get(one) in found:
            found[one] = found[first_reader[one]]
    for one, read in readings.items():
        if one not in found:
            found[one] = next((found[other] for other in read), 0)
    return {one: found[one] for one in readings}


def _producers(graph: OperatorGraph, operator: Operator) -> list[str]:
    return [graph.producer[tensor] for tensor in operator.inputs if tensor in graph.producer]


def _renamed(schedule: Schedule, devices: Sequence[str]) -> Schedule:
    """Return the schedule on other devices; what memory these have is not known."""
    own = (
        one if one.device == name else replace(one, device=name, memory=None)
        for one, name in zip(schedule, devices, strict=True)
    )
    return replace(schedule, devices=tuple(own))
