"""The wheel of the runtime alone: what it holds, and that it runs without anything else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper

from hios_tvm import CompileOptions, compile_model
from hios_tvm.errors import CompileError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime import checks_library
from hios_tvm.runtime.tvm_library import tvm_version

ROOT = Path(__file__).parents[1]
CORE = min(os.sched_getaffinity(0))
DEPENDENCIES = ("numpy", "numpy.libs", "tvm_ffi", "typing_extensions.py")
NEEDS_TOMLLIB = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of Python 3.11")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import build_runtime_wheel

    return build_runtime_wheel.build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a fresh environment with the wheel and its dependencies.

    These are links to what is installed here, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("deployment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = Path(np.__file__).parents[1]
    for name in DEPENDENCIES:
        if (here / name).exists():  # NumPy has no numpy.libs where it was built here
            (packages / name).symlink_to(here / name)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two largest of each row: sorting is in the second of TVM's runtime libraries."""
    count = onnx.numpy_helper.from_array(np.array([2]), "count")
    nodes = [helper.make_node("TopK", ["x", "count"], ["largest", "positions"])]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (4, columns))
        for name, columns in (("x", 50), ("largest", 2))
    ]
    graph = helper.make_graph(nodes, "top", values[:1], values[1:], [count])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("artifact") / "top.hios"
    options = CompileOptions(devices=(f"cpu@{CORE}",), scheduler="sequential")
    compile_model(from_onnx(model), path, options)
    return path


def deployed(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command without this environment's variables, such as PYTHONPATH."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


@NEEDS_TOMLLIB
def test_wheel_is_small_and_holds_every_module_of_the_runtime(wheel: Path) -> None:
    assert wheel.stat().st_size < 3e6
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    held = {name for name in names if name.startswith("hios_tvm/runtime/") and name[-3:] == ".py"}
    assert held == {
        f"hios_tvm/runtime/{path.relative_to(ROOT / 'runtime')}"
        for path in (ROOT / "runtime").rglob("*.py")
    }
    folders = {folder for name in names for folder in Path(name).parts}
    assert "serving" in folders and not folders & {"compiler", "frontends", "onnxruntime", "cli"}


@NEEDS_TOMLLIB
def test_a_library_that_needs_newer_systems_than_tvm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import build_runtime_wheel

    monkeypatch.setattr(checks_library, "kept_checks", lambda: b"\0GLIBC_2.2\0GLIBC_2.99\0")
    with pytest.raises(CompileError, match=r"needs GLIBC 2\.99, which systems lack"):
        build_runtime_wheel.build_wheel(tmp_path)


def test_version_of_the_libraries_is_that_of_tvm() -> None:
    assert tvm_version() == tvm.__version__


@NEEDS_TOMLLIB
def test_artifacts_run_where_only_the_wheel_is_installed(
    installed: Path, artifact: Path, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).standard_normal((4, 50), np.float32)
    np.save(tmp_path / "x.npy", x)

    def run(*words: object) -> str:
        result = deployed(installed / "hios-run", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    about = run("inspect", artifact)
    assert "input x: float32 4x50" in about
    assert "output largest: float32 4x2" in about
    run("run", artifact, "--input", "x=x.npy", "--output-dir", "out")
    expected = -np.sort(-x)[:, :2]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "largest.npy"), expected)
    given = (artifact, "--input", "x=x.npy", "--expected", "largest=out/largest.npy")
    assert "largest error 0.0e+00" in run("verify", *given)
    assert "3 runs: median" in run("benchmark", artifact, "--iterations", 3, "--warmup", 1)

    np.save(tmp_path / "out" / "largest.npy", expected + 1)
    result = deployed(installed / "hios-run", "verify", *given, cwd=tmp_path)
    assert result.returncode == 1
    assert "largest: differs from --expected" in result.stderr


@NEEDS_TOMLLIB
def test_only_the_runtime_libraries_are_loaded(
    installed: Path, artifact: Path, tmp_path: Path
) -> None:
    code = f"""
import sys, hios_tvm
hios_tvm.load({str(artifact)!r}).close()
maps = open("/proc/self/maps").read()
for name in ("tvm_runtime_extra", "hios_checks"):
    assert f"/hios_tvm/runtime/lib/lib{{name}}.so" in maps
assert "libtvm_compiler" not in maps and "tvm" not in sys.modules
try:
    hios_tvm.compile
except AttributeError as error:
    print(error)
"""
    result = deployed(installed / "python", "-c", code, cwd=tmp_path)
    assert "install hios-tvm in place of hios-tvm-runtime" in result.stdout, result.stderr


@NEEDS_TOMLLIB
def test_both_packages_in_one_environment_are_an_error(
    installed: Path, artifact: Path, tmp_path: Path
) -> None:
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    folder = packages / "hios_tvm-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: hios-tvm\nVersion: 0.1.0\n")
    try:
        result = deployed(installed / "hios-run", "inspect", artifact, cwd=tmp_path)
    finally:
        (folder / "METADATA").unlink()
        folder.rmdir()
    assert result.returncode == 2
    assert "both installed" in result.stderr
