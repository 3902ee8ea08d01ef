"""The GPUs of a session: their memory, what is pinned for their copies, and their tasks."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.runtime.devices.cuda import CudaDriver, Gpu, split_gpu
from hios_tvm.runtime.gpu import GpuTask, Mark, issue_order, marked
from hios_tvm.runtime.memory import Arena, TensorTable
from hios_tvm.runtime.native import load_library
from hios_tvm.runtime.read_artifact import Artifact
from hios_tvm.runtime.trace import Span, span_of
from hios_tvm.schema.device_names import GpuPlace, gpu_place
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.program import Call, Copy, Signal

__all__ = ["SessionGpus"]

Array = np.ndarray[Any, Any]


class SessionGpus:
    """The GPUs that an artifact uses, ready to run.

    Arenas and weights lie in their memory. Inputs that they read and outputs that they write pass
    through pinned memory of the host, `staging` by buffer, so that copies overlap with kernels.

    Parameters
    ----------
    artifact : Artifact
        Verified.
    names : artifact's device -> device
    tensors : TensorTable
        Gets the addresses of all buffers on GPUs, and of those in `staging`.
    arenas : device -> Arena
        Of the CPUs; what GPUs copy from or to is pinned.
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
        self._marks: dict[int, int] = {}
        self._clocks: dict[str, int] = {}
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

    def tasks(self, *, trace: bool = False) -> list[GpuTask]:
        """Return one task for each GPU that has work; with `trace`, `spans` knows what ran when."""
        manifest = self._artifact.manifest
        programs = marked(manifest.programs) if trace else manifest.programs
        order = issue_order(programs)
        if trace:
            self._clocks = {name: gpu.event(timing=True) for name, gpu in self._gpus.items()}
            self._marks = {
                step.number: self._gpus[program.device].event(timing=True)
                for program in programs
                for step in program.instructions
                if isinstance(step, Mark)
            }
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
                homes={buffer.name: buffer.device for buffer in manifest.buffers},
                library=load_library(self._artifact.libraries[self._library(device)]),
                marks=self._marks,
                clock=self._clocks.get(device),
            )
            for device, gpu in self._gpus.items()
        ]

    @property
    def is_tracing(self) -> bool:
        """Whether the tasks remember what ran when."""
        return bool(self._marks)

    def spans(self, clock_ns: Mapping[str, int], end_ns: int) -> list[Span]:
        """Return when kernels and copies ran in the latest run, if the tasks trace.

        `clock_ns` says for each GPU when its worker had waited for the clock, `end_ns` when the
        run had ended. A worker may have woken late: what seems to end after the run ended before.
        """
        if not self.is_tracing:
            return []
        steps = [
            (program, step)
            for program in self._artifact.manifest.programs
            if program.device in self._gpus
            for step in program.instructions
            if isinstance(step, Call | Copy)
        ]

        def reached_ns(device: str, mark: int) -> int:
            elapsed_ms = self._gpus[device].elapsed_ms(self._clocks[device], self._marks[mark])
            return clock_ns[device] + int(1e6 * elapsed_ms)

        spans = [
            span_of(
                program,
                step,
                reached_ns(program.device, 2 * k),
                reached_ns(program.device, 2 * k + 1),
            )
            for k, (program, step) in enumerate(steps)
        ]
        late_ns = dict.fromkeys(self._gpus, 0)
        for span in spans:
            late_ns[span.device] = max(late_ns[span.device], span.end_ns - end_ns)
        return [
            replace(
                span,
                start_ns=span.start_ns - late_ns[span.device],
                end_ns=span.end_ns - late_ns[span.device],
            )
            for span in spans
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
        """Pin what GPUs copy from and to: arenas of CPUs whole, and inputs and outputs."""
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
        gpu = next(iter(self._gpus.values()))
        gpu.pin(memory)


def _copied_by_gpus(manifest: Manifest, gpus: Iterable[str]) -> Iterable[str]:
    """Yield the ends of all copies that GPUs make."""
    names: dict[str, None] = {}
    for program in manifest.programs:
        if program.device in set(gpus):
            for step in program.instructions:
                if isinstance(step, Copy):
                    names |= {step.src: None, step.dst: None}
    return names
