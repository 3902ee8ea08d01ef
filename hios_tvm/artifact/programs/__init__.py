"""Programs: what each stream of each device executes, translated from an annotated module.

`partition` is the entry: kernels and buffers of each device. `device_copies` says which tensors are
copied between devices, `instruction_order` brings calls and copies into an order that all streams
keep, and `synchronization` writes the programs with their signals and waits.
"""

from hios_tvm.artifact.programs.partition import Partition, partition_by_device
from hios_tvm.artifact.programs.synchronization import programs_of

__all__ = ["Partition", "partition_by_device", "programs_of"]
