"""Cores of the host: what the table of kinds has."""

import weakref
from collections.abc import Iterator, Sequence

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cpu.claims import claim_cores
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram, core_tasks
from hios_tvm.runtime.devices.cpu.cores import require_cores, share_cores
from hios_tvm.runtime.devices.cpu.measure import measure_on_cpus
from hios_tvm.runtime.devices.interface import DeviceKind, LoadedDevices, LoadRequest, Times
from hios_tvm.runtime.trace import Span, span_of
from hios_tvm.schema.device_names import parse_cores
from hios_tvm.schema.program import Program


def _load(request: LoadRequest) -> LoadedDevices:
    """Claim cores until the devices are closed, and make one task for each core."""
    manifest = request.artifact.manifest
    programs, order = request.programs(CPU.kind)
    if request.cuda_graph and programs:
        raise DeviceError("a CUDA graph needs all operators on GPUs: leave cuda_graph out")
    tasks = core_tasks(list(_on_cores(request, programs)), order)
    cores = {task.core for task in tasks if task.core is not None}
    names = [device.name for device in manifest.devices if device.kind == CPU.kind]

    def spans(times: Sequence[Times], end_ns: int) -> Iterator[Span]:
        for task, own in zip(tasks, times, strict=True):
            for step, start_ns, end_ns in zip(task.steps, own[:-1], own[1:], strict=True):
                if step.origin is not None:
                    program = programs[step.origin[0]]
                    instruction = program.instructions[step.origin[1]]
                    yield span_of(program, instruction, int(start_ns), int(end_ns))

    claim = claim_cores(cores, exclusive=request.exclusive)
    try:  # from here on a failure gives the cores back
        loaded = LoadedDevices(
            tasks=tasks, spans=spans, close=lambda stuck: claim.release(), traced=names
        )
        weakref.finalize(loaded, claim.release)
    except BaseException:
        claim.release()
        raise
    return loaded


def _on_cores(request: LoadRequest, programs: Sequence[Program]) -> Iterator[CpuProgram]:
    """Yield each program on its device's cores, or on an equal share for each stream."""
    streams: dict[str, int] = {}
    for program in programs:
        streams[program.device] = max(streams.get(program.device, 0), program.stream)
    for program in programs:
        label = request.names[program.device]
        cores = require_cores(label)
        if program.stream > 0:
            cores = share_cores(cores, streams[program.device])[program.stream - 1]
            label = f"{label} stream {program.stream}"
        yield CpuProgram(label, cores, program.instructions, request.library(program.device))


CPU = DeviceKind(
    kind="cpu",
    first="cpu@0",
    own_memory=False,
    check_names=lambda names: [parse_cores(name) for name in names],
    streams=lambda name: len(parse_cores(name)),
    require=lambda device: require_cores(device.name),
    load=_load,
    measure=measure_on_cpus,
)
