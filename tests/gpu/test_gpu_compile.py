"""Networks compile for GPUs on a machine without one, where nvcc is installed.

scripts/check_cuda.py compiles all six.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from lowered_models import model_of, random
from onnx import helper

import hios_tvm.backends.cuda.targets
from hios_tvm.backends import parse_targets
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.cuda.codegen import generate_cuda
from hios_tvm.backends.cuda.targets import cuda_target
from hios_tvm.backends.network import lower
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.errors import CompileError, DeviceError, UsageError
from hios_tvm.frontends import load_model
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.schema.precisions import Precision
from hios_tvm.zoo import build
from hios_tvm.zoo import squeezenet as squeezenet1_1

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def compiled(name: str, target: str, folder: Path, **options: object) -> Path:
    model, artifact = folder / f"{name}.onnx", folder / f"{name}.hios"
    model.write_bytes(build(name).SerializeToString())
    devices = ("cuda:0", "cuda:1")
    chosen = CompileOptions(devices=devices, target=target, link="nvlink4", **options)
    compile_model(load_model(model), artifact, chosen)
    return artifact


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1"])
def test_networks_compile(name: str, tmp_path: Path) -> None:
    artifact = open_artifact(compiled(name, "sm_90", tmp_path))  # which verifies it whole
    code = artifact.libraries["kernels0.cubin"]
    assert code.startswith(b"\x7fELF")
    for kernel in artifact.manifest.gpu_kernels.values():
        for launch in kernel.launches:
            assert launch.symbol.encode() in code


@needs_nvcc
@pytest.mark.parametrize(
    ("arch", "precision", "weights", "size"),
    [
        ("sm_90", "fp32", (39, 3, 3, 3), 224),
        ("sm_100", "fp32", (39, 3, 3, 3), 224),
        ("sm_90", "fp16", (64, 256, 1, 1), 35),
    ],
    ids=str,
)
def test_convolutions_do_not_spill(
    arch: str,
    precision: Precision,
    weights: tuple[int, int, int, int],
    size: int,
    tmp_path: Path,
) -> None:
    pad = weights[-1] // 2
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[pad + 1] * 2, pads=[pad] * 4),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    constants = {"w": random(*weights, seed=7), "b": random(weights[0], seed=8)}
    model = model_of(nodes, {"x": (1, weights[1], size, size)}, constants)
    target = cuda_target(arch, host_target(), precision)
    source = tmp_path / "kernels.cu"
    source.write_text(generate_cuda(lower(from_onnx(model), target), target).source)
    command = ["nvcc", "-cubin", f"-arch={arch}", "-O3", "-w", "-Xptxas", "-v", source.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(re.findall(r"(\d+) bytes spill", done.stderr)) == {"0"}


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "target"), [("tf32", "sm_80"), ("fp16", "sm_90")])
def test_networks_compile_for_tensor_cores(precision: str, target: str, tmp_path: Path) -> None:
    artifact = open_artifact(compiled("squeezenet1_1", target, tmp_path, precision=precision))
    assert artifact.libraries["kernels0.cubin"].startswith(b"\x7fELF")
    for name, kernel in artifact.manifest.gpu_kernels.items():
        launch, *adding = kernel.launches
        uses_tensor_cores = launch.shared_bytes > 0
        assert uses_tensor_cores == ("conv2d" in name)
        assert launch.shared_bytes <= 48 << 10, "more takes a call of the driver"
        assert len(adding) == len(kernel.scratch) == (launch.grid[2] > 1)


@needs_nvcc
def test_code_is_for_the_architecture_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squeezenet1_1, "STAGES", [squeezenet1_1.STAGES[0][:1]] * 3)
    codes = []
    for target in ("sm_80", "sm_90"):
        artifact = open_artifact(compiled("squeezenet1_1", target, tmp_path, cache_dir=None))
        codes.append(artifact.libraries["kernels0.cubin"])
        gpu = artifact.manifest.devices[0]
        assert (gpu.kind, target in gpu.target) == ("cuda", True)
    assert codes[0] != codes[1]


def test_a_missing_nvcc_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "nvcc" else f"/bin/{name}")
    with pytest.raises(CompileError, match="nvcc was not found: install the CUDA toolkit"):
        compiled("squeezenet1_1", "sm_90", tmp_path, cache_dir=None)


@pytest.mark.parametrize(
    ("target", "devices", "message"),
    [
        ("host", ("cuda:0",), "name the architecture of the GPUs, for example --target sm_90"),
        ("sm_9x", ("cuda:0",), "'sm_9x' is no architecture of a GPU"),
        ("sm_60", ("cuda:0",), "too old: sm_70 and later"),
        ("sm_80,sm_90", ("cuda:0",), "names two targets for devices of kind 'cuda'"),
        ("sm_90", ("cpu@0",), "is for cuda, but the devices are"),
    ],
)
def test_wrong_targets_are_named(
    target: str,
    devices: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_driver() -> None:
        raise DeviceError("this machine has no NVIDIA driver")

    monkeypatch.setattr(hios_tvm.backends.cuda.targets, "load_driver", no_driver)
    options = CompileOptions(devices=devices, target=target)
    model = tmp_path / "model.onnx"
    model.write_bytes(build("squeezenet1_1", height=40, width=40).SerializeToString())
    with pytest.raises(UsageError, match=message):
        compile_model(load_model(model), tmp_path / "model.hios", options)


@pytest.mark.parametrize(
    ("target", "device", "message"),
    [
        ("sm_75", "cuda:0", "T4 and GPUs like it have no tensor cores for tf32: it takes sm_80"),
        ("host", "cpu@0", "tf32 is a precision of cuda devices, but the devices are"),
    ],
)
def test_precisions_that_devices_lack_are_named(target: str, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_targets(target, [device], "tf32")
