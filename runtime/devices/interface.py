"""What a kind of device is to the runtime: facts, and the functions that are written for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hios_tvm.errors import ArtifactError
from hios_tvm.runtime.execution_order import execution_order
from hios_tvm.runtime.memory import Arena, TensorTable
from hios_tvm.runtime.native import Library, load_library
from hios_tvm.runtime.tasks import Task
from hios_tvm.runtime.trace import Span
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.manifest import DeviceSpec, Manifest
from hios_tvm.schema.program import Program

if TYPE_CHECKING:
    from hios_tvm.runtime.read_artifact import Artifact

Times: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
"""When each instruction of a task began, then when the last one ended: nanoseconds."""


@dataclass(frozen=True)
class LoadRequest:
    """What a session wants of its devices.

    Attributes
    ----------
    artifact : Artifact
        Verified.
    names : artifact's device -> device
        All devices of the artifact, and those of this machine that are used for them.
    tensors : TensorTable
        Receives the addresses of buffers in the memory of devices. It has those of weights and
        arenas in the host's memory.
    arenas : device -> Arena
        The arenas in the host's memory.
    exclusive, gpu_trace, cuda_graph
        As in `hios_tvm.runtime.load`; a kind refuses what it cannot do.
    """

    artifact: Artifact
    names: Mapping[str, str]
    tensors: TensorTable
    arenas: Mapping[str, Arena]
    exclusive: bool
    gpu_trace: bool
    cuda_graph: bool | None

    def programs(self, kind: str) -> tuple[list[Program], list[tuple[int, int]]]:
        """Return the programs of devices of `kind`, and an order in which they can be executed.

        The order has each instruction by its program's number and its place there.
        """
        manifest = self.artifact.manifest
        own = {
            p: number
            for number, p in enumerate(
                p
                for p, program in enumerate(manifest.programs)
                if manifest.device[program.device].kind == kind
            )
        }
        order = [(own[p], i) for p, i in execution_order(manifest.programs) if p in own]
        return [manifest.programs[p] for p in own], order

    def library(self, device: str) -> Library:
        """Return the library of one of the artifact's devices."""
        entry = self.artifact.manifest.device[device].library
        if entry is None:
            raise ArtifactError(f"device {device!r} has work but no library")
        return load_library(self.artifact.libraries[entry])


@dataclass(frozen=True, kw_only=True)
class LoadedDevices:
    """All devices of one kind that a session uses.

    Attributes
    ----------
    tasks
        What each worker executes.
    spans : function
        From the `Times` of `tasks` and the end of the latest run to what ran when.
    close : function
        Gives everything back; where kernels are stuck (True) only what needs no wait for them.
    traced
        The artifact's devices that `spans` is about.
    staging : buffer -> array
        Host memory through which the devices read inputs and write outputs.
    """

    tasks: Sequence[Task]
    spans: Callable[[Sequence[Times], int], Iterable[Span]]
    close: Callable[[bool], None]
    traced: Sequence[str]
    staging: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DeviceKind:
    """One kind of device; `hios_tvm.runtime.devices.KINDS` holds all.

    Attributes
    ----------
    kind : str
        How names of devices begin: ``cpu`` of ``cpu@0``.
    first : str
        A name of a device, such as that one.
    own_memory : bool
        Whether each device has memory of its own, and itself copies between that and the host's,
        on `COPY_STREAM`. Otherwise its kernels read and write the host's memory.
    check_names : function
        Raises `DeviceError` where a name is malformed, `UsageError` where two names conflict.
    streams : function
        From a name to how many stream groups a stage on the device may have.
    check_code : function, optional
        Raises `ArtifactError` where code or calls of a device are not of this kind's form. CPUs and
        GPUs have none: their rules are in `runtime/checks/`.
    require : function
        Raises `DeviceError` where this machine lacks a device, or it cannot run the code.
    load : function
        Allocates memory on all devices of this kind, and makes the tasks of their workers. Raises
        `DeviceError` where a device is missing or used by others, `ArtifactError` where code does
        not fit.
    measure : function
        From an artifact and devices of this machine to the times of its kernels, with a platform;
        the last argument is called with the kernels done and the kernels in all.
    """

    kind: str
    first: str
    own_memory: bool
    check_names: Callable[[Sequence[str]], object]
    streams: Callable[[str], int]
    check_code: Callable[[DeviceSpec, Manifest], None] | None = None
    require: Callable[[DeviceSpec], object]
    load: Callable[[LoadRequest], LoadedDevices]
    measure: Callable[[Artifact, Sequence[str], Callable[[int, int], None]], CostTable]
