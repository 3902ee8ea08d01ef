"""The costs of a lowered network on the devices that it is compiled for."""

from collections.abc import Sequence
from pathlib import Path

from hios_tvm.backends import BACKENDS, backend_of
from hios_tvm.backends.cache import CostCache, kernel_dir
from hios_tvm.backends.cpu.platform import cpu_platform
from hios_tvm.backends.interface import CostRequest, PhaseProgress
from hios_tvm.backends.network import Network
from hios_tvm.errors import UsageError
from hios_tvm.measuring.rpc_costs import RpcAddress, remote_costs
from hios_tvm.runtime.devices import HOST, KINDS, check_devices, kind_of, of_kind
from hios_tvm.schema.costs import CostTable, Measurement, StageKey
from hios_tvm.schema.device_names import whole_device
from hios_tvm.schema.links import LINKS, PARTS_OF_GPU
from hios_tvm.schema.platform import Device, Link, Platform


def network_costs(
    network: Network,
    devices: Sequence[str],
    *,
    given: CostTable | None = None,
    link: str = "pcie4",
    rpc: RpcAddress | None = None,
    cache_dir: Path | None = None,
    progress: PhaseProgress = lambda phase, done, total: None,
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
    check_devices(devices)
    if link not in LINKS:
        raise UsageError(f"link {link!r} is unknown: there are {', '.join(LINKS)}")
    if given is not None:
        platform = _given_platform(network, devices, given.platform, LINKS[link])
        given.check(network.graph, platform)
        given.check_precision(network.recipe.precision, platform)
        return given, platform
    used = {kind_of(name).kind for name in devices}
    kernels = kernel_dir(cache_dir)
    if rpc is not None:
        if used != {HOST}:
            raise UsageError("costs of GPUs are not measured over RPC: leave --rpc out")
        form = network.lowered[HOST]
        return remote_costs(
            form.mod, form.graph, form.target, devices, rpc, kernel_dir=kernels, progress=progress
        )
    cache = None if cache_dir is None else CostCache(cache_dir)
    request = CostRequest(LINKS[link], cache, kernels, progress)
    kinds = [kind for kind in KINDS if kind in used]
    tables = [BACKENDS[kind].costs(network, of_kind(kind, devices), request) for kind in kinds]
    costs = tables[0] if len(tables) == 1 else _together(tables, devices)
    assert costs.platform is not None
    return costs, costs.platform


def _together(tables: Sequence[CostTable], names: Sequence[str]) -> CostTable:
    """Return the costs of several kinds of devices as one table.

    Copies are those of devices with memory of their own, which take longest; what links devices
    of one memory stays.
    """
    platforms = [table.platform for table in tables if table.platform is not None]
    device = {device.name: device for platform in platforms for device in platform.devices}
    links = {kind_of(p.devices[0].name).own_memory: p.default_link for p in platforms}

    def measure_stage(model: str, groups: StageKey) -> Measurement | None:
        answers = (t.measure_stage(model, groups) for t in tables if t.measure_stage is not None)
        return next((answer for answer in answers if answer is not None), None)

    return CostTable(
        latency={model: times for table in tables for model, times in table.latency.items()},
        utilization={model: used for table in tables for model, used in table.utilization.items()},
        precision={model: name for table in tables for model, name in table.precision.items()},
        platform=Platform(
            tuple(device[name] for name in names),
            links=tuple(link for platform in platforms for link in platform.links),
            default_link=links[max(links)],
        ),
        measure_stage=measure_stage,
    )


def _given_platform(
    network: Network, names: Sequence[str], measured: Platform | None, link: Link
) -> Platform:
    """Return the devices in their order, with the links that a cost table was measured on."""
    if all(kind_of(name).kind == HOST for name in names):
        return cpu_platform(names, network.host, measured=measured)
    devices = tuple(
        Device(
            name,
            backend_of(name).model(name, network.on(name).target),
            kind_of(name).streams(name),
            memory=whole_device(name) if kind_of(name).own_memory else None,
        )
        for name in names
    )
    platform = Platform(devices, default_link=link if measured is None else measured.default_link)
    reference = None if measured is None else measured.reference
    return platform.with_references(reference or PARTS_OF_GPU)
