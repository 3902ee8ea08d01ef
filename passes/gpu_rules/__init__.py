"""Schedule rules for GPUs: the same kernels as on CPUs, with their loops on blocks and threads."""

from __future__ import annotations

import tvm

from hios_tvm.passes.gpu_rules.implicit_gemm import ImplicitGemm
from hios_tvm.passes.gpu_rules.tensor_cores import TensorCores
from hios_tvm.passes.gpu_rules.thread_per_output import ThreadPerOutput
from hios_tvm.passes.gpu_rules.tvm_rules import TvmRules
from hios_tvm.passes.schedule_kernels import ScheduleRule
from hios_tvm.passes.targets import precision_of

__all__ = ["gpu_rules"]


def gpu_rules(target: tvm.target.Target) -> list[ScheduleRule]:
    """Return the rules for `target`, a CUDA target, the most special first."""
    plain: list[ScheduleRule] = [ImplicitGemm(target), ThreadPerOutput(), TvmRules(target)]
    return plain if precision_of(target) == "fp32" else [TensorCores(target), *plain]
