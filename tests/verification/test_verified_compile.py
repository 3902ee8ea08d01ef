"""The compile command verifies: what is right is recorded, what is wrong is never written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
import tvm_ffi
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from tvm.target import codegen

from hios_tvm import runtime
from hios_tvm.backends import network
from hios_tvm.backends.cpu.codegen import kernel_key
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.cpu.tuned_kernels import subject_of
from hios_tvm.backends.cpu.tuning_database import TunedKernel, TuningDatabase
from hios_tvm.cli import main
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.errors import VerificationError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.frontends.relay import from_relay
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.schema.manifest import Verification
from hios_tvm.verification import onnx_reference
from hios_tvm.verification.here import why_not_here
from hios_tvm.verification.onnx_reference import OnnxReference
from hios_tvm.verification.relax_reference import RelaxReference

CORE = min(os.sched_getaffinity(0))
FLOAT = TensorProto.FLOAT


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def compiled(tmp_path: Path, cache: Path) -> Callable[..., Result]:
    """Compile a model into ``model.hios``."""

    def call(model: Path, *words: object) -> Result:
        options = ["--devices", f"cpu@{CORE}", "--cost-cache", cache, "--no-progress"]
        return run("compile", model, "-o", tmp_path / "model.hios", *options, *words)

    return call


def saved(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [onnx.ValueInfoProto(name=nodes[-1].output[0])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = folder / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """exp(-abs(sigmoid(tanh(x @ w) @ w)))."""
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"], name="squash"),
        helper.make_node("MatMul", ["b", "w"], ["c"]),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Abs", ["d"], ["e"]),
        helper.make_node("Neg", ["e"], ["f"]),
        helper.make_node("Exp", ["f"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", FLOAT, [4, 8])
    return saved(tmp_path, nodes, [x], {"w": weight})


def spoil_tanh(
    patch: pytest.MonkeyPatch, where: Callable[[tvm.target.Target], bool] = lambda target: True
) -> None:
    """Let the compiler make a sigmoid of each tanh."""
    right = network._with_loops

    def with_loops(kernels: tvm.IRModule, target: tvm.target.Target, **options: Any) -> Any:
        return right(_without_tanh(kernels) if where(target) else kernels, target, **options)

    patch.setattr(network, "_with_loops", with_loops)


def _without_tanh(kernels: tvm.IRModule) -> tvm.IRModule:
    def sigmoid(call: tvm.ir.Call) -> tvm.ir.Call:
        return tvm.tirx.sigmoid(*call.args) if call.op.name == "tirx.tanh" else call

    spoiled = kernels.clone()
    for var, function in kernels.functions_items():
        if isinstance(function, tvm.tirx.PrimFunc):
            body = tvm_ffi.structural_map(function.body, [(tvm.ir.Call, sigmoid)])
            spoiled[var] = function.with_body(body)
    return spoiled


def test_the_artifact_says_what_it_was_compared_with(
    model: Path, compiled: Callable[..., Result], tmp_path: Path
) -> None:
    result = compiled(model)
    assert result.exit_code == 0, result.output
    assert "verified against ONNX Runtime" in result.output
    found = read_manifest(tmp_path / "model.hios").verification
    assert found.verified and found.reason == ""
    assert found.seeds == (0, 1) and found.scale == 1
    (output,) = found.outputs
    assert output.output == "y"
    assert 0 <= output.error < 1e-6 < output.allowed <= 1e-4
    shown = run("inspect", tmp_path / "model.hios").stdout
    assert "verified against ONNX Runtime" in shown and "output y: error" in shown
    data = json.loads(run("inspect", tmp_path / "model.hios", "--json").stdout)
    assert data["verification"]["verified"] is True


def test_a_wrong_kernel_is_found_and_nothing_is_written(
    model: Path, compiled: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "report"
    with monkeypatch.context() as patch:
        spoil_tanh(patch)
        result = compiled(model, "--dump-reproducer", folder)
        assert result.exit_code == 1, result.output
        assert "The first operator that differs is Tanh (squash), which computes 'b'" in (
            result.stderr
        )
        assert "tir_tanh(float32[4, 8]) -> float32[4, 8]" in result.stderr
        assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "report"}
        again = _reproduce(folder, tmp_path)
        assert again.exit_code == 1
        assert "differ from" in again.stderr
    assert [node.op_type for node in onnx.load(folder / "model.onnx").graph.node] == ["Tanh"]
    assert _reproduce(folder, tmp_path).exit_code == 0


def test_a_folder_that_cannot_be_written_hides_nothing(
    model: Path, compiled: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_tanh(monkeypatch)
    result = compiled(model, "--dump-reproducer", model / "report")
    assert result.exit_code == 1
    assert "first operator that differs is Tanh" in result.stderr
    assert "cannot write into" in result.stderr


def _reproduce(folder: Path, output: Path) -> Result:
    """Follow the README of a reproducer."""
    lines = (folder / "README.txt").read_text().splitlines()
    names = {name: folder / name for name in ("model.onnx", "inputs.npz", "expected.npz")}
    names["wrong.hios"] = output / "wrong.hios"
    made, result = (
        run(*(names.get(word, word) for word in line.split()[1:]))
        for line in lines
        if line.startswith(("hios-tvm compile", "hios-tvm run"))
    )
    assert made.exit_code == 0, made.output
    return result


def test_an_artifact_that_is_there_stays(
    model: Path, compiled: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.hios").write_text("of yesterday")
    spoil_tanh(monkeypatch)
    assert compiled(model).exit_code == 1
    assert (tmp_path / "model.hios").read_text() == "of yesterday"


def test_the_search_compiles_for_the_target_of_the_artifact(
    model: Path, compiled: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of code for another CPU does not show in code for this one."""
    spoil_tanh(monkeypatch, lambda target: target.attrs["mcpu"] == "x86-64-v3")
    result = compiled(model, "--target", "portable")
    assert result.exit_code == 1
    assert "The first operator that differs is Tanh" in result.stderr
    assert compiled(model).exit_code == 0


