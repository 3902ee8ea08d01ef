"""The backend of CPUs: what the table of backends calls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import IRModule
from tvm.ir.transform import Pass
from tvm.target import Target

from hios_tvm.backends.cpu.codegen import compile_kernels
from hios_tvm.backends.cpu.costs import collect_costs
from hios_tvm.backends.cpu.features import cpu_features
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.cpu.platform import cpu_platform
from hios_tvm.backends.cpu.targets import (
    integer_instruction,
    parse_target,
    vector_lanes,
    vector_registers,
    with_precision,
)
from hios_tvm.backends.interface import CostRequest, DeviceCode, Progress
from hios_tvm.backends.precisions import precision_of
from hios_tvm.passes.pipeline import cpu_loops, cpu_rules
from hios_tvm.passes.schedule_kernels import Packing, ScheduleRule, schedule
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import cpu_model_name
from hios_tvm.schema.precisions import Precision

if TYPE_CHECKING:
    from hios_tvm.backends.network import Network


def rules_of(target: Target) -> list[ScheduleRule]:
    """Return the schedule rules for the vectors, registers and precision of `target`."""
    return cpu_rules(
        vector_lanes(target),
        vector_registers(target),
        integer_instruction(target),
        precision_of(target),
    )


def packings_of(kernel: tirx.PrimFunc, target: Target) -> Mapping[int, Packing]:
    """Return how the rules pack constants of `kernel`, which is target-free, by parameter."""
    return schedule(kernel, rules_of(target)).packings


class CpuBackend:
    """x86-64 and 64-bit Arm CPUs, through LLVM."""

    kind = "cpu"
    target_kind = "llvm"
    precisions: tuple[Precision, ...] = ("fp32", "bf16")

    def names_target(self, word: str) -> bool:
        """Any word may be the name of a CPU; other backends are asked first."""
        return True

    def target(self, word: str | None, host: Target, precision: Precision) -> Target:
        """Return the target of a CPU; without a word that of `host`."""
        return with_precision(host if word is None else parse_target(word), precision)

    def own_passes(self, target: Target) -> list[Pass]:
        """Return none: what CPUs alone have are operators."""
        return []

    def loops(self, target: Target, left: Collection[str] = ()) -> list[Pass]:
        """Return phase 4 for the vectors and registers of `target`."""
        return cpu_loops(rules_of(target), left)

    def generate(
        self,
        kernels: Mapping[str, IRModule],
        target: Target,
        *,
        cache_dir: Path | None = None,
        progress: Progress = lambda done, total: None,
    ) -> dict[str, DeviceCode]:
        """Compile the kernels of all devices and link them with the executor into one library.

        A core may call kernels of several devices, and finds them all in the library of one.
        """
        functions = {g.name_hint: f for own in kernels.values() for g, f in own.functions.items()}
        module = IRModule(functions)
        objects = compile_kernels(module, target, cache_dir=cache_dir, progress=progress)
        return dict.fromkeys(kernels, DeviceCode(link_library(objects.values(), target)))

    def features(self, target: Target) -> tuple[str, ...]:
        """Return the features of `target` in the words of /proc/cpuinfo."""
        return cpu_features(target)

    def model(self, device: str, target: Target) -> str:
        """Return how many cores the device has."""
        return cpu_model_name(device)

    def costs(self, network: Network, devices: Sequence[str], request: CostRequest) -> CostTable:
        """Measure kernels, copies and independence, but for what the cache has."""
        form = network.on(devices[0])
        cache, progress = request.cache, request.progress
        platform = cpu_platform(devices, form.target, cache=cache, progress=progress)
        return collect_costs(
            form.mod,
            form.graph,
            form.target,
            platform,
            cache=cache,
            kernel_dir=request.kernel_dir,
            progress=progress,
        )
