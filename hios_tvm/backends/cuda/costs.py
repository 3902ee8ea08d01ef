"""Costs of GPUs: of those that are here measured, of others estimated.

Kernels are measured alone, and stream groups when a scheduler asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from tvm.target import Target

from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.cuda.codegen import build_device_code, generate_cuda
from hios_tvm.backends.cuda.estimate import estimate_gpu
from hios_tvm.backends.cuda.targets import arch_of
from hios_tvm.backends.interface import CostRequest
from hios_tvm.backends.precisions import precision_of
from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cuda.driver import CudaDriver, load_driver
from hios_tvm.runtime.devices.cuda.gpu import open_gpus
from hios_tvm.runtime.devices.cuda.kernels import GpuBench, measure_links, measure_operators
from hios_tvm.runtime.devices.cuda.measure import gpu_platform
from hios_tvm.runtime.devices.kernel_calls import KernelCall, kernel_call
from hios_tvm.runtime.native import load_library
from hios_tvm.schema.costs import CostTable, Measurement, StageKey
from hios_tvm.schema.device_names import GpuPlace, gpu_model_name, gpu_place
from hios_tvm.schema.gpu_models import gpu_model
from hios_tvm.schema.platform import Link

if TYPE_CHECKING:
    from hios_tvm.backends.network import Lowered, Network


def gpu_costs(network: Network, devices: Sequence[str], request: CostRequest) -> CostTable:
    """Return the times of the network's operators on GPUs, or on parts of them."""
    form = network.on(devices[0])
    target = form.target
    parts_of = {name: gpu_place(name).parts for name in devices}
    model_of = {parts: gpu_model_name(arch_of(target), parts) for parts in parts_of.values()}
    driver, copies = driver_for(target), request.link
    reference: Link | None = None
    latency: dict[str, Mapping[str, Measurement]] = {}
    utilization: dict[str, Mapping[str, float]] = {}
    laboratories: dict[str, _Laboratory] = {}
    for parts, model in sorted(model_of.items()):
        if driver is None:
            latency[model], utilization[model] = _estimated(network, form, parts)
            continue
        laboratory = _Laboratory(network, form, driver, parts, request)
        laboratories[model] = laboratory
        latency[model], utilization[model] = laboratory.operators()
        links = laboratory.links(latency[model])
        copies, reference = links[0] or copies, links[1] or reference

    def measure_stage(model: str, groups: StageKey) -> Measurement | None:
        return laboratories[model].stage(groups) if model in laboratories else None

    return CostTable(
        latency,
        utilization=utilization,
        precision=dict.fromkeys(latency, precision_of(target)),
        platform=gpu_platform(
            {name: model_of[parts] for name, parts in parts_of.items()}, copies, reference
        ),
        measure_stage=measure_stage,
    )


def _estimated(
    network: Network, form: Lowered, parts: int
) -> tuple[Mapping[str, Measurement], Mapping[str, float]]:
    """Estimate times and utilization from arithmetic, bytes and launches."""
    gpu = gpu_model(arch_of(form.target))
    gpu = replace(gpu, multiprocessors=gpu.multiprocessors // parts)
    return estimate_gpu(network.kernels, form.graph, gpu, precision_of(form.target))


def driver_for(target: Target) -> CudaDriver | None:
    """Return the driver where this machine has a GPU that runs code for `target`."""
    try:
        driver = load_driver()
        fits = driver.gpu_count() > 0 and driver.arch(0) == arch_of(target)
    except DeviceError:
        return None
    return driver if fits else None


@dataclass
class _Laboratory:
    """Measures the kernels of a network on the first GPU of this machine, or on a part of it."""

    network: Network
    form: Lowered
    driver: CudaDriver
    parts: int
    request: CostRequest
    _kept: dict[tuple[tuple[KernelCall, ...], ...], Measurement] = field(default_factory=dict)

    def operators(self) -> tuple[dict[str, Measurement], dict[str, float]]:
        """Time and utilization of each operator alone."""
        calls = {name: self._call(name) for name in self.form.graph.operator}
        return measure_operators(self._benches[0], calls, partial(self.request.progress, "measure"))

    def stage(self, groups: StageKey) -> Measurement:
        """Time of stream groups that run together; equal kernels in equal groups once."""
        calls = [tuple(map(self._call, group)) for group in groups]
        key = tuple(sorted(calls, key=lambda group: [call.kernel for call in group]))
        if key not in self._kept:
            self._kept[key] = self._benches[0].joint(key)
        return self._kept[key]

    def links(self, latency: Mapping[str, Measurement]) -> tuple[Link | None, Link | None]:
        """What copies between GPUs and hand-overs between parts take, where there are two."""
        shortest = min(latency, key=lambda operator: latency[operator].ms)
        return measure_links(self._benches, self._call(shortest))

    def _call(self, operator: str) -> KernelCall:
        return kernel_call(self.form.graph, operator)

    @cached_property
    def _benches(self) -> list[GpuBench]:
        """The first GPU, or two parts of it, and the second GPU where there is one."""
        target = self.form.target
        cuda = generate_cuda(self.form.mod, target)
        code = build_device_code(cuda.source, target, cache_dir=self.request.kernel_dir)
        places = [GpuPlace(0, part, self.parts) for part in range(min(2, self.parts))]
        if self.driver.gpu_count() > 1:
            places.append(GpuPlace(1, parts=self.parts))
        gpus = open_gpus(self.driver, places, [code] * len(places))
        library = load_library(link_library([], target.host))
        return [GpuBench(gpu, cuda.kernels, library) for gpu in gpus]
