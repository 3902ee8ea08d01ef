"""The backend of CUDA GPUs: what the table of backends calls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm.ir import IRModule
from tvm.ir.transform import Pass
from tvm.target import Target

from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.cuda.codegen import build_device_code, generate_cuda
from hios_tvm.backends.cuda.costs import gpu_costs
from hios_tvm.backends.cuda.targets import arch_here, arch_of, cuda_target
from hios_tvm.backends.interface import CostRequest, DeviceCode, Progress
from hios_tvm.backends.precisions import precision_of
from hios_tvm.passes.gpu_rules import rounded_inputs
from hios_tvm.passes.half_activations import HalfActivations
from hios_tvm.passes.pipeline import gpu_loops
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import gpu_model_name, gpu_place
from hios_tvm.schema.gpu_models import gpu_model
from hios_tvm.schema.precisions import Precision

if TYPE_CHECKING:
    from hios_tvm.backends.network import Network


class CudaBackend:
    """GPUs of NVIDIA, through CUDA C++ and nvcc."""

    kind = "cuda"
    target_kind = "cuda"
    precisions: tuple[Precision, ...] = ("fp32", "tf32", "fp16")

    def names_target(self, word: str) -> bool:
        """Whether `word` is an architecture, such as ``sm_90``."""
        return word.startswith("sm_")

    def target(self, word: str | None, host: Target, precision: Precision) -> Target:
        """Return the target of an architecture; without a word that of the first GPU here."""
        return cuda_target(arch_here() if word is None else word, host, precision)

    def own_passes(self, target: Target) -> list[Pass]:
        """Return what stores activations in half precision, where tensor cores round to it."""
        if precision_of(target) != "fp16":
            return []
        return [HalfActivations(rounded_inputs(gpu_model(arch_of(target))))]

    def loops(self, target: Target, left: Collection[str] = ()) -> list[Pass]:
        """Return phase 4 for blocks and threads; no kernel of a GPU is left as it is."""
        return gpu_loops(target, gpu_model(arch_of(target)), precision_of(target))

    def generate(
        self,
        kernels: Mapping[str, IRModule],
        target: Target,
        *,
        cache_dir: Path | None = None,
        progress: Progress = lambda done, total: None,
    ) -> dict[str, DeviceCode]:
        """Compile one binary of the kernels of all GPUs; their libraries are the executor alone."""
        functions = {
            var.name_hint: function
            for module in kernels.values()
            for var, function in module.functions_items()
        }
        cuda = generate_cuda(IRModule(functions), target)
        binary = build_device_code(cuda.source, target, cache_dir=cache_dir)
        library = link_library([], target.host)
        return dict.fromkeys(kernels, DeviceCode(library, binary, cuda.kernels))

    def features(self, target: Target) -> tuple[str, ...]:
        """Of the CPU beside a GPU nothing is asked."""
        return ()

    def model(self, device: str, target: Target) -> str:
        """Return the architecture, and the part of a GPU."""
        return gpu_model_name(arch_of(target), gpu_place(device).parts)

    def costs(self, network: Network, devices: Sequence[str], request: CostRequest) -> CostTable:
        """Measure kernels where such a GPU is here, otherwise estimate them."""
        return gpu_costs(network, devices, request)
