"""A lowered model: kernels with their loops, the operator graph, the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.ir import IRModule
from tvm.target import Target

from hios_tvm.backends.cpu.tuned_kernels import TunedChoice
from hios_tvm.passes.apply_traces import apply_traces
from hios_tvm.passes.canonicalize_operators import CanonicalizeOperators, collect_weights
from hios_tvm.passes.extract_operator_graph import extract_operator_graph
from hios_tvm.passes.pipeline import lower_to_kernels, schedule_kernels
from hios_tvm.passes.targets import parse_target
from hios_tvm.schema.graph import OperatorGraph

__all__ = ["Network", "apply_pass", "lower_network"]


@dataclass(frozen=True)
class Network:
    """A lowered model: scheduled kernels, the operator graph, and the weights by name.

    `kernels` is the module before the kernels got their loops; `tuned` says which of them got
    those of a tuning database. `gpu_mod` has the same kernels with loops for `gpu_target`.
    `merge_convolutions` is how it was lowered.
    """

    mod: IRModule
    graph: OperatorGraph
    weights: Mapping[str, np.ndarray]
    target: Target
    kernels: IRModule
    tuned: TunedChoice = field(default_factory=TunedChoice)
    gpu_target: Target | None = None
    gpu_mod: IRModule | None = None
    merge_convolutions: bool = False


def lower_network(
    mod: IRModule,
    target: str | Target,
    *,
    name: str = "model",
    gpu: Target | None = None,
    merge_convolutions: bool = False,
    dump_dir: Path | None = None,
    choose: Callable[[IRModule, IRModule, Target], TunedChoice] | None = None,
) -> Network:
    """Lower a frontend's module to scheduled kernels and read the operator graph off it.

    `choose` is given the kernels before and after the rules and returns which of them get the
    loops of a trace instead (`choose_tuned`). `merge_convolutions` makes one of several
    convolutions with one input. With a CUDA target `gpu` the kernels get loops for GPUs too.
    """
    parsed = parse_target(target) if isinstance(target, str) else target
    kernels = lower_to_kernels(
        mod,
        parsed,
        merge_convolutions=merge_convolutions,
        winograd=gpu is None,
        dump_dir=dump_dir,
    )
    lowered = schedule_kernels(kernels, parsed, dump_dir=dump_dir)
    tuned = TunedChoice() if choose is None else choose(kernels, lowered, parsed)
    if tuned.traces:
        lowered = apply_traces(lowered, kernels, tuned.traces)
    canonical = apply_pass(CanonicalizeOperators(), lowered)
    graph = extract_operator_graph(canonical, name)
    weights = collect_weights(lowered)
    gpu_mod = None if gpu is None else schedule_kernels(kernels, gpu, dump_dir=dump_dir)
    return Network(
        canonical, graph, weights, parsed, kernels, tuned, gpu, gpu_mod, merge_convolutions
    )


def apply_pass(step: Any, mod: IRModule) -> IRModule:
    """Run a module pass through `Sequential`, so that instruments see it."""
    return tvm.transform.Sequential([step])(mod)
