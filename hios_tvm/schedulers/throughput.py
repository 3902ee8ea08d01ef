"""Placements for many inputs: what they are, and how fast they are.

Each device works on another input, so that a result appears whenever the device with the most to
do is done. What a device has to do for one input is its *load*: its operators and its
transfers. The model is that of Tarnawski et al., Efficient Algorithms for Device Placement of DNN
Graph Operators (NeurIPS 2020), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hios_tvm.errors import ScheduleError, UsageError


@dataclass(frozen=True)
class ThroughputOperator:
    """An operator that many inputs go through.

    Attributes
    ----------
    name : str
    latency_ms : tuple of float
        Its time on each kind of device; infinite where it cannot run.
    transfer_ms : float
        Time to move its output from a device to the host, or from there to a device.
    memory_bytes : float
        What it takes of the memory of its device.
    colour : str, optional
        Operators of one colour lie on one device.
    """

    name: str
    latency_ms: tuple[float, ...]
    transfer_ms: float = 0.0
    memory_bytes: float = 0.0
    colour: str | None = None

    def __post_init__(self) -> None:
        numbers = (*self.latency_ms, self.transfer_ms, self.memory_bytes)
        if not all(number >= 0.0 for number in numbers) or math.isinf(self.transfer_ms):
            raise UsageError(
                f"operator {self.name!r}: times and bytes must not be negative, nor transfers "
                f"infinite, got {numbers}"
            )


@dataclass(frozen=True)
class ThroughputDevice:
    """A device; `kind` is the index of its times in `ThroughputOperator.latency_ms`.

    A device that `is_host` reads and writes the host's memory, and transfers nothing.
    """

    name: str
    kind: int = 0
    memory_bytes: float = math.inf
    is_host: bool = False


@dataclass(frozen=True)
class ThroughputProblem:
    """A graph and devices; `edges` are pairs (producer, consumer) of positions in `operators`.

    Raises
    ------
    UsageError
        If there is no device, an edge leads nowhere, or an operator lacks the time of a kind.
    """

    operators: tuple[ThroughputOperator, ...]
    edges: tuple[tuple[int, int], ...]
    devices: tuple[ThroughputDevice, ...]

    def __post_init__(self) -> None:
        if not self.devices:
            raise UsageError("a placement needs at least one device")
        kinds = 1 + max(device.kind for device in self.devices)
        for operator in self.operators:
            if len(operator.latency_ms) < kinds:
                raise UsageError(f"operator {operator.name!r} needs times for {kinds} devices")
        count = len(self.operators)
        for edge in self.edges:
            if not all(0 <= end < count for end in edge):
                raise UsageError(f"edge {edge} leads to none of the {count} operators")


@dataclass(frozen=True)
class Pipeline:
    """A placement for many inputs.

    Attributes
    ----------
    device_of : tuple of int
        The device of each operator.
    loads_ms : tuple of float
        What each device has to do for one input.
    lower_bound_ms : float
        No placement has an interval below it.
    """

    device_of: tuple[int, ...]
    loads_ms: tuple[float, ...]
    lower_bound_ms: float = 0.0

    @property
    def interval_ms(self) -> float:
        """Time from one result to the next."""
        return max(self.loads_ms, default=0.0)

    @property
    def gap(self) -> float:
        """How far the interval is above its lower bound, as a share of that."""
        bound = self.lower_bound_ms
        return self.interval_ms / bound - 1.0 if bound > 0.0 else 0.0


def device_loads_ms(problem: ThroughputProblem, device_of: Sequence[int]) -> tuple[float, ...]:
    """Return what each device has to do for one input.

    A device that is not the host's takes the output of an operator elsewhere once, however many of
    its operators read it, and gives away the output of each operator that others read, once.

    Raises
    ------
    ScheduleError
        If the placement breaks a rule: every operator on a device that can run it, colours
        together, and no more bytes on a device than it has.
    """
    _check(problem, device_of)
    loads = [0.0] * len(problem.devices)
    for operator, d in zip(problem.operators, device_of, strict=True):
        loads[d] += operator.latency_ms[problem.devices[d].kind]
    moves = {
        (u, d)
        for u, v in problem.edges
        if device_of[u] != device_of[v]
        for d in (device_of[u], device_of[v])
    }
    for u, d in sorted(moves):
        if not problem.devices[d].is_host:
            loads[d] += problem.operators[u].transfer_ms
    return tuple(loads)


def _check(problem: ThroughputProblem, device_of: Sequence[int]) -> None:
    if len(device_of) != len(problem.operators):
        raise ScheduleError(
            f"{len(device_of)} operators are placed, the graph has {len(problem.operators)}"
        )
    used = [0.0] * len(problem.devices)
    of_colour: dict[str, int] = {}
    for operator, d in zip(problem.operators, device_of, strict=True):
        if not 0 <= d < len(used):
            raise ScheduleError(f"operator {operator.name!r} is on device {d}, which is not there")
        device = problem.devices[d]
        if math.isinf(operator.latency_ms[device.kind]):
            raise ScheduleError(f"operator {operator.name!r} cannot run on {device.name}")
        used[d] += operator.memory_bytes
        if operator.colour is not None and of_colour.setdefault(operator.colour, d) != d:
            raise ScheduleError(
                f"operator {operator.name!r} is apart from others of colour {operator.colour!r}"
            )
    for device, nbytes in zip(problem.devices, used, strict=True):
        if nbytes > device.memory_bytes:
            raise ScheduleError(
                f"{device.name} has {device.memory_bytes:.0f} bytes for {nbytes:.0f}"
            )
