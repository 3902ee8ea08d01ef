"""The work of a compile is linear in the number of operators."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType

from onnx_models import make_model, node

from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.frontends.onnx import from_onnx

CORE = min(os.sched_getaffinity(0))


def calls_of_a_compile(operators: int, folder: Path) -> int:
    """Count the calls of Python functions while a chain is imported and compiled."""
    nodes = [
        node("Relu", f"v{i}", f"v{i + 1}")
        if i % 2
        else node("MaxPool", f"v{i}", f"v{i + 1}", kernel_shape=[1, 1])
        for i in range(operators)
    ]
    model = make_model(nodes, {"v0": (1, 2, 4, 4)}, [f"v{operators}"])
    options = CompileOptions(
        devices=(f"cpu@{CORE}",), scheduler="sequential", cache_dir=folder / "cache"
    )
    count = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        compile_model(from_onnx(model), folder / "chain.hios", options)
    finally:
        sys.setprofile(None)
    return count


def test_each_operator_costs_the_same(tmp_path: Path) -> None:
    calls_of_a_compile(4, tmp_path)  # imports, caches
    small, middle, large = (calls_of_a_compile(n, tmp_path) for n in (30, 60, 90))
    assert large - middle < 1.05 * (middle - small)
