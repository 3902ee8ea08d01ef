"""The costs of a lowered network on the devices that it is compiled for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tvm.target import Target

from hios_tvm.backends import backend_of
from hios_tvm.backends.cuda.targets import precision_of
from hios_tvm.backends.network import Network
from hios_tvm.errors import CostError, UsageError
from hios_tvm.measuring.cache import CostCache, kernel_dir
from hios_tvm.measuring.cpu_costs import collect_costs
from hios_tvm.measuring.cpu_platform import cpu_platform
from hios_tvm.measuring.gpu_costs import GpuLaboratory, driver_for
from hios_tvm.measuring.rpc_costs import RpcAddress, remote_costs
from hios_tvm.schema.costs import CostTable, Measurement, StageKey
from hios_tvm.schema.device_names import (
    GPU_STREAMS,
    check_device,
    gpu_place,
    of_kind,
)
from hios_tvm.schema.links import LINKS
from hios_tvm.schema.platform import Device, Platform

Progress = Callable[[str, int, int], None]


def network_costs(
    network: Network,
    devices: Sequence[str],
    *,
    given: CostTable | None = None,
    link: str = "pcie4",
    rpc: RpcAddress | None = None,
    cache_dir: Path | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> tuple[CostTable, Platform]:
    """Return the times of the network's operators on `devices`, and these as a platform.

    Parameters
    ----------
    given : CostTable, optional
        Used as they are; nothing is measured.
    link : str
        What connects GPUs where nothing says: a name in `LINKS`.
    rpc : RpcAddress, optional
        Where to measure instead of here.
    cache_dir : Path, optional
        Folder of measured costs and compiled kernels.

    Raises
    ------
    UsageError, CostError
        If a device or link is unknown, or costs are missing or cannot be measured.
    """
    for name in devices:
        check_device(name)
    if link not in LINKS:
        raise UsageError(f"link {link!r} is unknown: there are {', '.join(LINKS)}")
    if given is not None:
        platform = _platform(network, devices, link, given.platform, None, progress)
        given.check(network.graph, platform)
        if "cuda" in network.lowered:
            given.check_precision(precision_of(network.lowered["cuda"].target))
        return given, platform
    kernels = kernel_dir(cache_dir)
    if rpc is not None:
        if "cuda" in network.lowered:
            raise UsageError("costs of GPUs are not measured over RPC: leave --rpc out")
        cpu = network.lowered["cpu"]
        return remote_costs(
            cpu.mod, cpu.graph, cpu.target, devices, rpc, kernel_dir=kernels, progress=progress
        )
    cache = None if cache_dir is None else CostCache(cache_dir)
    platform = _platform(network, devices, link, None, cache, progress)
    costs = CostTable(latency={}, platform=platform)
    cpus = of_kind("cpu", devices)
    if cpus:
        cpu = network.lowered["cpu"]
        costs = collect_costs(
            cpu.mod,
            cpu.graph,
            cpu.target,
            replace(platform, devices=tuple(d for d in platform.devices if d.name in cpus)),
            cache=cache,
            kernel_dir=kernels,
            progress=progress,
        )
    if "cuda" not in network.lowered:
        return costs, platform
    driver = driver_for(network.lowered["cuda"].target)
    gpus = {gpu_place(name).parts: name for name in of_kind("cuda", devices)}
    for parts, device in sorted(gpus.items()):
        if driver is None:
            costs = _with_estimates(costs, network, device)
            continue
        laboratory = GpuLaboratory(network, driver, parts, kernels, progress)
        platform = replace(platform, default_link=laboratory.link() or platform.default_link)
        costs = _with_gpu_costs(costs, laboratory)
    return replace(costs, platform=platform), platform


def _with_estimates(costs: CostTable, network: Network, device: str) -> CostTable:
    form, backend = network.on(device), backend_of(device)
    estimate = backend.estimate(network.kernels, form.graph, form.target, device)
    if estimate is None:
        raise CostError(f"costs of {device!r} are not estimated: measure them, and give --costs")
    model = backend.model(device, form.target)
    return _with_gpu(costs, model, estimate.latency, estimate.utilization, form.target)


def _with_gpu(
    costs: CostTable,
    model: str,
    times: Mapping[str, Measurement],
    utilization: Mapping[str, float],
    target: Target,
) -> CostTable:
    """Add the costs of one model of GPUs, or of parts of them."""
    return replace(
        costs,
        latency={**costs.latency, model: times},
        utilization={**costs.utilization, model: utilization},
        precision={**costs.precision, model: precision_of(target)},
    )


def _with_gpu_costs(costs: CostTable, laboratory: GpuLaboratory) -> CostTable:
    known_stage = costs.measure_stage

    def measure_stage(model: str, groups: StageKey) -> Measurement | None:
        if model == laboratory.model:
            return laboratory.stage(groups)
        return None if known_stage is None else known_stage(model, groups)

    costs = _with_gpu(
        costs,
        laboratory.model,
        laboratory.latencies(),
        laboratory.utilization(),
        laboratory.target,
    )
    return replace(costs, measure_stage=measure_stage)


def _platform(
    network: Network,
    names: Sequence[str],
    link: str,
    measured: Platform | None,
    cache: CostCache | None,
    progress: Progress,
) -> Platform:
    """Return the devices in their order; links are measured ones, or for GPUs `link`."""
    cpus = of_kind("cpu", names)
    platform = Platform(tuple(map(Device, names)))
    if cpus:
        platform = cpu_platform(
            cpus, network.host, measured=measured, cache=cache, progress=progress
        )
    if "cuda" not in network.lowered:
        return platform
    known = {device.name: device for device in platform.devices}
    known |= {
        name: Device(name, backend_of(name).model(name, network.on(name).target), GPU_STREAMS)
        for name in of_kind("cuda", names)
    }
    return replace(
        platform,
        devices=tuple(known[name] for name in names),
        default_link=LINKS[link] if measured is None else measured.default_link,
        independence=1.0,
    )
