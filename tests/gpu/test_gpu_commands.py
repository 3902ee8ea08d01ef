"""The commands on artifacts for GPUs, with a stand-in for the driver."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from fake_driver import FakeDriver
from gpu_network import MODEL
from lowered_models import model_of, random
from onnx import helper
from test_gpu_execution import PARTS, compiled

from hios_tvm.cli import main
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.frontends.onnx import from_onnx


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def artifact(start: Callable[..., FakeDriver], tmp_path: Path) -> Path:
    start()
    return compiled(tmp_path, ("cuda:0", "cuda:1"), seed=1)


def test_run_writes_a_trace(artifact: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    result = call("run", artifact, "--trace", trace)
    assert result.exit_code == 0, result.output
    events = json.loads(trace.read_text())["traceEvents"]
    rows = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {"whole device", "copies"} <= rows
    kinds = {event["cat"] for event in events if event["ph"] == "X"}
    assert kinds == {"call", "copy", "run", "signal", "wait"}


def test_run_and_benchmark_take_graphs(artifact: Path) -> None:
    plain, graph = call("run", artifact), call("run", artifact, "--cuda-graph")
    assert plain.exit_code == graph.exit_code == 0
    assert plain.output == graph.output
    options = ("--iterations", 2, "--warmup", 0, "--duration", 0, "--json", "-")
    result = call("benchmark", artifact, "--cuda-graph", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["busy_ms"] == {}


def test_inspect_shows_gpus(artifact: Path) -> None:
    result = call("inspect", artifact)
    assert result.exit_code == 0, result.output
    assert "cuda:0" in result.output and "cuda:1" in result.output
    assert "in place" not in result.output


def test_inspect_shows_what_parts_read_in_place(
    start: Callable[..., FakeDriver], tmp_path: Path
) -> None:
    start()
    output = call("inspect", compiled(tmp_path, PARTS, seed=1)).output
    assert re.search(r"cuda:0\.[01]/2 reads \d+ tensors of other devices in place", output)


def test_plot_shows_what_gpus_did(artifact: Path, tmp_path: Path) -> None:
    picture = tmp_path / "timeline.svg"
    result = call("plot", artifact, "-o", picture)
    assert result.exit_code == 0, result.output
    assert "cuda:1" in picture.read_text()


def test_gpus_can_be_emulated(start: Callable[..., FakeDriver], tmp_path: Path) -> None:
    """An artifact whose costs are estimates; one of a schedule without costs says what to do."""
    start()
    options = CompileOptions(devices=("cuda:0", "cuda:1"), target="sm_80", cache_dir=tmp_path)
    compile_model(from_onnx(MODEL), tmp_path / "estimated.hios", options)
    result = call("benchmark", tmp_path / "estimated.hios", "--emulate", "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ratio"] > 0.9  # more on a busy machine
    scheduled = compiled(tmp_path, ("cuda:0", "cuda:1"), seed=1)
    assert "compile it again, with --costs" in call("benchmark", scheduled, "--emulate").output


def test_compare_says_that_its_rivals_run_on_cpus(artifact: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(MODEL.SerializeToString())
    result = call("compare", model, artifact)
    assert result.exit_code == 2
    assert "is for GPUs" in result.output and "hios-tvm benchmark" in result.output


def test_a_machine_without_a_driver_is_one_error(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hios_tvm.errors import DeviceError
    from hios_tvm.runtime.devices.cuda import kind

    def no_driver() -> None:
        raise DeviceError("this machine has no NVIDIA driver")

    monkeypatch.setattr(kind, "load_driver", no_driver)
    result = call("run", artifact)
    assert result.exit_code == 1
    assert "this machine has no NVIDIA driver" in result.output


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_compile_for_tensor_cores(
    precision: str, start: Callable[..., FakeDriver], tmp_path: Path
) -> None:
    start()
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    model = tmp_path / "model.onnx"
    onnx.save(model_of(nodes, {"x": (1, 24, 9, 7)}, {"w": random(40, 24, 3, 3, seed=1)}), model)
    options = ("--devices", "cuda:0", "--target", "sm_80", "--precision", precision)
    result = call("compile", model, *options)
    assert result.exit_code == 0, result.output
    error = re.search(r"largest error ([0-9.e-]+) of", result.output)
    assert error is not None
    assert 1e-5 < float(error[1]) < 1e-3, "rounded, and no more than that"
    artifact = model.with_suffix(".hios")
    assert call("run", artifact, "--verify", model).exit_code == 0
    strict = call("run", artifact, "--verify", model, "--rtol", "1e-6")
    assert strict.exit_code == 1
    assert "--dump-reproducer FOLDER" in strict.stderr


def test_a_gpu_that_is_not_here_leaves_the_artifact_unverified(
    start: Callable[..., FakeDriver], tmp_path: Path
) -> None:
    start(gpus=1)
    model = tmp_path / "model.onnx"
    onnx.save(model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 24)}, {}), model)
    result = call("compile", model, "--devices", "cuda:1", "--target", "sm_80")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stderr.splitlines() if "verified" in line)
    assert line == "not verified: there is no GPU cuda:1: this process may use 1"
    result = call("compile", model, "--devices", "cuda:0", "--target", "sm_120")
    assert result.exit_code == 0, result.output
    assert "GPU cuda:0 of this machine is of the architecture sm_" in result.stderr
