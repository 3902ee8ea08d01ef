"""The GPUs of a session: their memory, the pinned memory for their copies, and their tasks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cuda.cuda_graph import GraphTask
from hios_tvm.runtime.devices.cuda.driver import CudaDriver, CudaError, CudaResult
from hios_tvm.runtime.devices.cuda.feed_streams import GpuTask
from hios_tvm.runtime.devices.cuda.gpu import open_gpus
from hios_tvm.runtime.devices.cuda.issue_order import issue_order
from hios_tvm.runtime.devices.cuda.trace import GpuTrace
from hios_tvm.runtime.devices.interface import LoadedDevices, LoadRequest, Times
from hios_tvm.runtime.memory import Arena, TensorTable
from hios_tvm.runtime.trace import Span
from hios_tvm.schema.device_names import gpu_place, whole_device
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.program import Copy, Signal

_CANNOT_CAPTURE = (
    CudaResult.NOT_SUPPORTED,
    *range(CudaResult.STREAM_CAPTURE_UNSUPPORTED, CudaResult.STREAM_CAPTURE_UNSUPPORTED + 9),
)

Array = np.ndarray[Any, Any]


class SessionGpus:
    """The GPUs that an artifact uses, with arenas and weights in their memory.

    Inputs that they read and outputs that they write pass through pinned memory of the host,
    so that copies overlap with kernels.

    Parameters
    ----------
    request : LoadRequest
        Its tensors receive the addresses of all buffers on GPUs, and of pinned memory; its arenas
        are pinned where GPUs copy from or to them.
    driver : CudaDriver

    Raises
    ------
    DeviceError
        If a GPU is missing, or lacks memory.
    ArtifactError
        If the code does not run on a GPU.
    """

    def __init__(self, request: LoadRequest, driver: CudaDriver) -> None:
        self._request = request
        self._artifact = artifact = request.artifact
        self._staging: dict[str, Array] = {}
        _check_shared(request.names)
        devices = [d for d in artifact.manifest.devices if d.kind == "cuda" and d.device_code]
        places = [gpu_place(request.names[device.name]) for device in devices]
        codes = [artifact.libraries[device.device_code or ""] for device in devices]
        gpus = open_gpus(driver, places, codes)
        self._gpus = {device.name: gpu for device, gpu in zip(devices, gpus, strict=True)}
        try:
            self._place(request.tensors)
            self._pin(request.tensors, request.arenas)
            traced = request.gpu_trace and not request.cuda_graph
            self._trace = GpuTrace(artifact.manifest.programs, self._gpus) if traced else None
            self._gpu_tasks = self._tasks(self._trace)
            self._graph = self._captured()
        except BaseException:
            self._close()
            raise

    def loaded(self) -> LoadedDevices:
        """Return them with a task for each GPU that has work, or one for a CUDA graph of all.

        Parts of a GPU have one worker, which feeds the streams of all: then no part waits until
        another worker has recorded an event.
        """
        return LoadedDevices(
            tasks=self._gpu_tasks if self._graph is None else (self._graph,),
            spans=self._spans,
            close=self._close,
            traced=() if self._trace is None else tuple(self._gpus),
            staging=self._staging,
        )

    def _captured(self) -> GraphTask | None:
        """Return a CUDA graph of everything; None where that was not asked for, or cannot be."""
        wanted, programs = self._request.cuda_graph, self._artifact.manifest.programs
        alone = all(program.device in self._gpus for program in programs)
        if wanted is False or self._trace is not None or not alone or not self._gpu_tasks:
            return None
        try:
            return GraphTask.captured(self._gpu_tasks, self._request.tensors)
        except CudaError as error:
            if wanted or error.result not in _CANNOT_CAPTURE:
                raise
            return None

    def _spans(self, times: Sequence[Times], end_ns: int) -> list[Span]:
        if self._trace is None:
            return []
        tasks = zip(self._gpu_tasks, times, strict=True)
        return self._trace.spans({t.index: t.clock_ns(own) for t, own in tasks}, end_ns)

    def _close(self, stuck: bool = False) -> None:
        """Free everything on the GPUs, of `stuck` ones nothing: the driver would wait for them."""
        for gpu in self._gpus.values():
            if stuck:
                gpu.close.detach()
            else:
                gpu.close()

    def _tasks(self, trace: GpuTrace | None) -> list[GpuTask]:
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
        devices: dict[int, dict[str, str]] = {}
        for device, gpu in self._gpus.items():
            devices.setdefault(gpu.index, {})[device] = self._request.names[device]
        return [
            GpuTask(
                index=index,
                devices=own,
                gpus=self._gpus,
                programs=programs,
                order=order,
                events=events,
                kernels=manifest.gpu_kernels,
                buffer_device={buffer.name: buffer.device for buffer in manifest.buffers},
                library=self._request.library(next(iter(own))),
                marks={} if trace is None else trace.marks,
                clock=None if trace is None else trace.clocks[index],
            )
            for index, own in devices.items()
        ]

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
                self._staging[name] = array.reshape(buffer.shape)
                tensors.place(name, memory.address)
        for device in sorted(arenas_to_pin):
            self._pin_memory(arenas[device])

    def _pin_memory(self, memory: Arena) -> None:
        next(iter(self._gpus.values())).pin(memory)  # for all contexts


def _check_shared(names: Mapping[str, str]) -> None:
    """Raise `DeviceError` where parts of one GPU, which share its memory, are on several."""
    first: dict[str, str] = {}
    for name, here in names.items():
        if not name.startswith("cuda"):
            continue
        other = first.setdefault(whole_device(name), name)
        if gpu_place(names[other]).index != gpu_place(here).index:
            raise DeviceError(
                f"{other} and {name} share the memory of a GPU: they cannot be mapped to "
                f"{names[other]} and {here}, name parts of one GPU or the same GPU twice"
            )


def _copied_by_gpus(manifest: Manifest, gpus: Iterable[str]) -> Iterable[str]:
    """Return the buffers that GPUs copy from or to."""
    names: dict[str, None] = {}
    for program in manifest.programs:
        if program.device in set(gpus):
            for step in program.instructions:
                if isinstance(step, Copy):
                    names |= {step.src: None, step.dst: None}
    return names
