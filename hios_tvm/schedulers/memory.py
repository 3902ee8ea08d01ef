"""Whether the weights of operators fit on a device, while a scheduler places them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from hios_tvm.errors import InfeasibleError
from hios_tvm.schedulers.problem import PlacedStage, Problem


class Memory:
    """What the operators placed so far leave free on each device; a weight counts once on each."""

    def __init__(self, problem: Problem) -> None:
        graph, devices = problem.graph, problem.platform.devices
        self.limited = any(device.memory_bytes is not None for device in devices)
        reserve = graph.activation_bytes if self.limited else 0
        constants = set(graph.constants)
        self._free = [
            math.inf if device.memory_bytes is None else device.memory_bytes - reserve
            for device in devices
        ]
        self._readers: list[Counter[str]] = [Counter() for _ in devices]
        self._weights = [
            [tensor for tensor in set(op.inputs) if tensor in constants] for op in graph.operators
        ]
        self._nbytes = {name: graph.tensor[name].nbytes for name in graph.constants}
        self._names = [op.name for op in graph.operators]

    def fits(self, device: int, operators: Iterable[int]) -> bool:
        """Whether `operators` have room on `device`."""
        if not self.limited:
            return True
        read = {tensor for v in operators for tensor in self._weights[v]}
        new = sum(self._nbytes[tensor] for tensor in read if not self._readers[device][tensor])
        return new <= self._free[device]

    def take(self, device: int, operators: Iterable[int]) -> None:
        """Place `operators` on `device`."""
        if self.limited:
            for tensor in (tensor for v in operators for tensor in self._weights[v]):
                if not self._readers[device][tensor]:
                    self._free[device] -= self._nbytes[tensor]
                self._readers[device][tensor] += 1

    def release(self, device: int, operators: Iterable[int]) -> None:
        """Take `operators` off `device`."""
        if self.limited:
            for tensor in (tensor for v in operators for tensor in self._weights[v]):
                self._readers[device][tensor] -= 1
                if not self._readers[device][tensor]:
                    self._free[device] += self._nbytes[tensor]

    def copy(self) -> Memory:
        """Return an independent copy."""
        other = object.__new__(Memory)
        readers = [counter.copy() for counter in self._readers] if self.limited else self._readers
        other.__dict__.update(self.__dict__, _free=self._free[:], _readers=readers)
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
        """Return the error for an operator that fits on no device."""
        nbytes = sum(self._nbytes[tensor] for tensor in self._weights[v])
        return InfeasibleError(
            f"no device that can run operator {self._names[v]!r} has memory left for its "
            f"{nbytes} bytes of weights; give devices more memory, or add devices"
        )
