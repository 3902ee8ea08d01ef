"""Code generation: one object file a kernel, and right where LLVM is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper
from tvm.script import tirx as T

from hios_tvm import runtime
from hios_tvm.backends.cpu.codegen import code_target
from hios_tvm.backends.cpu.targets import parse_target
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.frontends.onnx import from_onnx


@T.prim_func(s_tir=True)
def wraps(x: T.Buffer((4,), "float32"), y: T.Buffer((16,), "float32")) -> None:
    for i in range(16):
        y[i] = x[i % 4]


@T.prim_func(s_tir=True)
def wraps_once(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")) -> None:
    for i in range(4):
        y[i] = x[i % 4]


@T.prim_func(s_tir=True)
def wraps_by_three(x: T.Buffer((3,), "float32"), y: T.Buffer((15,), "float32")) -> None:
    for i in range(15):
        y[i] = x[i % 3]


@T.prim_func(s_tir=True)
def wraps_in_parallel(x: T.Buffer((4,), "float32"), y: T.Buffer((16,), "float32")) -> None:
    for i in T.parallel(16):
        y[i] = x[i % 4]


@pytest.mark.parametrize(
    ("kernel", "level"),
    [(wraps, 1), (wraps_once, None), (wraps_by_three, None), (wraps_in_parallel, None)],
)
def test_loops_that_llvm_gets_wrong_are_not_vectorized(
    kernel: tvm.tirx.PrimFunc, level: int | None
) -> None:
    target = parse_target("znver4")
    assert code_target(kernel, target).attrs.get("opt-level") == level
    assert (code_target(kernel, target) is target) == (level is None)


def test_tensors_that_repeat_are_right(tmp_path: Path) -> None:
    """LLVM 20 read beyond `x` here, on CPUs with AVX-512."""
    shape, repeats = (2, 3, 4, 5), (7, 6, 4, 2)
    result = tuple(size * count for size, count in zip(shape, repeats, strict=True))
    graph = helper.make_graph(
        [helper.make_node("Tile", ["x", "repeats"], ["y"])],
        "tile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [onnx.numpy_helper.from_array(np.array(repeats, dtype=np.int64), "repeats")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    core = min(runtime.devices.cpu.cores.allowed_cores())
    options = CompileOptions(devices=(f"cpu@{core}",), scheduler="sequential", cache_dir=None)
    path = tmp_path / "tile.hios"
    compile_model(from_onnx(model), path, options)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with runtime.load(path) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], np.tile(x, repeats))
