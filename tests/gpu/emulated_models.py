"""Models whose kernels for GPUs run in the emulator."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
from emulator import EmulatedCode
from lowered_models import Array, random, run_onnx_runtime
from onnx import ModelProto

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.cuda.codegen import generate_cuda
from hios_tvm.backends.cuda.targets import cuda_target
from hios_tvm.backends.network import apply_pass, lower
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.canonicalize_operators import CanonicalizeOperators, collect_weights
from hios_tvm.passes.extract_operator_graph import extract_operator_graph
from hios_tvm.schema.precisions import Precision

TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "fp16": 1e-3}


def run_emulated(
    model: ModelProto,
    feeds: Mapping[str, Array],
    precision: Precision = "fp32",
    change: Callable[[str], str] = str,
    arch: str = "sm_80",
) -> list[Array]:
    """Run the kernels of a GPU one after another, with a `change` of their source."""
    target = cuda_target(arch, host_target(), precision)
    lowered = lower(from_onnx(model), target)
    mod = apply_pass(CanonicalizeOperators(), lowered)
    graph = extract_operator_graph(mod, "model")
    code = generate_cuda(mod, target)
    library = EmulatedCode(change(code.source))
    tensors = dict(zip(graph.inputs, (np.array(feed) for feed in feeds.values()), strict=True))
    tensors |= collect_weights(lowered)
    for operator in graph.operators:
        for name in operator.outputs:
            tensors[name] = np.full(graph.tensor[name].shape, np.nan, graph.tensor[name].dtype)
        arrays = [tensors[name] for name in (*operator.inputs, *operator.outputs)]
        library.run(code.kernels[operator.kernel], arrays)
    return [tensors[name] for name in graph.outputs]


def assert_right(
    model: ModelProto,
    precision: Precision = "fp32",
    change: Callable[[str], str] = str,
    arch: str = "sm_80",
) -> None:
    """Compare with ONNX Runtime; products are on tensor cores unless of single precision."""
    feeds = {
        value.name: random(*(d.dim_value for d in value.type.tensor_type.shape.dim), seed=seed)
        for seed, value in enumerate(model.graph.input)
    }

    def checked(source: str) -> str:
        assert ("mma_sync" in source) == (precision != "fp32")
        return change(source)

    expected = run_onnx_runtime(model, feeds)
    actual = run_emulated(model, feeds, precision, checked, arch)
    for ours, theirs in zip(actual, expected, strict=True):
        scale = max(1e-30, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[precision] * scale)


def once(pattern: str, replacement: str) -> Callable[[str], str]:
    """Return a change of source that must find exactly one place."""

    def change(source: str) -> str:
        changed, count = re.subn(pattern, replacement, source)
        assert count == 1, count
        return changed

    return change