def test_the_search_uses_the_tuned_kernels_of_the_artifact(
    compiled: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of tuned kernels does not show in those of the default rules."""
    right = network.apply_traces

    def apply_traces(lowered: tvm.IRModule, kernels: tvm.IRModule, traces: Any) -> tvm.IRModule:
        tuned = right(lowered, kernels, traces)
        for name in traces:
            tuned[name] = _zeros(name, tuned[name])
        return tuned

    monkeypatch.setattr(network, "apply_traces", apply_traces)
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", FLOAT, [4, 8])
    model = saved(tmp_path, nodes, [x], {"w": np.ones((8, 8), np.float32)})
    _tune_with_empty_trace(model, "tir_tanh", tmp_path / "tuned")
    result = compiled(model, "--database", tmp_path / "tuned")
    assert result.exit_code == 1
    assert "The first operator that differs is Tanh" in result.stderr
    assert compiled(model).exit_code == 0


def _tune_with_empty_trace(model: Path, kernel: str, folder: Path) -> None:
    """Let the database say that `kernel` is fastest as it is before any rule."""
    lowered = network.lower_network(from_onnx(onnx.load(model)), "host")
    form = lowered.lowered["cpu"]
    subject = subject_of(lowered.kernels[kernel], form.target, threads=1)
    default = kernel_key(form.mod[kernel], form.target)
    record = TunedKernel("[[], []]", 1.0, 2.0, default, trials=1, machine="none")
    TuningDatabase(folder, create=True).put_tuned(subject, record)


def _zeros(name: str, function: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    """A kernel of the same arguments that writes zeros."""
    x = tvm.te.placeholder((4, 8), "float32")
    made = tvm.te.create_prim_func([x, tvm.te.compute((4, 8), lambda i, j: x[i, j] * 0.0)])
    return made.with_attrs({"global_symbol": name, **dict(function.attrs)})


def test_a_fault_that_no_part_shows_is_not_blamed_on_an_operator(
    model: Path, compiled: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels of the artifact are wrong, and those that are compiled again are right."""
    lowerings = iter([True])
    spoil_tanh(monkeypatch, lambda target: next(lowerings, False))
    result = compiled(model)
    assert result.exit_code == 1
    assert "the fault is in the schedule, the plan of the memory, or the runtime" in result.stderr
    assert "first operator" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx"}


def test_without_verification_the_artifact_says_so(
    model: Path, compiled: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_tanh(monkeypatch)
    result = compiled(model, "--no-verify")
    assert result.exit_code == 0
    assert "not verified: it was compiled without a reference" in result.stderr
    assert not read_manifest(tmp_path / "model.hios").verification.verified
    assert "not verified" in run("inspect", tmp_path / "model.hios").stdout
    result = compiled(model, "--no-verify", "--dump-reproducer", tmp_path / "report")
    assert result.exit_code == 2


def test_a_user_may_allow_larger_errors(
    model: Path, compiled: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_tanh(monkeypatch)
    result = compiled(model, "--rtol", 10)
    assert result.exit_code == 0, result.stderr
    assert "errors of 10 are allowed, as was asked for" in result.stderr
    assert compiled(model, "--no-verify", "--rtol", 10).exit_code == 2


def test_large_models_in_memory_are_run_from_a_file(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_reference, "LARGEST_CONTENT", 10)
    proto = onnx.load(model)
    before = proto.SerializeToString()
    reference = OnnxReference(proto)
    inputs = {
        value.name: np.full([dim.dim_value for dim in value.type.tensor_type.shape.dim], 0.5, "f4")
        for value in proto.graph.input
    }
    expected = OnnxReference(model).run(inputs)
    for name, array in reference.run(inputs).items():
        np.testing.assert_array_equal(array, expected[name])
    assert proto.SerializeToString() == before


def test_a_missing_onnxruntime_is_named(model: Path, tmp_path: Path, cache: Path) -> None:
    output = tmp_path / "model.hios"
    words = ["compile", model, "-o", output, "--devices", f"cpu@{CORE}", "--cost-cache", cache]
    code = "import sys; sys.modules['onnxruntime'] = None; from hios_tvm.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    before, after = result.stderr.split("\nnot verified: ")
    assert "will not be verified: the package onnxruntime cannot be imported" in before
    assert "the package onnxruntime cannot be imported" in after
    assert "onnxruntime" in read_manifest(output).verification.reason


def test_run_verifies_where_no_compiler_is(
    model: Path, compiled: Callable[..., Result], tmp_path: Path
) -> None:
    assert compiled(model).exit_code == 0
    code = "from hios_tvm.cli import main; main()"
    words = ["run", str(tmp_path / "model.hios"), "--verify", str(model)]
    result = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "TVM_USE_RUNTIME_LIB": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "y: largest error" in result.stdout


def test_devices_that_are_not_here_are_named(
    model: Path, compiled: Callable[..., Result], tmp_path: Path
) -> None:
    costs, output = tmp_path / "costs.json", tmp_path / "other.hios"
    assert compiled(model, "--save-costs", costs).exit_code == 0
    result = run("compile", model, "-o", output, "--devices", "cpu@999", "--costs", costs)
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stderr.splitlines() if "verified" in line)
    assert "not verified: device 'cpu@999' needs core 999" in line
    assert not read_manifest(output).verification.verified


def test_code_for_another_cpu_is_not_run(model: Path, compiled: Callable[..., Result]) -> None:
    assert compiled(model).exit_code == 0
    manifest = read_manifest(model.with_suffix(".hios"))
    assert why_not_here(manifest, manifest.devices[0].cpu_features) is None
    assert "CPU features imaginary" in (why_not_here(manifest, ["imaginary"]) or "")


def test_an_embedding_is_run_on_all_of_its_words(
    compiled: Callable[..., Result], tmp_path: Path
) -> None:
    words = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["ids"], ["small"], to=TensorProto.INT32),
        helper.make_node("Gather", ["words", "small"], ["e"]),
        helper.make_node("Relu", ["e"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 16])
    result = compiled(saved(tmp_path, nodes, [ids], {"words": words}))
    assert result.exit_code == 0, result.output
    assert "verified against" in result.output


def test_a_network_that_amplifies_rounding_is_not_wrong(
    compiled: Callable[..., Result], tmp_path: Path
) -> None:
    """The sine of a thousandfold sum: the last bits of the sum decide."""
    weight = np.random.default_rng(0).standard_normal((4096, 64)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "gain"], ["b"]),
        helper.make_node("Sin", ["b"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", FLOAT, [1, 4096])
    result = compiled(saved(tmp_path, nodes, [x], {"w": weight, "gain": np.float32(100)}))
    assert result.exit_code == 0, result.output
    found = read_manifest(tmp_path / "model.hios").verification
    assert found.verified
    assert found.outputs[0].error > 1e-4
    assert any("amplifies rounding" in note for note in found.notes)


def test_an_output_that_never_changes_is_noted(
    compiled: Callable[..., Result], tmp_path: Path
) -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
    x = helper.make_tensor_value_info("x", FLOAT, [4, 1])
    result = compiled(saved(tmp_path, nodes, [x], {}))
    assert result.exit_code == 0, result.output
    found = read_manifest(tmp_path / "model.hios").verification
    assert found.verified
    assert "output 'y' does not depend on the inputs" in " ".join(found.notes)
    assert "does not depend on the inputs" in result.stderr


def test_half_precision_is_noted(compiled: Callable[..., Result], tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=FLOAT),
    ]
    x = helper.make_tensor_value_info("x", FLOAT, [4, 64])
    result = compiled(saved(tmp_path, nodes, [x], {"w": weight}))
    assert result.exit_code == 0, result.output
    found = read_manifest(tmp_path / "model.hios").verification
    assert found.outputs[0].allowed == pytest.approx(5e-3)
    assert any("tensors are of float16: errors" in note for note in found.notes)
    shown = run("inspect", tmp_path / "model.hios").stdout
    assert "weights in memory: 0.0156 MiB of float16\n" in shown
    assert "float16 is computed in single precision on " in shown


def test_rounded_factors_are_noted(compiled: Callable[..., Result], model: Path) -> None:
    """And a run compares its outputs by what they allow."""
    artifact = model.parent / "model.hios"
    if not codegen.llvm_cpu_has_features("avx512bf16", host_target()):
        refused = compiled(model, "--precision", "bf16")
        assert refused.exit_code == 2 and "neither AMX nor AVX512-BF16" in refused.output
        pytest.skip("this CPU has no AVX512-BF16")
    result = compiled(model, "--precision", "bf16")
    assert result.exit_code == 0, result.output
    shown = run("inspect", artifact).stdout
    assert "products have factors of bf16: errors of 0.04 are allowed" in shown
    found = read_manifest(artifact)
    assert found.recipe.precision == "bf16"
    assert 1e-5 < found.verification.outputs[0].error < 0.04
    checked = run("run", artifact, "--verify", model)
    assert checked.exit_code == 0 and "allowed 4.0e-02" in checked.output, checked.output
    assert "products have factors of bf16" in checked.output


RELAY = """#[version = "0.0.5"]
def @main(%x: Tensor[(4, 8), float32]) {
  %0 = exp(%x);
  %1 = tanh(%0);
  sigmoid(%1)
}
"""


def test_relay_programs_are_compared_with_the_default_executor(
    compiled: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.relay"
    path.write_text(RELAY)
    result = compiled(path)
    assert result.exit_code == 0, result.output
    assert "default executor" in result.output
    found = read_manifest(tmp_path / "model.hios").verification
    assert found.verified and "TVM" in found.reference
    folder = tmp_path / "report"
    spoil_tanh(monkeypatch)
    result = compiled(path, "--dump-reproducer", folder)
    assert result.exit_code == 1
    assert "The first operator that differs is tanh" in result.stderr
    module = tvm.ir.load_json((folder / "model.relax.json").read_text())
    options = CompileOptions(devices=(f"cpu@{CORE}",), cache_dir=None)
    wrong = tmp_path / "wrong.hios"
    compile_model(module, wrong, options)
    again = run("run", wrong, "--input", folder / "inputs.npz", "--verify", folder / "expected.npz")
    assert again.exit_code == 1
    assert "tanh" in (folder / "model.py").read_text()
    assert "compile_model(module" in (folder / "README.txt").read_text()


def test_compile_model_takes_a_reference(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, output = from_relay(RELAY), tmp_path / "model.hios"
    options = CompileOptions(devices=(f"cpu@{CORE}",), cache_dir=cache)
    plain = compile_model(module, output, options)
    assert not plain.manifest.verification.verified
    checked = compile_model(module, output, options, reference=RelaxReference(module))
    assert checked.manifest.verification.verified
    with runtime.load(output) as session:
        assert session.manifest.verification == checked.manifest.verification
    assert "verify" in checked.seconds
    spoil_tanh(monkeypatch)
    with pytest.raises(VerificationError) as error:
        compile_model(module, output, options, reference=RelaxReference(module))
    assert error.value.operator == "tanh"


def test_no_verification_says_so() -> None:
    assert str(Verification()) == "not verified: the artifact does not say"
