"""Whether the weights of operators fit on a device, while a scheduler places them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hios_tvm.errors import InfeasibleError
from hios_tvm.schedulers.problem import PlacedStage, Problem

__all__ = ["Memory"]


class Memory:
    """What the operators placed so far leave free on each device.

    Each operator counts with its own weights, so weights that several share count for each.
    """

    def __init__(self, problem: Problem) -> None:
        graph, devices = problem.graph, problem.platform.devices
        self.limited = any(device.memory_bytes is not None for device in devices)
        reserve = graph.activation_bytes if self.limited else 0
        self._free = [
            math.inf if device.memory_bytes is None else device.memory_bytes - reserve
            for device in devices
        ]
        self._need = [graph.weight_bytes([op.name]) for op in graph.operators]
        self._names = [op.name for op in graph.operators]

    def fits(self, device: int, operators: Iterable[int]) -> bool:
        """Whether `operators` have room on `device`."""
        return not self.limited or sum(self._need[v] for v in operators) <= self._free[device]

    def take(self, device: int, operators: Iterable[int]) -> None:
        """Place `operators` on `device`."""
        if self.limited:
            self._free[device] -= sum(self._need[v] for v in operators)

    def release(self, device: int, operators: Iterable[int]) -> None:
        """Take `operators` off `device`."""
        if self.limited:
            self._free[device] += sum(self._need[v] for v in operators)

    def copy(self) -> Memory:
        """Return one that goes on alone."""
        other = object.__new__(Memory)
        other.__dict__.update(self.__dict__, _free=self._free[:])
        return other

    def after(self, stages: Iterable[PlacedStage]) -> Memory:
        """Return what is left when `stages` are placed too."""
        if not self.limited:
            return self
        left = self.copy()
        for stage in stages:
            left.take(stage.device, stage.operators)
        return left

    def full(self, v: int) -> InfeasibleError:
        """Return the error for an operator that has room nowhere."""
        return InfeasibleError(
            f"no device that can run operator {self._names[v]!r} has memory left for its "
            f"{self._need[v]} bytes of weights; give devices more memory, or add devices"
        )
