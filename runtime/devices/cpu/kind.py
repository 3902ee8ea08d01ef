"""Cores of the host: what the table of kinds has."""

import weakref
from collections.abc import Iterator, Sequence

from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.runtime.devices.cpu.claims import claim_cores
from hios_tvm.runtime.devices.cpu.cores import require_cores, share_cores
from hios_tvm.runtime.devices.cpu.measure import measure_on_cpus
from hios_tvm.runtime.devices.interface import DeviceKind, LoadedDevices, LoadRequest, Times
from hios_tvm.runtime.tasks import CpuTask
from hios_tvm.runtime.trace import Span, make_spans
from hios_tvm.schema.device_names import disjoint_cores, parse_cores
from hios_tvm.schema.manifest import DeviceSpec, Manifest
from hios_tvm.schema.program import Program


def _check_code(device: DeviceSpec, manifest: Manifest) -> None:
    if device.device_code is not None:
        raise ArtifactError(f"device {device.name!r} has code for a GPU")


def _load(request: LoadRequest) -> LoadedDevices:
    """Claim cores until the devices are closed, and make one task for each stream."""
    manifest = request.artifact.manifest
    names = [device.name for device in manifest.devices if device.kind == CPU.kind]
    programs = [program for program in manifest.programs if program.device in names]
    if request.cuda_graph and programs:
        raise DeviceError("a CUDA graph needs all operators on GPUs: leave cuda_graph out")
    tasks = tuple(_tasks(request, programs))
    cores = (core for task in tasks for core in task.cores)
    claim = claim_cores(cores, exclusive=request.exclusive)

    def spans(times: Sequence[Times], end_ns: int) -> list[Span]:
        pairs = zip(programs, times, strict=True)
        return [span for program, own in pairs for span in make_spans(program, own)]

    loaded = LoadedDevices(
        tasks=tasks, spans=spans, close=lambda stuck: claim.release(), traced=names
    )
    weakref.finalize(loaded, claim.release)
    return loaded


def _tasks(request: LoadRequest, programs: Sequence[Program]) -> Iterator[CpuTask]:
    """Yield a task for each program, on its device's cores or an equal share for each stream."""
    streams: dict[str, int] = {}
    for program in programs:
        streams[program.device] = max(streams.get(program.device, 0), program.stream)
    for program in programs:
        label = request.names[program.device]
        cores = require_cores(label)
        if program.stream > 0:
            cores = share_cores(cores, streams[program.device])[program.stream - 1]
            label = f"{label} stream {program.stream}"
        yield CpuTask(label, cores, program.instructions, request.library(program.device))


CPU = DeviceKind(
    kind="cpu",
    first="cpu@0",
    own_memory=False,
    check_names=disjoint_cores,
    streams=lambda name: len(parse_cores(name)),
    check_code=_check_code,
    require=lambda device: require_cores(device.name),
    load=_load,
    measure=measure_on_cpus,
)
