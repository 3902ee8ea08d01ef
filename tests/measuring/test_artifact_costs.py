"""Measuring on a machine without a compiler: the whole loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from hios_tvm import runtime
from hios_tvm.cli import main
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.instance import read_instance

CORES = sorted(os.sched_getaffinity(0))
DEVICES = [f"cpu@{core}" for core in CORES[:2]]

RUNTIME_ONLY = """
import sys
for name in ("onnx", "networkx", "click", "rich", "lark", "psutil"):
    sys.modules[name] = None
from hios_tvm.measuring.artifact_costs import main
code = main(sys.argv[1:])
assert not {"hios_tvm.compiler", "tvm"} & set(sys.modules)
sys.exit(code)
"""


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def run_runtime_only(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUNTIME_ONLY, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products of x, one of them through a softmax, side by side."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "v"], ["b"]),
        helper.make_node("Softmax", ["b"], ["c"]),
        helper.make_node("Concat", ["a", "c"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 64])],
        [
            onnx.numpy_helper.from_array(rng.standard_normal((32, 32)).astype(np.float32), name)
            for name in ("w", "v")
        ],
    )
    path = tmp_path_factory.mktemp("profile") / "two.onnx"
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def kernels(model: Path) -> Path:
    path = model.with_name("kernels.hios")
    assert str(path) in succeed("profile", "export", model, "-o", path, "--no-cache")
    return path


@pytest.fixture(scope="module")
def costs(kernels: Path) -> Path:
    """What the deployment machine measured, with nothing but the runtime."""
    path = kernels.with_name("costs.json")
    result = run_runtime_only(kernels, "-o", path, "--devices", ",".join(DEVICES))
    assert result.returncode == 0, result.stderr
    return path


def test_exported_kernels_hold_no_weights(kernels: Path) -> None:
    manifest = read_manifest(kernels)
    assert [name for name in manifest.entries if name.endswith(".safetensors")] == []
    assert len(manifest.inputs) > 1  # the model's, and the weights


def test_costs_of_the_other_machine_are_whole(kernels: Path, costs: Path) -> None:
    instance = read_instance(costs)
    names = {operator.name for operator in instance.graph.operators}
    assert instance.costs.latency.keys() == {"cpu/1"}
    assert instance.costs.latency["cpu/1"].keys() == names
    assert all(time.ms > 0 for time in instance.costs.latency["cpu/1"].values())
    assert [device.name for device in instance.platform.devices] == DEVICES
    assert 0 < instance.platform.independence <= 1
    assert instance.platform.default_link.bandwidth_gb_s > 0


def test_compile_with_these_costs_measures_nothing(
    model: Path, costs: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "two.hios"
    succeed(
        "compile", model, "-o", artifact, "--costs", costs, "--devices", ",".join(DEVICES),
        "--save-costs", tmp_path / "again.json", "--no-cache", "--verify",
    )  # fmt: skip
    again = CostTable.from_json((tmp_path / "again.json").read_text())
    assert again == CostTable.from_json(costs.read_text())
    with runtime.load(artifact) as session:
        assert session.run({"x": np.ones((8, 32), np.float32)})["y"].shape == (8, 64)


def test_any_artifact_can_be_measured(model: Path, costs: Path, tmp_path: Path) -> None:
    artifact, again = tmp_path / "two.hios", tmp_path / "costs.json"
    succeed("compile", model, "-o", artifact, "--costs", costs, "--devices", DEVICES[0])
    output = succeed("profile", "run", artifact, "-o", again, "--devices", DEVICES[0], "--json")
    data = json.loads(output)
    assert data == json.loads(again.read_text())
    table = CostTable.from_json(again.read_text())
    names = CostTable.from_json(costs.read_text()).latency["cpu/1"].keys()
    assert table.latency["cpu/1"].keys() == names
    assert table.platform is not None and table.platform.independence == 1.0


def test_costs_of_another_model_are_refused(costs: Path, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["y"], name="another")],
        "other",
        [value("x", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [4])],
    )
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    result = invoke("compile", path, "--costs", costs, "--devices", DEVICES[0])
    assert result.exit_code == 1
    assert "has no time for 1 operators" in result.output


def test_damaged_kernels_are_refused_and_nothing_is_written(kernels: Path, tmp_path: Path) -> None:
    content = bytearray(kernels.read_bytes())
    content[content.index(b"\x7fELF") + 1000] ^= 1
    damaged = tmp_path / "damaged.hios"
    damaged.write_bytes(content)
    result = run_runtime_only(damaged, "-o", tmp_path / "costs.json")
    assert result.returncode == 1
    assert "is damaged (SHA-256)" in result.stderr
    assert "hios-tvm profile export" in result.stderr
    assert os.listdir(tmp_path) == ["damaged.hios"]


@pytest.mark.parametrize(
    ("devices", "code", "message"),
    [
        (f"{DEVICES[0]},{DEVICES[0]}", 2, f"named twice in {DEVICES[0]}, {DEVICES[0]}"),
        ("gpu", 1, "device 'gpu' is unknown"),
        ("cpu@9999", 1, "needs core 9999"),
    ],
)
def test_wrong_devices(
    kernels: Path, tmp_path: Path, devices: str, code: int, message: str
) -> None:
    result = invoke("profile", "run", kernels, "-o", tmp_path / "c.json", "--devices", devices)
    assert (result.exit_code, os.listdir(tmp_path)) == (code, [])
    assert message in result.output


def test_a_folder_that_is_not_there(kernels: Path, tmp_path: Path) -> None:
    output = tmp_path / "nowhere" / "costs.json"
    result = invoke("profile", "run", kernels, "-o", output, "--devices", DEVICES[0])
    assert result.exit_code == 2
    assert "cannot write" in result.output
