"""The same program gives the same with ONNX Runtime and with this package under its name."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as original
import pytest
from onnx import TensorProto, helper

import hios_tvm
from hios_tvm import onnxruntime as replacement
from hios_tvm.errors import InputError, UsageError
from hios_tvm.onnxruntime import kept_artifacts

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


def save_model(path: Path, rows: int | str) -> Path:
    """y = relu(x), z = x + x, of `rows` x 4."""
    infos = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, 4]) for name in "xyz"
    }
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Add", ["x", "x"], ["z"])]
    graph = helper.make_graph(nodes, "two", [infos["x"]], [infos["y"], infos["z"]])
    graph.doc_string = "of the graph"
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="a test",
        domain="example.org",
        doc_string="of the model",
        model_version=3,
    )
    model.metadata_props.add(key="author", value="somebody")
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnxruntime")


@pytest.fixture(scope="module")
def static(folder: Path) -> Path:
    return save_model(folder / "static.onnx", 3)


@pytest.fixture(scope="module")
def dynamic(folder: Path) -> Path:
    return save_model(folder / "dynamic.onnx", "batch")


def open_session(module: ModuleType, model: Any, folder: Path, *arguments: Any) -> Any:
    if module is original:
        return original.InferenceSession(model, *arguments, providers=["CPUExecutionProvider"])
    return replacement.InferenceSession(
        model,
        *arguments,
        providers=["CPUExecutionProvider"],
        cache_dir=folder / "cache",
        scheduler="sequential",  # no others are tried out, which takes seconds
    )


def describe(session: Any) -> list[object]:
    meta = session.get_modelmeta()
    names = (
        *("producer_name", "graph_name", "domain", "description", "graph_description", "version"),
        "custom_metadata_map",
    )
    arguments = [*session.get_inputs(), *session.get_outputs()]
    return [
        *((item.name, item.shape, item.type) for item in arguments),
        *(getattr(meta, name) for name in names),
        session.get_providers(),
    ]


def bound(module: Any, session: Any) -> list[np.ndarray]:
    """Run with every way to bind an input and an output."""
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("y")
    z = module.OrtValue.ortvalue_from_shape_and_type([3, 4], np.float32, "cpu", 0)
    binding.bind_ortvalue_output("z", z)
    session.run_with_iobinding(binding)
    first = [*binding.copy_outputs_to_cpu(), z.numpy(), binding.get_outputs()[0].numpy()]

    binding.clear_binding_inputs()
    binding.clear_binding_outputs()
    value = module.OrtValue.ortvalue_from_numpy(-X)
    y = np.empty_like(X)
    binding.bind_input("x", "cpu", 0, np.float32, value.shape(), value.data_ptr())
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    binding.bind_output("z", "cpu")
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    second = [y, binding.copy_outputs_to_cpu()[1]]

    value.update_inplace(X)
    binding.bind_ortvalue_input("x", value)
    session.run_with_iobinding(binding)
    return [*first, *second, y, *binding.copy_outputs_to_cpu()]


def program(module: ModuleType, static: Path, dynamic: Path, folder: Path) -> list[Any]:
    """Return all that a program can see."""
    session = open_session(module, str(static), folder)
    symbolic = open_session(module, dynamic.read_bytes(), folder)
    options = module.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = module.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_free_dimension_override_by_name("batch", 3)
    overridden = open_session(module, dynamic, folder, options)
    value = module.OrtValue.ortvalue_from_numpy(X)
    return [
        describe(session),
        describe(symbolic),
        describe(overridden),
        session.run(None, {"x": X}),
        session.run(["z", "y"], {"x": X}, module.RunOptions()),
        session.run([], {"x": X}),
        *(symbolic.run(["y"], {"x": X[:rows]}) for rows in (1, 3)),
        overridden.run(None, {"x": X}),
        [v.numpy() for v in session.run_with_ort_values(["z"], {"x": value})],
        [value.shape(), value.data_type(), value.element_type(), value.device_name()],
        bound(module, session),
    ]


def test_a_program_sees_what_onnx_runtime_shows(static: Path, dynamic: Path, folder: Path) -> None:
    expected = program(original, static, dynamic, folder)
    found = program(replacement, static, dynamic, folder)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_equal(ours, theirs)


def test_a_model_is_compiled_once(
    static: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        compiled.append(arguments[0])
        return hios_tvm.compile(*arguments, **options)

    monkeypatch.setattr(kept_artifacts, "compile", counted)
    for _ in range(2):
        session = hios_tvm.InferenceSession(
            static, cache_dir=folder / "once", scheduler="sequential"
        )
    assert compiled == [static]
    (artifact,) = (folder / "once" / "artifacts").iterdir()
    np.testing.assert_array_equal(
        hios_tvm.InferenceSession(artifact).run(["z"], {"x": X}), session.run(["z"], {"x": X})
    )
    artifact.write_bytes(b"damaged")
    hios_tvm.InferenceSession(static, cache_dir=folder / "once", scheduler="sequential")
    assert compiled == [static, static]


def test_what_cannot_be_is_refused(static: Path, dynamic: Path, folder: Path) -> None:
    session = open_session(replacement, static, folder)
    with pytest.raises(UsageError, match="output 'w' is unknown; there are y, z"):
        session.run(["w"], {"x": X})
    with pytest.raises(UsageError, match="bind that of 'cpu'"):
        session.io_binding().bind_output("y", "cuda")
    with pytest.raises(InputError, match="'x' missing"):
        open_session(replacement, dynamic, folder).run(None, {})
    with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not available"):
        replacement.InferenceSession(
            static,
            providers=[("CUDAExecutionProvider", {})],
            cache_dir=folder / "cache",
            scheduler="sequential",
        )


def test_devices_are_chosen_by_threads_or_by_name(static: Path, folder: Path) -> None:
    core = min(os.sched_getaffinity(0))
    session = replacement.InferenceSession(
        static, devices=f"cpu@{core}", cache_dir=folder / "cache"
    )
    assert f"on cpu@{core}>" in repr(session)
