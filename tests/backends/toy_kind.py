"""A third kind of device: an accelerator ``toy:0`` whose memory is apart from the host's.

Its kernels are TIR as it is, without loops of a rule, and run in a thread of the host. All that it
needs is here: `ToyBackend` for the compiler, and `TOY` for the runtime.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm.ir import IRModule
from tvm.ir.transform import Pass
from tvm.target import Target

from hios_tvm.backends.cpu.codegen import compile_kernels
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.interface import CostRequest, DeviceCode
from hios_tvm.backends.network import Network
from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.runtime.devices.cpu.bench import Bench
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram, core_tasks
from hios_tvm.runtime.devices.interface import DeviceKind, LoadedDevices, LoadRequest, Times
from hios_tvm.runtime.devices.kernel_calls import KernelArg, KernelCall, kernel_call
from hios_tvm.runtime.devices.samples import measurement_of
from hios_tvm.runtime.memory import Arena
from hios_tvm.runtime.native import Library, load_library
from hios_tvm.runtime.read_artifact import Artifact
from hios_tvm.runtime.trace import Span, make_spans
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.manifest import DeviceSpec, Manifest
from hios_tvm.schema.platform import Device, Link, Platform

COUNT = 2
"""Devices of this kind."""

LINK = Link(latency_ms=0.002, bandwidth_gb_s=5.0)


class ToyBackend:
    """What the compiler knows: TVM's target ``c``."""

    kind = "toy"
    target_kind = "c"
    precisions = ("fp32",)

    def names_target(self, word: str) -> bool:
        return word == "toy"

    def target(self, word: str | None, host: Target, precision: str) -> Target:
        return Target({"kind": "c"}, host=host)

    def own_passes(self, target: Target) -> list[Pass]:
        return []

    def loops(self, target: Target, left: Collection[str] = ()) -> list[Pass]:
        return []

    def generate(
        self, kernels: Mapping[str, IRModule], target: Target, **options: Any
    ) -> dict[str, DeviceCode]:
        return {
            device: DeviceCode(
                link_library(compile_kernels(module, target.host).values(), target.host)
            )
            for device, module in kernels.items()
        }

    def features(self, target: Target) -> tuple[str, ...]:
        return ()

    def model(self, device: str, target: Target) -> str:
        return "toy"

    def costs(self, network: Network, devices: Sequence[str], request: CostRequest) -> CostTable:
        graph = network.on(devices[0]).graph
        kernels = {"toy:0": network.kernels_on(devices[0], graph.operator)}
        (code,) = self.generate(kernels, network.on(devices[0]).target).values()
        calls = {name: kernel_call(graph, name) for name in graph.operator}
        return _measured(load_library(code.library), calls, devices)


def _measured(
    library: Library, calls: Mapping[str, KernelCall], devices: Iterable[str]
) -> CostTable:
    """Time kernels, which are equally fast on all devices of this kind."""
    times: dict[str, Measurement] = {}
    for operator, call in calls.items():
        bench = Bench()
        program = CpuProgram("toy", (), bench.calls(call, 3), library)
        samples = [np.median(np.diff(one)) for (one,) in bench.run([program], rounds=3)]
        times[operator] = measurement_of(samples, "measured on a toy")
    platform = Platform(tuple(Device(name, "toy", 1) for name in devices), default_link=LINK)
    return CostTable({"toy": times}, platform=platform)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not re.fullmatch(r"toy:\d", name):
            raise DeviceError(f"{name!r} is no toy: write toy:0")


def _check_code(device: DeviceSpec, manifest: Manifest) -> None:
    if device.device_code is not None:
        raise ArtifactError(f"device {device.name!r} needs no code of its own")


def _require(device: DeviceSpec) -> None:
    if int(device.name.removeprefix("toy:")) >= COUNT:
        raise DeviceError(f"there is no device {device.name}: this machine has {COUNT}")


def _load(request: LoadRequest) -> LoadedDevices:
    """Copy weights to the devices' memory, and make one task for each stream, copies included."""
    manifest, weights = request.artifact.manifest, request.artifact.weights
    memory: dict[str, Arena] = {}
    for device in manifest.devices:
        if device.kind == "toy":
            memory[device.name] = Arena(device.arena_bytes)
    for buffer in manifest.buffers:
        if buffer.device in memory and buffer.space == "arena":
            address = memory[buffer.device].address + (buffer.offset or 0)
            request.tensors.place(buffer.name, address)
        elif buffer.device in memory:
            copy = memory[buffer.name] = Arena(buffer.nbytes)
            array = weights.array(buffer.weight)
            copy.bytes[: buffer.nbytes] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            request.tensors.place(buffer.name, copy.address)
    programs, order = request.programs("toy")
    streams = [
        CpuProgram(request.names[p.device], (), p.instructions, request.library(p.device))
        for p in programs
    ]
    tasks = core_tasks(streams, order)

    def spans(times: Sequence[Times], end_ns: int) -> list[Span]:
        pairs = zip(programs, times, strict=True)
        return [span for program, own in pairs for span in make_spans(program, own)]

    traced = [program.device for program in programs]
    return LoadedDevices(
        tasks=tasks, spans=spans, close=lambda stuck: memory.clear(), traced=traced
    )


def _measure(
    artifact: Artifact, names: Sequence[str], progress: Callable[[int, int], None]
) -> CostTable:
    manifest = artifact.manifest
    calls: dict[str, KernelCall] = {}
    for _, call in manifest.calls():
        buffers = [manifest.buffer[name] for name in call.args]
        roles = ["input"] * (len(buffers) - call.outputs) + ["output"] * call.outputs
        pairs = zip(buffers, roles, strict=True)
        calls[call.operator] = KernelCall(
            call.kernel,
            tuple(KernelArg(buffer.shape, buffer.dtype, role) for buffer, role in pairs),
        )
    (entry,) = {device.library for device in manifest.devices}
    return _measured(load_library(artifact.libraries[entry]), calls, names)


TOY = DeviceKind(
    kind="toy",
    first="toy:0",
    own_memory=True,
    check_names=_check_names,
    streams=lambda name: 1,
    check_code=_check_code,
    require=_require,
    load=_load,
    measure=_measure,
)
