"""The phases that turn a network into scheduled kernels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias

import tvm
from tvm import relax, tirx
from tvm.ir import IRModule
from tvm.ir.transform import Pass
from tvm.target import Target

from hios_tvm.errors import CompileError, HiosError
from hios_tvm.passes.bound_indices import BoundIndices
from hios_tvm.passes.channels_last import ChannelsLast
from hios_tvm.passes.check_values import CheckValues
from hios_tvm.passes.check_work import check_work
from hios_tvm.passes.convolve_small_images import ConvolveSmallImages
from hios_tvm.passes.cpu_rules.attention import Attention
from hios_tvm.passes.cpu_rules.bfloat_convolution import BfloatConvolution
from hios_tvm.passes.cpu_rules.columns import Columns
from hios_tvm.passes.cpu_rules.convolution import Convolution
from hios_tvm.passes.cpu_rules.fallback import Fallback
from hios_tvm.passes.cpu_rules.grouped_convolution import GroupedConvolution
from hios_tvm.passes.cpu_rules.injective import Injective
from hios_tvm.passes.cpu_rules.integer_convolution import IntegerConvolution
from hios_tvm.passes.cpu_rules.integer_steps import IntegerInstruction
from hios_tvm.passes.cpu_rules.long_product import LongProduct
from hios_tvm.passes.cpu_rules.pixel_words import PixelWords
from hios_tvm.passes.cpu_rules.product import Product
from hios_tvm.passes.cpu_rules.rows import Rows
from hios_tvm.passes.cpu_rules.window import SlidingWindow
from hios_tvm.passes.cpu_rules.winograd import Winograd
from hios_tvm.passes.dump_ir import DumpIR
from hios_tvm.passes.exact_floats import ExactComparisons, NanExtrema
from hios_tvm.passes.fold_batch_norm import FoldBatchNorm
from hios_tvm.passes.fold_constants import FoldConstants
from hios_tvm.passes.fuse_attention import FuseAttention
from hios_tvm.passes.fuse_operators import FuseOperators
from hios_tvm.passes.gelu import RecognizeGelu
from hios_tvm.passes.gpu_rules import gpu_rules
from hios_tvm.passes.gpu_rules.attention_tiles import MOST_KEYS
from hios_tvm.passes.integer_products import IntegerProducts
from hios_tvm.passes.keep_bytes import KeepBytes
from hios_tvm.passes.legalize_operators import LEGALIZATIONS
from hios_tvm.passes.limit_fusion import LimitFusion
from hios_tvm.passes.lower_quantization import LowerQuantization
from hios_tvm.passes.merge_convolutions import MergeConvolutions
from hios_tvm.passes.merge_equal_kernels import MergeEqualKernels
from hios_tvm.passes.move_rearrangements import MoveRearrangements
from hios_tvm.passes.narrow_weights import NarrowWeights, half_types
from hios_tvm.passes.ordinary_convolutions import OrdinaryConvolutions
from hios_tvm.passes.quantized_operators import QuantizedOperators
from hios_tvm.passes.raise_pads import RaisePads
from hios_tvm.passes.schedule_kernels import ScheduleKernels, ScheduleRule
from hios_tvm.passes.simplify_inference import SimplifyInference
from hios_tvm.passes.single_precision import SinglePrecision
from hios_tvm.passes.slice_volumes import SliceVolumes
from hios_tvm.passes.vector_math import VectorMath
from hios_tvm.passes.vector_rounding import VectorRounding
from hios_tvm.passes.widen_half import WidenHalf
from hios_tvm.schema.gpu_models import GpuModel
from hios_tvm.schema.precisions import Precision

Progress: TypeAlias = Callable[[int, int], None]

_ANY_CPU = Target("llvm")  # which sorts and scans are written for; others bring their own loops


def lower_to_kernels(
    mod: IRModule,
    *,
    merge_convolutions: bool = False,
    for_cpus: bool = False,
    own_passes: Sequence[Pass] = (),
    dump_dir: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> IRModule:
    """Return the network as a dataflow block of calls of kernels for no device yet.

    Parameters
    ----------
    mod : IRModule
        One Relax function `main` of static shapes: a dataflow block, whose parameters are the
        model's inputs and whose weights are constants.
    merge_convolutions : bool
        Make one of several convolutions with one input.
    for_cpus : bool
        Make one kernel of an attention of any size, while on GPUs its scores have to fit into
        shared memory, and compute half-precision tensors in single precision, for which CPUs have
        rules, with weights in memory as they are.
    own_passes : sequence of Pass
        What the only kind of device that the network is for does to its kernels.
    dump_dir : Path, optional
        Where to write the module after each phase, as TVMScript.
    progress : function
        Called with the passes done and the passes in all.

    Returns
    -------
    IRModule
        `main` as bindings of ``R.call_tir`` (and projections of tuples), with constants among the
        arguments, and one `PrimFunc` for each distinct kernel. Its blocks say what their loops
        mean (`hios_tvm.schema.kernel_shapes`); tiles and packed weights are the backends' choice.

    Raises
    ------
    CompileError
        If TVM cannot lower an operator.
    ModelError
        If an operator would take longer than any user waits (`MAX_STEPS`).
    """
    half = half_types(mod) if for_cpus else ()
    phases = [
        # Phase 1. Operators only, and none that matter in training only
        CheckValues(),
        *([WidenHalf()] if for_cpus else []),
        *([QuantizedOperators()] if for_cpus else []),
        LowerQuantization(),
        IntegerProducts(for_cpus=for_cpus),
        RecognizeGelu(),
        RaisePads(),
        SimplifyInference(),
        FoldBatchNorm(half),
        SinglePrecision(),
        OrdinaryConvolutions(),
        SliceVolumes(),
        *([MergeConvolutions()] if merge_convolutions else []),
        DumpIR("phase1-simplified", dump_dir),
        # Phase 2. Lay images out channels-last
        MoveRearrangements(),
        ChannelsLast(),
        MoveRearrangements(),
        ConvolveSmallImages(),
        relax.transform.EliminateCommonSubexpr(),
        DumpIR("phase2-layout", dump_dir),
        # Phase 3. From operators to kernels
        FuseAttention(None if for_cpus else MOST_KEYS),
        NarrowWeights(half),
        relax.backend.DispatchSortScan(),
        relax.transform.LegalizeOps(LEGALIZATIONS),
        BoundIndices(),
        FoldConstants(),
        relax.transform.AnnotateTIROpPattern(),
        LimitFusion(),
        KeepBytes(),
        FuseOperators(),
        ExactComparisons(),
        MergeEqualKernels(),
        *own_passes,
        DumpIR("phase3-kernels", dump_dir),
    ]
    kernels = run_passes(phases, mod, _ANY_CPU, progress)
    check_work(kernels)
    return kernels


def cpu_rules(
    lanes: int,
    registers: int,
    integers: IntegerInstruction = "none",
    precision: Precision = "fp32",
) -> list[ScheduleRule]:
    """Return the rules for CPUs with `registers` vector registers of `lanes` floats.

    `integers` is what they multiply integers of 8 bits with, `precision` what they round the
    factors of convolutions and of products with constant matrices to.
    """
    return [
        Attention(lanes, registers),
        GroupedConvolution(lanes, registers),
        *([BfloatConvolution(lanes, registers)] if precision == "bf16" else []),
        Winograd(lanes, registers),
        LongProduct(lanes, registers),
        Convolution(lanes, registers),
        IntegerConvolution(lanes, registers, integers),
        Product(lanes, registers),
        SlidingWindow(lanes, registers),
        PixelWords(lanes, registers),
        Injective(lanes, registers),
        Rows(lanes, registers),
        Columns(lanes, registers),
        Fallback(lanes, registers),
    ]


def cpu_loops(rules: Sequence[ScheduleRule], left: Collection[str] = ()) -> list[Pass]:
    """Phase 4 for CPUs, by `cpu_rules`. Kernels whose names are `left` keep their loops."""
    # TVMScript folds constants when it reads a kernel; simplified ones read back as they are
    return [
        ScheduleKernels(rules, left),
        NanExtrema(),
        VectorRounding(),
        VectorMath(),
        tirx.transform.StmtSimplify(),
    ]


def gpu_loops(target: Target, gpu: GpuModel, precision: Precision) -> list[Pass]:
    """Phase 4 for GPUs like `gpu` of `target`, a CUDA target."""
    rules = gpu_rules(target, gpu, precision)
    return [ScheduleKernels(rules), NanExtrema(on_gpu=True, of_reductions=False)]


def run_passes(
    phases: Sequence[Pass],
    mod: IRModule,
    target: Target,
    progress: Progress = lambda done, total: None,
) -> IRModule:
    """Run `phases` on `mod` for `target`, and report after each.

    Raises
    ------
    CompileError
        If one of them fails.
    """
    try:
        with target:
            for done, step in enumerate(phases):
                progress(done, len(phases))
                mod = tvm.transform.Sequential([step])(mod)  # which skips what is switched off
            return mod
    except HiosError:
        raise
    except Exception as error:  # TVM raises what its checks find, in all of Python's types
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CompileError(f"TVM cannot lower the model: {reason}") from error
