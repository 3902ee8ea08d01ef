"""Copies between devices: in whose memory a tensor is, who needs a copy, and who makes it.

An operator reads its inputs in the memory of its own device. Devices without memory of their own
(CPUs) read the model's inputs and weights where they are, in the host's memory; every other tensor
of another device is copied once for all its readers on a device. The copy of ``tensor`` for
``cuda:0`` is a buffer of its own, ``tensor@cuda:0``. An output of the model that is computed in a
device's own memory is copied to ``tensor@output``, which the caller gets. Weights are copied to
devices when an artifact is loaded, everything else in each run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from hios_tvm.errors import ScheduleError
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.program import COPY_STREAM


@dataclass(frozen=True)
class DeviceCopies:
    """The copies that `graph` needs when its operators run on the devices of `placement`.

    `own_memory` has the devices with memory of their own, and the kind of each.
    """

    graph: OperatorGraph
    placement: Mapping[str, str]
    own_memory: Mapping[str, str]

    @cached_property
    def weights(self) -> frozenset[str]:
        """The weights of the model."""
        return frozenset(self.graph.constants)

    def buffer(self, tensor: str, device: str) -> str:
        """Return the buffer in which operators of `device` read `tensor`: itself, or a copy."""
        owner = self._owner(tensor)
        in_reach = owner == device or (owner is None and device not in self.own_memory)
        return tensor if in_reach else f"{tensor}@{device}"

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
        """Return the device and stream that copy `tensor` for a reader on `stream` of `device`.

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
        return None if producer is None else self.placement[producer]
