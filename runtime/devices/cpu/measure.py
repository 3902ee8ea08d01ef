"""Costs of an artifact's kernels on CPU devices of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations, product
from typing import TYPE_CHECKING

from hios_tvm.runtime.devices.cpu.copies import measure_references, measure_transfers
from hios_tvm.runtime.devices.cpu.cores import numa_nodes, require_cores
from hios_tvm.runtime.devices.cpu.kernels import measure_independence, measure_kernels
from hios_tvm.runtime.devices.kernel_calls import KernelCall, kernel_calls
from hios_tvm.runtime.devices.samples import fit_link
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.device_names import cpu_model_name, outermost, parse_cores
from hios_tvm.schema.platform import UNLIMITED, Device, Link, Platform
from hios_tvm.schema.schedule import HOST_MEMORY

if TYPE_CHECKING:
    from hios_tvm.runtime.read_artifact import Artifact

Progress = Callable[[int, int], None]


def measure_on_cpus(artifact: Artifact, names: Sequence[str], progress: Progress) -> CostTable:
    """Measure the kernels of an artifact on CPU devices, and these as a platform."""
    cores = {name: require_cores(name) for name in names}
    manifest = artifact.manifest
    calls = kernel_calls(manifest)
    models = {cpu_model_name(name): cores[name] for name in reversed(names)}
    times: dict[str, dict[str, Measurement]] = {model: {} for model in models}
    of_library: dict[str, list[str]] = {}
    for name, (device, _) in calls.items():
        of_library.setdefault(manifest.device[device].library or "", []).append(name)
    for entry, some in of_library.items():
        report = partial(_report, progress, sum(map(len, times.values())), len(calls) * len(models))
        places = list(product(some, models))  # an operator on all models, and then the next
        pairs = [(calls[name][1], models[model]) for name, model in places]
        measured = measure_kernels(artifact.libraries[entry], pairs, progress=report)
        for (name, model), measurement in zip(places, measured, strict=True):
            times[model][name] = measurement
    longest = max(calls, key=lambda name: next(iter(times.values()))[name].ms)
    device, call = calls[longest]
    platform = cpu_platform_of(names)
    if len(names) > 1:
        library = artifact.libraries[manifest.device[device].library or ""]
        platform = measure_together(library, call, platform.devices).on(platform)
    return CostTable(times, platform=platform)


def _report(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def cpu_platform_of(names: Sequence[str]) -> Platform:
    """Return CPU devices as a platform, without what is to be measured.

    Where devices share cores a stage needs no stream groups: it can have a device for each.
    """
    platform = Platform(tuple(Device(name, cores=parse_cores(name)) for name in names))
    memories = _memories(names)
    return replace(
        platform,
        devices=tuple(
            replace(
                device,
                model=cpu_model_name(device.name),
                streams=1 if platform.shares_cores else device.width,
                memory=memories[device.name],
            )
            for device in platform.devices
        ),
    )


@dataclass(frozen=True)
class Together:
    """What devices are to each other.

    `reference` is what it costs to read in place what another device has written, `copy` to copy it
    from another memory, `independence` the speed of a device while all run, relative to its alone.
    """

    reference: Link
    copy: Link
    independence: float

    def on(self, platform: Platform) -> Platform:
        """Return `platform` with its links and independence."""
        pairs = permutations(platform.devices, 2)
        apart = _disjoint(platform.devices)
        others = platform.unit_count - apart[0].width
        # `Platform.independence` is that of a device of one unit.
        slower = (1.0 / self.independence - 1.0) / others if others else 0.0
        return replace(
            platform,
            links=tuple((a.name, b.name, self.copy) for a, b in pairs if a.memory != b.memory),
            default_link=self.reference,
            independence=1.0 / (1.0 + slower * (platform.unit_count - 1)),
        )


def measure_together(library: bytes, call: KernelCall, devices: Sequence[Device]) -> Together:
    """Measure devices of this machine, and how independent they are in `call`."""
    first, *others = _disjoint(devices)
    near = [other.cores for other in others if other.memory == first.memory]
    far = [other.cores for other in others if other.memory != first.memory]
    return Together(
        measure_references(library, first.cores, near[0]) if near else UNLIMITED,
        fit_link(measure_transfers(library, first.cores, far[0])) if far else UNLIMITED,
        measure_independence(library, call, [first.cores, *(other.cores for other in others)]),
    )


def _disjoint(devices: Sequence[Device]) -> list[Device]:
    """Return devices that share no core, narrow ones first."""
    chosen: list[Device] = []
    for device in sorted(devices, key=lambda device: device.width):
        if all(set(device.cores).isdisjoint(other.cores) for other in chosen):
            chosen.append(device)
    return chosen


def _memories(names: Sequence[str]) -> dict[str, str]:
    """Return the memory of each device: that of a NUMA node where they are on several nodes.

    Parts of a device share its memory, also where that is on several nodes.
    """
    nodes = numa_nodes()
    whole = {name: set(parse_cores(name)) for name in outermost(names)}
    memory = {}
    for name, cores in whole.items():
        on = [node for node, own in nodes.items() if cores & own]
        memory[name] = f"node{on[0]}" if len(on) == 1 and len(nodes) > 1 else HOST_MEMORY
    return {
        name: next(memory[other] for other, cores in whole.items() if cores >= {*parse_cores(name)})
        for name in names
    }
