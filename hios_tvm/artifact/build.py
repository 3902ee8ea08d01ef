"""From a lowered network and a schedule to everything that an artifact holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import tvm
from tvm import relax

from hios_tvm.artifact.buffer_plan import plan_buffers
from hios_tvm.artifact.programs import Partition, partition_by_device
from hios_tvm.artifact.write import Build, pack
from hios_tvm.backends import BACKENDS, backend_of
from hios_tvm.backends.interface import DeviceCode, PhaseProgress
from hios_tvm.backends.network import Network, apply_pass
from hios_tvm.errors import ScheduleError
from hios_tvm.passes.annotate_schedule import AnnotateSchedule
from hios_tvm.passes.canonicalize_operators import NUM_INPUT
from hios_tvm.runtime.devices import check_devices, kind_of
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schedulers.evaluate import check_order, check_schedule
from hios_tvm.schema.device_names import cores_of
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.manifest import DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.platform import Device, Platform
from hios_tvm.schema.schedule import Schedule
from hios_tvm.schema.value_checks import CHECKS, ValueCheck
from hios_tvm.version import __version__

Arrays: TypeAlias = dict[str, np.ndarray]


def build(
    network: Network,
    schedule: Schedule,
    *,
    memory: Mapping[str, int] = MappingProxyType({}),
    kernel_dir: Path | None = None,
    progress: PhaseProgress = lambda phase, done, total: None,
) -> Build:
    """Generate the code of a network under a schedule, and plan its memory; nothing is measured.

    Parameters
    ----------
    network : Network
        What `lower_network` returned, for the kinds of the schedule's devices.
    schedule : Schedule
        For all devices of the artifact; those without stages have no work. They need not be
        devices of this machine.
    memory : mapping of str to int
        Bytes that weights and activations may take, by device; no limit where absent.
    kernel_dir : Path, optional
        Folder that keeps compiled kernels.

    Raises
    ------
    DeviceError, UsageError
        If a name is no device, or a core belongs to two devices.
    ScheduleError
        If the schedule does not fit the network or the memory, or its devices would wait for each
        other for ever.
    CompileError
        If code generation fails.
    """
    _check(network, schedule, memory)
    code = _device_code(network, schedule, kernel_dir, progress)
    launches = {device: one.launches for device, one in code.items()}
    placed = network.placed(schedule.placement)
    partition = _partition(network, schedule, placed, launches)
    manifest = _manifest(network, schedule, placed["main"], partition, launches)
    _check_memory(network, schedule, manifest, memory)
    libraries = {device: one.library for device, one in code.items()}
    binaries = {device: one.binary for device, one in code.items() if one.binary is not None}
    weights, sources = _used(network.weights, manifest)
    return pack(manifest, libraries, weights, binaries, sources)


def _check(network: Network, schedule: Schedule, memory: Mapping[str, int]) -> None:
    names = [device.device for device in schedule]
    check_devices(names)
    devices = tuple(
        Device(name, streams=kind_of(name).streams(name), cores=cores_of(name)) for name in names
    )
    platform = Platform(devices).with_memory(memory)
    check_schedule(network.graph, platform, schedule)
    check_order(network.graph, platform, schedule)


def _check_memory(
    network: Network, schedule: Schedule, manifest: Manifest, memory: Mapping[str, int]
) -> None:
    """Compare what is planned with each limit; before, activations could only be estimated."""
    memories = schedule.memories([d.device for d in schedule if kind_of(d.device).own_memory])
    arena_bytes = dict.fromkeys(memories.values(), 0)
    for spec in manifest.devices:
        arena_bytes[memories[spec.name]] += spec.arena_bytes
    for device in schedule:
        most = memory.get(device.device)
        weights = network.on(device.device).graph.weight_bytes(device.operators)
        activations = arena_bytes[memories[device.device]]
        if most is not None and weights + activations > most:
            raise ScheduleError(
                f"device {device.device!r} has {most} bytes of memory, its operators need "
                f"{weights} for weights and {activations} for activations"
            )


def _manifest(
    network: Network,
    schedule: Schedule,
    main: relax.Function,
    partition: Partition,
    launches: Mapping[str, Mapping[str, GpuKernel]],
) -> Manifest:
    inputs = [param.name for param in main.params[: int(main.attrs[NUM_INPUT])]]
    plan = plan_buffers(partition.programs, partition.buffers)
    buffer_of = {buffer.name: buffer for buffer in partition.buffers}

    def specs(attribute: str, buffers: Iterable[str]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(str(name), buffer, buffer_of[buffer].shape, buffer_of[buffer].dtype)
            for name, buffer in zip(main.attrs[attribute], buffers, strict=True)
        )

    num_outputs = len(main.attrs["output_names"])
    outputs, extremes = partition.outputs[:num_outputs], partition.outputs[num_outputs:]
    return Manifest(
        tvm_version=tvm.__version__,
        model=network.graph.name,
        inputs=specs("input_names", inputs),
        outputs=specs("output_names", outputs),
        prepared=tuple(
            weight
            for form in network.lowered.values()
            for weight in form.prepared
            if weight.name in buffer_of
        ),
        checks=tuple(_value_checks(main, extremes)),
        devices=tuple(
            DeviceSpec(
                name=device.device,
                kind=kind_of(device.device).kind,
                library=None,
                target=str(network.on(device.device).target),
                cpu_features=backend_of(device.device).features(network.on(device.device).target),
                arena_bytes=plan.arena_bytes.get(device.device, 0),
            )
            for device in schedule
        ),
        programs=partition.programs,
        buffers=plan.buffers,
        gpu_kernels={name: kernel for own in launches.values() for name, kernel in own.items()},
        graph=network.graph,
        recipe=network.recipe,
        schedule=json.loads(schedule.to_json()),
        compile_info={
            "hios_tvm": __version__,
            "tuned_kernels": sorted(network.tuned.traces),
            "machine": str(describe_machine()),
        },
    )


def _value_checks(main: relax.Function, extremes: Sequence[str]) -> Iterator[ValueCheck]:
    """Yield what the results behind the model's outputs check."""
    checks = json.loads(str(main.attrs[CHECKS])) if CHECKS in main.attrs else []
    for buffer, each in zip(extremes, checks, strict=True):
        for column, operator, kind, below, high in each:
            yield ValueCheck(buffer, column, operator, kind, below, high)


