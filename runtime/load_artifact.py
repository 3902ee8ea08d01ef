"""The steps from an artifact to what a session runs: devices, memory, tasks of workers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices import KINDS, kind_of
from hios_tvm.runtime.devices.cpu.prepare_weights import prepare_weights
from hios_tvm.runtime.devices.interface import LoadedDevices, LoadRequest, Times
from hios_tvm.runtime.memory import Arena, TensorTable
from hios_tvm.runtime.memory_limit import check_memory
from hios_tvm.runtime.read_artifact import Artifact
from hios_tvm.runtime.tasks import Task
from hios_tvm.runtime.trace import Span
from hios_tvm.runtime.weights import Weights
from hios_tvm.schema.device_names import cores_of, cpu_device_name, outermost
from hios_tvm.schema.manifest import Manifest


@dataclass(frozen=True)
class LoadedArtifact:
    """An artifact on its devices, ready for workers.

    Attributes
    ----------
    request : LoadRequest
        The artifact, its devices, and the memory of the host.
    kinds : tuple of LoadedDevices
        The devices of each kind that the artifact has.
    tasks
        What each worker executes.
    prepared : Weights, optional
        What was computed from the artifact's sources.
    """

    request: LoadRequest
    kinds: tuple[LoadedDevices, ...]
    tasks: tuple[Task, ...]
    prepared: Weights | None

    @property
    def staging(self) -> dict[str, np.ndarray[Any, Any]]:
        """Host memory through which devices read inputs and write outputs, by buffer."""
        return {name: array for kind in self.kinds for name, array in kind.staging.items()}

    @property
    def traced(self) -> tuple[str, ...]:
        """The artifact's devices whose work traces show."""
        traced = {name for kind in self.kinds for name in kind.traced}
        return tuple(name for name in self.request.names if name in traced)

    def spans(self, times: Sequence[Times], end_ns: int) -> Iterator[Span]:
        """Yield what ran when, from the times of `tasks` and the end of the run."""
        for kind in self.kinds:
            own, times = times[: len(kind.tasks)], times[len(kind.tasks) :]
            yield from kind.spans(own, end_ns)

    def close(self, *, stuck: bool = False) -> None:
        """Give all devices back. Closing twice is fine."""
        for kind in self.kinds:
            kind.close(stuck)


def make_arenas(manifests: Sequence[Manifest]) -> list[dict[str, Arena]]:
    """Return memory for the buffers of each device that has none of its own.

    There is one for each input that a session has in flight. Runs of all `manifests`, one at a
    time, may use it.

    Raises
    ------
    MemoryLimitError
        If this process may not take the memory that a run needs.
    DeviceError
        If there is none.
    """
    nbytes: dict[str, int] = {}
    for device in (device for manifest in manifests for device in manifest.devices):
        if not kind_of(device.name).own_memory:
            nbytes[device.name] = max(device.arena_bytes, nbytes.get(device.name, 0))
    tensors = max(
        sum(spec.nbytes for spec in (*manifest.inputs, *manifest.outputs)) for manifest in manifests
    )
    slots = manifests[0].in_flight
    check_memory(slots * (sum(nbytes.values()) + tensors), f"a run of {manifests[0].model!r}")
    return [{name: _make_arena(name, size) for name, size in nbytes.items()} for _ in range(slots)]


def load_onto_devices(
    artifact: Artifact,
    devices: Mapping[str, str] | Sequence[str] | None,
    arenas: Mapping[str, Arena],
    *,
    exclusive: bool,
    gpu_trace: bool,
    cuda_graph: bool | None,
) -> LoadedArtifact:
    """Place buffers, claim devices, make the tasks of all workers, and prepare weights.

    `load` has the parameters; `arenas` is what `make_arenas` returned.

    Raises
    ------
    ArtifactError
        If a library or the code of a device does not fit this runtime.
    DeviceError
        If a device is missing, used by another process for itself, or lacks memory.
    """
    manifest = artifact.manifest
    names = _map_devices(manifest, devices)
    tensors = _tensors_of(manifest)
    _place_host_buffers(artifact, tensors, arenas)
    sources, artifact = artifact.sources, replace(artifact, sources=None)  # not kept any longer
    request = LoadRequest(artifact, names, tensors, arenas, exclusive, gpu_trace, cuda_graph)
    used = {device.kind for device in manifest.devices}
    loaded: list[LoadedDevices] = []
    try:
        for kind in KINDS.values():
            if kind.kind in used:
                loaded.append(kind.load(request))
        prepared = None
        if manifest.prepared:
            assert sources is not None
            prepared = prepare_weights(request, sources)
        tasks = tuple(task for kind in loaded for task in kind.tasks)
        return LoadedArtifact(request, tuple(loaded), tasks, prepared)
    except BaseException:
        for one in loaded:
            one.close(False)
        raise


