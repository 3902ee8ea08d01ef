"""The phases that turn a network into scheduled kernels."""

from __future__ import annotations

from pathlib import Path

import tvm
from tvm import relax, tirx
from tvm.ir import IRModule

from hios_tvm.errors import CompileError, HiosError
from hios_tvm.passes.channels_last import ChannelsLast
from hios_tvm.passes.cpu_rules.convolution import Convolution
from hios_tvm.passes.cpu_rules.fallback import Fallback
from hios_tvm.passes.cpu_rules.injective import Injective
from hios_tvm.passes.cpu_rules.product import Product
from hios_tvm.passes.cpu_rules.rows import Rows
from hios_tvm.passes.cpu_rules.window import SlidingWindow
from hios_tvm.passes.cpu_rules.winograd import Winograd
from hios_tvm.passes.dump_ir import DumpIR
from hios_tvm.passes.exact_floats import ExactComparisons, NanExtrema
from hios_tvm.passes.fold_batch_norm import FoldBatchNorm
from hios_tvm.passes.fold_constants import FoldConstants
from hios_tvm.passes.gpu_rules import gpu_rules
from hios_tvm.passes.legalize_operators import legalizations
from hios_tvm.passes.limit_fusion import LimitFusion
from hios_tvm.passes.merge_convolutions import MergeConvolutions
from hios_tvm.passes.merge_equal_kernels import MergeEqualKernels
from hios_tvm.passes.ordinary_convolutions import OrdinaryConvolutions
from hios_tvm.passes.raise_pads import RaisePads
from hios_tvm.passes.schedule_kernels import ScheduleKernels, ScheduleRule
from hios_tvm.passes.simplify_inference import SimplifyInference
from hios_tvm.passes.single_precision import SinglePrecision
from hios_tvm.passes.targets import vector_lanes
from hios_tvm.passes.vector_math import VectorMath

__all__ = ["lower", "lower_to_kernels", "schedule_kernels"]


def lower(mod: IRModule, target: tvm.target.Target, *, dump_dir: Path | None = None) -> IRModule:
    """Return the network as a dataflow block of calls of kernels scheduled for `target`.

    Parameters
    ----------
    mod : IRModule
        One Relax function `main` of static shapes: a dataflow block, whose parameters are the
        model's inputs and whose weights are constants.
    target : tvm.target.Target
        A CPU target, such as `hios_tvm.passes.targets.host_target` returns.
    dump_dir : Path, optional
        Where to write the module after each phase, as TVMScript.

    Returns
    -------
    IRModule
        `main` as bindings of ``R.call_tir`` (and projections of tuples), with constants among the
        arguments, and one `PrimFunc` for each distinct kernel.

    Raises
    ------
    CompileError
        If TVM cannot lower an operator.
    """
    kernels = lower_to_kernels(mod, target, dump_dir=dump_dir)
    return schedule_kernels(kernels, target, dump_dir=dump_dir)


def lower_to_kernels(
    mod: IRModule,
    target: tvm.target.Target,
    *,
    merge_convolutions: bool = False,
    winograd: bool = True,
    dump_dir: Path | None = None,
) -> IRModule:
    """Return what `lower` does before kernels get their loops: phases 1 to 3.

    `target` is a CPU's. `merge_convolutions` makes one of several convolutions with one input;
    `winograd` is for kernels that CPUs alone run.
    """
    phases = tvm.transform.Sequential(
        [
            # Phase 1. Operators only, and none that matter in training only
            RaisePads(),
            SimplifyInference(),
            FoldBatchNorm(),
            SinglePrecision(),
            OrdinaryConvolutions(),
            *([MergeConvolutions()] if merge_convolutions else []),
            DumpIR("phase1-simplified", dump_dir),
            # Phase 2. Lay images out channels-last
            ChannelsLast(),
            relax.transform.EliminateCommonSubexpr(),
            DumpIR("phase2-layout", dump_dir),
            # Phase 3. From operators to kernels
            relax.backend.DispatchSortScan(),
            relax.transform.LegalizeOps(legalizations(target, winograd=winograd)),
            FoldConstants(),
            relax.transform.AnnotateTIROpPattern(),
            LimitFusion(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            ExactComparisons(),
            MergeEqualKernels(),
            DumpIR("phase3-kernels", dump_dir),
        ]
    )
    return _run(phases, mod, target)


def schedule_kernels(
    mod: IRModule, target: tvm.target.Target, *, dump_dir: Path | None = None
) -> IRModule:
    """Give each kernel of `mod`, from `lower_to_kernels`, its loops by the rules: phase 4.

    `target` is a CPU's or a CUDA one.
    """
    on_gpu = target.kind.name == "cuda"
    phases = tvm.transform.Sequential(
        [
            # Phase 4. Schedule the kernels
            *(_gpu_loops(target) if on_gpu else _cpu_loops(target)),
            DumpIR("phase4-scheduled-gpu" if on_gpu else "phase4-scheduled", dump_dir),
        ]
    )
    return _run(phases, mod, target)


def _cpu_loops(target: tvm.target.Target) -> list[tvm.transform.Pass]:
    lanes = vector_lanes(target)
    rules: list[ScheduleRule] = [
        Convolution(),
        Winograd(),
        Product(),
        SlidingWindow(),
        Injective(lanes),
        Rows(lanes),
        Fallback(lanes),
    ]
    # TVMScript folds constants when it reads a kernel; simplified ones read back as they are
    return [ScheduleKernels(rules), NanExtrema(), VectorMath(), tirx.transform.StmtSimplify()]


def _gpu_loops(target: tvm.target.Target) -> list[tvm.transform.Pass]:
    return [ScheduleKernels(gpu_rules(target)), NanExtrema(of_reductions=False)]


def _run(phases: tvm.transform.Pass, mod: IRModule, target: tvm.target.Target) -> IRModule:
    try:
        with target:
            return phases(mod)
    except HiosError:
        raise
    except Exception as error:  # TVM raises what its checks find, in all of Python's types
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CompileError(f"TVM cannot lower the model: {reason}") from error
