"""Copies between devices: in whose memory a tensor is, who needs a copy, and who makes it.

An operator reads its inputs in the memory of its own device. CPUs share the memory of the host, or
that of a NUMA node, and parts of a GPU share that of the GPU: they hand tensors over by reference.
CPUs read the model's inputs and weights where they are. A tensor in another memory is copied once
for all its readers there. The copy of ``tensor`` for ``cuda:0`` is a buffer of its own,
``tensor@cuda:0``; that for parts of a GPU is named after the first part that has work. An output of
the model that is computed in a device's own memory is copied to ``tensor@output``, which the caller
gets. Weights are copied to devices when an artifact is loaded, everything else in each run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from hios_tvm.errors import ScheduleError
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.program import COPY_STREAM
from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True)
class DeviceCopies:
    """The copies that `graph` needs when its operators run as `schedule` says.

    `own_memory` has the devices with memory of their own, and the kind of each.
    """

    graph: OperatorGraph
    schedule: Schedule
    own_memory: Mapping[str, str]

    @cached_property
    def memory(self) -> Mapping[str, str]:
        """The memory of each device."""
        return self.schedule.memories(self.own_memory)

    @cached_property
    def weights(self) -> frozenset[str]:
        """The weights of the model."""
        return frozenset(self.graph.constants)

    def buffer(self, tensor: str, device: str) -> str:
        """Return the buffer in which operators of `device` read `tensor`: itself, or a copy."""
        owner = self._owner(tensor)
        if owner is None:
            in_reach = device not in self.own_memory
        else:
            in_reach = self.memory[owner] == self.memory[device]
        if in_reach:
            return tensor
        # Within the host's memory a reader copies for itself: waiting for others could be a cycle
        for_all = not self.own_memory.keys().isdisjoint((owner, device))
        return f"{tensor}@{self.arena(device) if for_all else device}"

    def arena(self, device: str) -> str:
        """Return the device in whose arena `device` has its buffers: the first busy one there."""
        busy = (own.device for own in self.schedule if own.stages)
        return next(name for name in busy if self.memory[name] == self.memory[device])

    def output_buffer(self, tensor: str) -> str:
        """Return the buffer of an output of the model: in the host's memory."""
        return f"{tensor}@output" if self._owner(tensor) in self.own_memory else tensor

    def copied_outputs(self, operator: str) -> tuple[str, ...]:
        """Return the outputs of the model that `operator` computes in its device's own memory."""
        return tuple(
            tensor
            for tensor in dict.fromkeys(self.graph.outputs)
            if self.graph.producer.get(tensor) == operator and self.output_buffer(tensor) != tensor
        )

    def copying_stream(self, tensor: str, device: str, stream: int) -> tuple[str, int]:
        """Return the device and stream that copy `tensor` for a first reader on `device`.

        A device makes all copies from and to its own memory, on `COPY_STREAM`, so that they overlap
        with its kernels. Within the host's memory the reader copies, right before its first use.

        Raises
        ------
        ScheduleError
            If two kinds of devices would have to reach each other's memory.
        """
        owner = self._owner(tensor) or ""
        kinds = {self.own_memory[name] for name in (owner, device) if name in self.own_memory}
        if len(kinds) > 1:
            raise ScheduleError(
                f"tensor {tensor!r} cannot be copied from {owner!r} to {device!r}, two kinds of "
                "devices with memory of their own: place an operator on a CPU between them"
            )
        if device in self.own_memory:
            return device, COPY_STREAM
        return (owner, COPY_STREAM) if kinds else (device, stream)

    def _owner(self, tensor: str) -> str | None:
        """Return the device that computes `tensor`; None for inputs and weights."""
        producer = self.graph.producer.get(tensor)
        return None if producer is None else self.schedule.placement[producer]
