"""Schedule rules for GPUs: the same kernels as on CPUs, with their loops on blocks and threads."""

from collections.abc import Callable

import tvm
from tvm import tirx

from hios_tvm.passes.gpu_rules.attention import Attention
from hios_tvm.passes.gpu_rules.implicit_gemm import ImplicitGemm
from hios_tvm.passes.gpu_rules.tensor_cores import TensorCores
from hios_tvm.passes.gpu_rules.thread_per_output import ThreadPerOutput
from hios_tvm.passes.gpu_rules.tvm_rules import TvmRules
from hios_tvm.passes.schedule_kernels import ScheduleRule
from hios_tvm.schema.gpu_models import GpuModel
from hios_tvm.schema.precisions import Precision

__all__ = ["gpu_rules", "rounded_inputs"]

_MOST_STAGES = 4  # slices of a block in shared memory


def gpu_rules(target: tvm.target.Target, gpu: GpuModel, precision: Precision) -> list[ScheduleRule]:
    """Return the rules for `target`, a CUDA target of GPUs like `gpu`, the most special first."""
    units, stages = gpu.multiprocessors, _MOST_STAGES if gpu.copies_asynchronously else 2
    plain: list[ScheduleRule] = [
        Attention(units),
        ImplicitGemm(units, stages),
        ThreadPerOutput(),
        TvmRules(target),
    ]
    if precision == "fp32":
        return plain
    attention, *others = plain
    return [attention, TensorCores(units, stages, precision), *others]


def rounded_inputs(gpu: GpuModel) -> Callable[[tirx.PrimFunc], list[int]]:
    """Return what says which parameters of a kernel are rounded to half precision when read."""
    return TensorCores(gpu.multiprocessors, _MOST_STAGES, "fp16").rounded_inputs
