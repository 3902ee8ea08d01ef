"""Kernels with their arguments, as they are measured on every kind of device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hios_tvm.errors import ArtifactError
from hios_tvm.schema.dtypes import tensor_bytes
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.manifest import Manifest

Role = Literal["input", "weight", "output"]


@dataclass(frozen=True)
class KernelArg:
    """An argument of a kernel; those with the role ``weight`` are read from memory, not caches."""

    shape: tuple[int, ...]
    dtype: str
    role: Role = "input"

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class KernelCall:
    """A kernel and its arguments, inputs first; equal ones need to be measured only once."""

    kernel: str
    args: tuple[KernelArg, ...]


def kernel_call(graph: OperatorGraph, operator: str) -> KernelCall:
    """Return the call of `operator` as it is measured."""
    op = graph.operator[operator]
    constants = set(graph.constants)

    def arg(name: str, role: Role) -> KernelArg:
        tensor = graph.tensor[name]
        return KernelArg(tensor.shape, tensor.dtype, role)

    reads = [arg(name, "weight" if name in constants else "input") for name in op.inputs]
    return KernelCall(op.kernel, (*reads, *(arg(name, "output") for name in op.outputs)))


def kernel_calls(manifest: Manifest) -> Mapping[str, tuple[str, KernelCall]]:
    """Return the device and the kernel's call of each operator of an artifact.

    Raises
    ------
    ArtifactError
        If it has none, or no operator graph.
    """
    graph = manifest.graph
    if graph is None:
        raise ArtifactError("the artifact has no operator graph, which says what kernels read")
    calls = {
        step.operator: (device, kernel_call(graph, step.operator))
        for device, step in manifest.calls()
    }
    if not calls:
        raise ArtifactError("the artifact has no operators: there is nothing to measure")
    return calls
