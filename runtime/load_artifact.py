"""The steps from an artifact to what a session runs: devices, memory, cores, tasks of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.runtime.devices.claims import CoreClaim, claim_cores
from hios_tvm.runtime.devices.cpu import require_cores, share_cores
from hios_tvm.runtime.devices.cuda import load_driver
from hios_tvm.runtime.gpu.cuda_graph import GraphTask
from hios_tvm.runtime.gpu.feed_streams import GpuTask
from hios_tvm.runtime.gpu.session_gpus import SessionGpus
from hios_tvm.runtime.gpu.trace import GpuTrace
from hios_tvm.runtime.memory import Arena, TensorTable
from hios_tvm.runtime.native import load_library
from hios_tvm.runtime.read_artifact import Artifact
from hios_tvm.runtime.tasks import CpuTask, Task
from hios_tvm.schema.device_names import device_kind
from hios_tvm.schema.manifest import DeviceSpec, Manifest
from hios_tvm.schema.program import Program


@dataclass(frozen=True)
class LoadedArtifact:
    """An artifact on its devices, ready for workers.

    Attributes
    ----------
    device_names : artifact's device -> device
    tensors : TensorTable
        All buffers; those that are no inputs and outputs have their addresses.
    arenas : device -> Arena
        Memory for buffers of CPU devices.
    claim : CoreClaim
        The cores of all tasks.
    gpus : SessionGpus or None
        None where no device is a GPU.
    tasks
        What each worker executes.
    cpu_programs : number of a task -> Program
        The program that the task executes.
    gpu_trace : GpuTrace or None
        None where GPUs are not traced.
    traced_gpus : number of a task -> GpuTask
        The tasks that `gpu_trace` is about.
    """

    device_names: Mapping[str, str]
    tensors: TensorTable
    arenas: Mapping[str, Arena]
    claim: CoreClaim
    gpus: SessionGpus | None
    tasks: tuple[Task, ...]
    cpu_programs: Mapping[int, Program]
    gpu_trace: GpuTrace | None
    traced_gpus: Mapping[int, GpuTask]


def load_onto_devices(
    artifact: Artifact,
    devices: Mapping[str, str] | Sequence[str] | None,
    *,
    exclusive: bool,
    gpu_trace: bool,
    cuda_graph: bool,
) -> LoadedArtifact:
    """Allocate memory, claim cores, and make the tasks of all workers; `load` has the parameters.

    Raises
    ------
    ArtifactError
        If a library or the code of a GPU does not fit this runtime.
    DeviceError
        If a device is missing, used by another process for itself, or lacks memory.
    """
    manifest = artifact.manifest
    names = _map_devices(manifest, devices)
    cpu_programs = [p for p in manifest.programs if manifest.device[p.device].kind == "cpu"]
    has_gpu_code = any(device.device_code is not None for device in manifest.devices)
    if cuda_graph and (cpu_programs or not has_gpu_code):
        raise DeviceError("a CUDA graph needs all operators on GPUs: leave cuda_graph out")
    tensors = TensorTable(
        {buffer.name: (buffer.shape, buffer.dtype) for buffer in manifest.buffers}
    )
    arenas = {d.name: _make_arena(d) for d in manifest.devices if d.kind == "cpu"}
    _place_host_buffers(artifact, tensors, arenas)
    cpu_tasks = _cpu_tasks(artifact, names, cpu_programs)
    claim = claim_cores((core for task in cpu_tasks for core in task.cores), exclusive=exclusive)
    try:
        gpus = trace = None
        gpu_tasks: list[GpuTask] = []
        if any(device.kind == "cuda" for device in manifest.devices):
            gpus = SessionGpus(artifact, names, tensors, arenas, load_driver())
            trace = gpus.trace() if gpu_trace and not cuda_graph else None
            gpu_tasks = gpus.tasks(trace)
    except BaseException:
        claim.release()
        raise
    tasks: tuple[Task, ...] = (*cpu_tasks, *gpu_tasks)
    traced = {number: task for number, task in enumerate(tasks) if isinstance(task, GpuTask)}
    return LoadedArtifact(
        device_names=names,
        tensors=tensors,
        arenas=arenas,
        claim=claim,
        gpus=gpus,
        tasks=(GraphTask(gpu_tasks),) if cuda_graph else tasks,
        cpu_programs=dict(enumerate(cpu_programs)),
        gpu_trace=trace,
        traced_gpus=traced if trace is not None else {},
    )


def _map_devices(
    manifest: Manifest, devices: Mapping[str, str] | Sequence[str] | None
) -> dict[str, str]:
    """Return the device to use for each of the artifact's."""
    names = [device.name for device in manifest.devices]
    known = ", ".join(names)
    if devices is None:
        mapping = {name: name for name in names}
    elif isinstance(devices, Mapping):
        unknown = [name for name in devices if name not in names]
        if unknown:
            raise DeviceError(f"the artifact has no device {unknown[0]!r}: it has {known}")
        mapping = {name: devices.get(name, name) for name in names}
    else:
        if len(devices) != len(names):
            raise DeviceError(f"the artifact has the devices {known}; {len(devices)} were named")
        mapping = dict(zip(names, devices, strict=True))
    for name, other in mapping.items():
        if device_kind(name) != device_kind(other):
            raise DeviceError(
                f"{name} cannot be mapped to {other}, which is another kind of device"
            )
    return mapping


def _make_arena(device: DeviceSpec) -> Arena:
    try:
        return Arena(device.arena_bytes)
    except (OSError, OverflowError, ValueError) as error:
        raise DeviceError(
            f"device {device.name!r} needs {device.arena_bytes} bytes for buffers: {error}"
        ) from error


def _place_host_buffers(
    artifact: Artifact, tensors: TensorTable, arenas: Mapping[str, Arena]
) -> None:
    """Set the addresses of weights and arena buffers that CPU devices use."""
    for buffer in artifact.manifest.buffers:
        if buffer.device is not None and buffer.device not in arenas:
            continue  # on a GPU
        if buffer.space == "arena":
            assert buffer.device is not None and buffer.offset is not None
            tensors.place(buffer.name, arenas[buffer.device].address + buffer.offset)
        elif buffer.space == "param":
            assert artifact.weights is not None
            tensors.place(buffer.name, artifact.weights.address(buffer.name))


def _cpu_tasks(
    artifact: Artifact, device_names: Mapping[str, str], programs: Sequence[Program]
) -> list[CpuTask]:
    """Return a task for each program, on its device's cores or an equal share for each stream."""
    device = artifact.manifest.device
    entries = dict.fromkeys(device[program.device].library for program in programs)
    libraries = {entry: load_library(artifact.libraries[entry]) for entry in entries if entry}
    streams: dict[str, int] = {}
    for program in programs:
        streams[program.device] = max(streams.get(program.device, 0), program.stream)
    tasks = []
    for program in programs:
        name = device_names[program.device]
        cores, label = require_cores(name), name
        if program.stream > 0:
            cores = share_cores(cores, streams[program.device])[program.stream - 1]
            label = f"{name} stream {program.stream}"
        entry = device[program.device].library
        if entry is None:
            raise ArtifactError(f"device {program.device!r} has work but no library")
        tasks.append(CpuTask(label, cores, program.instructions, libraries[entry]))
    return tasks
