"""The GPUs of a session: their memory, the pinned memory for their copies, and their tasks."""

import ctypes
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.runtime.devices.cuda import CudaDriver, Gpu, split_gpu
from hios_tvm.runtime.gpu.feed_streams import GpuTask
from hios_tvm.runtime.gpu.issue_order import issue_order
from hios_tvm.runtime.gpu.trace import GpuTrace
from hios_tvm.runtime.memory import Arena, TensorTable
from hios_tvm.runtime.native import load_library
from hios_tvm.runtime.read_artifact import Artifact
from hios_tvm.schema.device_names import GpuPlace, gpu_place
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.program import Copy, Signal

Array = np.ndarray[Any, Any]


class SessionGpus:
    """The GPUs that an artifact uses, with arenas and weights in their memory.

    Inputs that they read and outputs that they write pass through pinned memory of the host,
    `staging` by buffer, so that copies overlap with kernels.

    Parameters
    ----------
    artifact : Artifact
        Verified.
    names : artifact's device -> device
    tensors : TensorTable
        Receives the addresses of all buffers on GPUs, and of those in `staging`.
    arenas : device -> Arena
        Of the CPUs; those that GPUs copy from or to are pinned.
    driver : CudaDriver

    Raises
    ------
    DeviceError
        If a GPU is missing, or lacks memory.
    ArtifactError
        If the code does not run on a GPU.
    """

    def __init__(
        self,
        artifact: Artifact,
        names: Mapping[str, str],
        tensors: TensorTable,
        arenas: Mapping[str, Arena],
        driver: CudaDriver,
    ) -> None:
        self._artifact = artifact
        self._names = names
        self._driver = driver
        self._gpus: dict[str, Gpu] = {}
        self._shares: dict[tuple[int, int], list[ctypes.Structure]] = {}
        self.staging: dict[str, Array] = {}
        try:
            for device in artifact.manifest.devices:
                if device.kind == "cuda" and device.device_code is not None:
                    code = artifact.libraries[device.device_code]
                    place = gpu_place(names[device.name])
                    self._gpus[device.name] = Gpu(driver, place.index, code, self._share(place))
            for gpu in self._gpus.values():
                for other in self._gpus.values():
                    if other.index != gpu.index:
                        gpu.reach(other)
            self._place(tensors)
            self._pin(tensors, arenas)
        except BaseException:
            self.close()
            raise

    def trace(self) -> GpuTrace:
        """Return a new trace of the artifact's programs, for `tasks`."""
        return GpuTrace(self._artifact.manifest.programs, self._gpus)

    def tasks(self, trace: GpuTrace | None = None) -> list[GpuTask]:
        """Return one task for each GPU that has work; with `trace`, it knows what ran when."""
        manifest = self._artifact.manifest
        programs = manifest.programs if trace is None else trace.programs
        order = issue_order(programs)
        events = {
            step.event: self._gpus[program.device].event()
            for program in manifest.programs
            if program.device in self._gpus
            for step in program.instructions
            if isinstance(step, Signal)
        }
        return [
            GpuTask(
                label=self._names[device],
                gpu=gpu,
                gpus=self._gpus,
                device=device,
                programs=programs,
                order=order,
                events=events,
                kernels=manifest.gpu_kernels,
                buffer_device={buffer.name: buffer.device for buffer in manifest.buffers},
                library=load_library(self._artifact.libraries[self._library(device)]),
                marks={} if trace is None else trace.marks,
                clock=None if trace is None else trace.clocks[device],
            )
            for device, gpu in self._gpus.items()
        ]

    def close(self) -> None:
        """Free everything on the GPUs; no task may run any more. Closing twice is fine."""
        for gpu in self._gpus.values():
            gpu.close()

    def abandon(self) -> None:
        """Give nothing back: the driver would wait for kernels that do not end."""
        for gpu in self._gpus.values():
            gpu.close.detach()

    def _share(self, place: GpuPlace) -> ctypes.Structure | None:
        """Return a part of a GPU; all parts come from one split, so that they are disjoint."""
        if place.parts == 1:
            return None
        key = (place.index, place.parts)
        if key not in self._shares:
            self._shares[key] = split_gpu(self._driver, *key)
        return self._shares[key][place.part]

    def _library(self, device: str) -> str:
        entry = self._artifact.manifest.device[device].library
        if entry is None:
            raise ArtifactError(f"device {device!r} has work but no library")
        return entry

    def _place(self, tensors: TensorTable) -> None:
        """Allocate arenas and upload weights."""
        manifest, weights = self._artifact.manifest, self._artifact.weights
        arenas = {
            name: self._allocate(name, manifest.device[name].arena_bytes) for name in self._gpus
        }
        for buffer in manifest.buffers:
            if buffer.device not in self._gpus:
                continue
            if buffer.space == "arena":
                tensors.place(buffer.name, arenas[buffer.device] + (buffer.offset or 0))
            else:
                assert weights is not None
                address = self._allocate(buffer.device, buffer.nbytes)
                source = weights.address(buffer.weight)
                self._gpus[buffer.device].upload(address, source, buffer.nbytes)
                tensors.place(buffer.name, address)

    def _allocate(self, device: str, nbytes: int) -> int:
        try:
            return self._gpus[device].allocate(nbytes)
        except DeviceError as error:
            raise DeviceError(f"device {device!r} needs {nbytes} bytes: {error}") from error

    def _pin(self, tensors: TensorTable, arenas: Mapping[str, Arena]) -> None:
        """Pin what GPUs copy from and to: whole arenas of CPUs, memory for inputs and outputs."""
        manifest = self._artifact.manifest
        arenas_to_pin: set[str] = set()
        for name in _copied_by_gpus(manifest, self._gpus):
            buffer = manifest.buffer[name]
            if buffer.device is not None and buffer.device in arenas:
                arenas_to_pin.add(buffer.device)
            elif buffer.space in ("input", "output"):
                memory = Arena(buffer.nbytes)
                self._pin_memory(memory)
                array = memory.bytes[: buffer.nbytes].view(numpy_dtype(buffer.dtype))
                self.staging[name] = array.reshape(buffer.shape)
                tensors.place(name, memory.address)
        for device in sorted(arenas_to_pin):
            self._pin_memory(arenas[device])

    def _pin_memory(self, memory: Arena) -> None:
        next(iter(self._gpus.values())).pin(memory)  # for all contexts


def _copied_by_gpus(manifest: Manifest, gpus: Iterable[str]) -> Iterable[str]:
    """Return the buffers that GPUs copy from or to."""
    names: dict[str, None] = {}
    for program in manifest.programs:
        if program.device in set(gpus):
            for step in program.instructions:
                if isinstance(step, Copy):
                    names |= {step.src: None, step.dst: None}
    return names