def tensors_beside(loaded: LoadedArtifact, arenas: Mapping[str, Arena]) -> TensorTable:
    """Return the tensors of one more input in flight: weights as before, buffers in `arenas`."""
    manifest, first = loaded.request.artifact.manifest, loaded.request.tensors
    tensors = _tensors_of(manifest)
    for buffer in manifest.buffers:
        if buffer.space == "param":
            tensors.place(buffer.name, first.address(buffer.name).value)
        elif buffer.space == "arena":
            assert buffer.device is not None and buffer.offset is not None
            tensors.place(buffer.name, arenas[buffer.device].address + buffer.offset)
    return tensors


def _tensors_of(manifest: Manifest) -> TensorTable:
    return TensorTable({buffer.name: (buffer.shape, buffer.dtype) for buffer in manifest.buffers})


def _map_devices(
    manifest: Manifest, devices: Mapping[str, str] | Sequence[str] | None
) -> dict[str, str]:
    """Return the device to use for each of the artifact's; parts of devices go with these."""
    names = [device.name for device in manifest.devices]
    inner = set(filter(cores_of, names)).difference(outermost(filter(cores_of, names)))
    whole = [name for name in names if name not in inner]
    known = ", ".join(whole)
    if devices is None:
        return {name: name for name in names}
    if isinstance(devices, Mapping):
        unknown = [name for name in devices if name not in whole]
        if unknown:
            raise DeviceError(f"the artifact has no device {unknown[0]!r}: it has {known}")
        mapping = {name: devices.get(name, name) for name in whole}
    else:
        if len(devices) != len(whole):
            raise DeviceError(f"the artifact has the devices {known}; {len(devices)} were named")
        mapping = dict(zip(whole, devices, strict=True))
    _check_same_kinds(mapping)
    return {name: mapping[name] if name in mapping else _part(name, mapping) for name in names}


def _part(name: str, mapping: Mapping[str, str]) -> str:
    """Return the part of a mapped device that corresponds to `name`, part of the artifact's."""
    own = cores_of(name)
    whole, other = next((a, b) for a, b in mapping.items() if {*own} <= {*cores_of(a)})
    before, after = cores_of(whole), cores_of(other)
    if len(before) != len(after):
        raise DeviceError(f"{whole} is divided: it can only be mapped to {len(before)} cores")
    return cpu_device_name(after[before.index(core)] for core in own)


def _check_same_kinds(mapping: Mapping[str, str]) -> None:
    for name, other in mapping.items():
        if kind_of(name) is not kind_of(other):
            raise DeviceError(
                f"{name} cannot be mapped to {other}, which is another kind of device"
            )


def _make_arena(device: str, nbytes: int) -> Arena:
    try:
        return Arena(nbytes)
    except (OSError, OverflowError, ValueError) as error:
        raise DeviceError(f"device {device!r} needs {nbytes} bytes for buffers: {error}") from error


def _place_host_buffers(
    artifact: Artifact, tensors: TensorTable, arenas: Mapping[str, Arena]
) -> None:
    """Set the addresses of weights and arena buffers in the host's memory."""
    prepared = {weight.name for weight in artifact.manifest.prepared}
    for buffer in artifact.manifest.buffers:
        if buffer.device is not None and buffer.device not in arenas:
            continue  # in a device's own memory
        if buffer.space == "arena":
            assert buffer.device is not None and buffer.offset is not None
            tensors.place(buffer.name, arenas[buffer.device].address + buffer.offset)
        elif buffer.space == "param" and buffer.name not in prepared:
            assert artifact.weights is not None
            tensors.place(buffer.name, artifact.weights.address(buffer.name))