def _used(weights: Mapping[str, np.ndarray], manifest: Manifest) -> tuple[Arrays, Arrays]:
    """Return the weights that programs read, and those from which others are prepared."""
    used = {buffer.weight for buffer in manifest.buffers if buffer.space == "param"}
    sources = {weight.source for weight in manifest.prepared}
    return (
        {name: array for name, array in weights.items() if name in used},
        {name: array for name, array in weights.items() if name in sources},
    )


def _partition(
    network: Network,
    schedule: Schedule,
    placed: tvm.IRModule,
    launches: Mapping[str, Mapping[str, GpuKernel]],
) -> Partition:
    targets = {device.device: network.on(device.device).target for device in schedule}
    annotated = apply_pass(AnnotateSchedule(schedule, targets), placed)
    return partition_by_device(annotated, launches)


def _device_code(
    network: Network, schedule: Schedule, kernel_dir: Path | None, progress: PhaseProgress
) -> dict[str, DeviceCode]:
    """Return the code of each device that has operators; of the first one where none has."""
    busy = [device for device in schedule if device.operators] or list(schedule)[:1]
    kernels: dict[str, dict[str, tvm.IRModule]] = {}
    for device in busy:
        module = network.kernels_on(device.device, device.operators)
        kernels.setdefault(kind_of(device.device).kind, {})[device.device] = module
    code: dict[str, DeviceCode] = {}
    for kind, modules in kernels.items():
        code |= BACKENDS[kind].generate(
            modules,
            network.lowered[kind].target,
            cache_dir=kernel_dir,
            progress=partial(progress, "generate code"),
        )
    return code
