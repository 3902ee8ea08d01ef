"""Python as people write it: one call from a file to outputs, and objects that print shortly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import hios_tvm
from hios_tvm.errors import UsageError

CORE = min(os.sched_getaffinity(0))
X = np.linspace(-1, 1, 8, dtype=np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = relu(x), with a length that is open."""
    info = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["length"]) for name in "xy"
    }
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "rectify", [info["x"]], [info["y"]]
    )
    opset = helper.make_opsetid("", 17)
    path = tmp_path_factory.mktemp("api") / "rectify.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def compiled(path: Path) -> hios_tvm.Compilation:
    return hios_tvm.compile(
        str(path), devices=f"cpu@{CORE}", shapes={"x": [8]}, cache_dir=path.parent
    )


def test_a_file_becomes_an_artifact_beside_it(compiled: hios_tvm.Compilation, path: Path) -> None:
    assert compiled.path == path.with_suffix(".hios")
    assert compiled.manifest.verification.verified
    with compiled.load(devices=f"cpu@{CORE}") as session:
        np.testing.assert_array_equal(session.run(X)["y"], np.maximum(X, 0))


def test_models_in_memory_need_a_place(path: Path, tmp_path: Path) -> None:
    model = onnx.load(path)
    with pytest.raises(UsageError, match="give output too"):
        hios_tvm.compile(model)
    module = hios_tvm.load_model(str(path), shapes={"x": (8,)})
    options = {"devices": [f"cpu@{CORE}"], "cache_dir": path.parent}
    for i, source in enumerate((model, module)):
        shapes = {"x": (8,)} if source is model else None
        made = hios_tvm.compile(source, str(tmp_path / f"{i}.hios"), shapes=shapes, **options)
        assert made.manifest.verification.verified
        assert made.manifest.model == str(i)
    with pytest.raises(UsageError, match="cannot compile a int"):
        hios_tvm.compile(3, tmp_path / "x.hios")


def test_one_string_is_not_a_tuple_of_devices() -> None:
    with pytest.raises(UsageError, match="a tuple of names"):
        hios_tvm.CompileOptions(devices="cpu@0")


def test_what_was_made_prints_in_few_words(compiled: hios_tvm.Compilation, path: Path) -> None:
    signature = "rectify (x float32 8) -> y float32 8"
    assert f"<Compilation of {signature} into {compiled.path}; cpu@{CORE}: 1 operators" in repr(
        compiled
    )
    assert "<b>rectify (x float32 8) -&gt; y float32 8</b>" in compiled._repr_html_()
    assert repr(compiled.manifest) == f"<Manifest of {signature} on cpu@{CORE}>"
    network = hios_tvm.lower_network(hios_tvm.load_model(path, shapes={"x": (8,)}), "host")
    assert repr(network) == "<Network model: 1 operators, 0.0 MiB of weights for cpu>"


def test_the_package_is_the_command_line() -> None:
    words = [sys.executable, "-m", "hios_tvm", "--version"]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert hios_tvm.__version__ in result.stdout
