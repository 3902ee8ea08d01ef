"""An artifact that is compiled soon."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from hios_tvm import CompileOptions, compile_model
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime.devices.cpu.cores import allowed_cores

WIDTH = 4


@pytest.fixture(scope="session")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows times two, for one core."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "twice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, WIDTH))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, WIDTH))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("fleet") / "twice.hios"
    device = f"cpu@{min(allowed_cores())}"
    compile_model(from_onnx(model), path, CompileOptions(devices=(device,), scheduler="sequential"))
    return path
