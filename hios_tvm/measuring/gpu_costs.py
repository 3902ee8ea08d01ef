"""Costs of GPUs that are here: kernels alone, and stream groups when a scheduler asks for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tvm.target import Target

from hios_tvm.artifact.build import Progress
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.cuda.codegen import CudaCode, build_device_code, generate_cuda
from hios_tvm.backends.cuda.targets import arch_of
from hios_tvm.backends.network import Network
from hios_tvm.errors import DeviceError
from hios_tvm.measuring.copies import fit_link
from hios_tvm.measuring.gpu_kernels import GpuBench, measure_copies
from hios_tvm.runtime.devices.cuda import CudaDriver, Gpu, load_driver, split_gpu
from hios_tvm.runtime.native import load_library
from hios_tvm.schema.costs import Measurement, StageKey
from hios_tvm.schema.device_names import gpu_model_name
from hios_tvm.schema.platform import Link


def driver_for(target: Target) -> CudaDriver | None:
    """Return the driver where this machine has a GPU that runs code for `target`."""
    try:
        driver = load_driver()
        fits = driver.gpu_count() > 0 and driver.arch(0) == arch_of(target)
    except DeviceError:
        return None
    return driver if fits else None


@dataclass
class GpuLaboratory:
    """Measures the kernels of a network on the first GPU of this machine, or on a part of it."""

    network: Network
    driver: CudaDriver
    parts: int
    kernel_dir: Path | None
    progress: Progress
    _kept: dict[StageKey, Measurement] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The device model that is measured."""
        return gpu_model_name(arch_of(self.target), self.parts)

    def latencies(self) -> dict[str, Measurement]:
        """Time of each operator alone."""
        times: dict[str, Measurement] = {}
        kernel_of = {op.name: op.kernel for op in self.network.graph.operators}
        kernels = list(dict.fromkeys(kernel_of.values()))
        for done, kernel in enumerate(kernels):
            self.progress("measure", done, len(kernels))
            times[kernel] = self._bench.kernel(kernel)
        return {operator: times[kernel] for operator, kernel in kernel_of.items()}

    def utilization(self) -> dict[str, float]:
        """Share of the GPU that each operator can use."""
        return {op.name: self._bench.utilization(op.kernel) for op in self.network.graph.operators}

    def stage(self, groups: StageKey) -> Measurement:
        """Time of stream groups that run together; equal kernels in equal groups once."""
        kernel_of = self.network.graph.operator
        kernels = [tuple(kernel_of[name].kernel for name in group) for group in groups]
        key = tuple(sorted(kernels))
        if key not in self._kept:
            self._kept[key] = self._bench.joint(key)
        return self._kept[key]

    def link(self) -> Link | None:
        """What copies between two GPUs, or two parts of one, take; None where there is one."""
        if self.parts > 1:
            gpu = self._gpu(0, 1)
        elif self.driver.gpu_count() > 1:
            gpu = self._gpu(1, 0)
            gpu.reach(self._bench.gpu)
        else:
            return None
        second = GpuBench(gpu, self._bench.kernels, self._bench.library)
        try:
            return fit_link(measure_copies(self._bench, second))
        finally:
            second.gpu.close()

    @cached_property
    def _bench(self) -> GpuBench:
        library = load_library(link_library([], self.network.host))
        kernels = self._generated.kernels
        return GpuBench(self._gpu(0, 0), kernels, library)

    def _gpu(self, index: int, part: int) -> Gpu:
        share = None if self.parts == 1 else self._shares[part]
        return Gpu(self.driver, index, self._code, share)

    @cached_property
    def _shares(self) -> list[Any]:
        return list(split_gpu(self.driver, 0, self.parts))

    @cached_property
    def _code(self) -> bytes:
        return build_device_code(self._generated.source, self.target, cache_dir=self.kernel_dir)

    @property
    def target(self) -> Target:
        """The target of the kernels."""
        return self.network.lowered["cuda"].target

    @cached_property
    def _generated(self) -> CudaCode:
        return generate_cuda(self.network.lowered["cuda"].mod, self.target)
