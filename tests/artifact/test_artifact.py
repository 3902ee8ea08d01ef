from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hios_tvm.artifact.write import pack, write
from hios_tvm.errors import ArtifactError, CompileError, UsageError
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.schema.manifest import Buffer, DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.program import Call, Program

SPEC = TensorSpec("x", "x", (4,), "float32")
MANIFEST = Manifest(
    tvm_version="0",
    model="small",
    inputs=(SPEC,),
    outputs=(replace(SPEC, name="y", buffer="y"),),
    devices=(
        DeviceSpec("cpu@0", "cpu", None, "llvm", (), 0),
        DeviceSpec("cpu@1", "cpu", None, "llvm", (), 0),
    ),
    programs=(Program("cpu@0", 0, (Call("add1", "add", ("x", "w", "y")),)),),
    buffers=(
        Buffer("x", None, "input", (4,), "float32"),
        Buffer("w", None, "param", (4,), "float32"),
        Buffer("y", None, "output", (4,), "float32"),
    ),
)
PARAMS = {"w": np.arange(4, dtype=np.float32)}
LIBRARIES = {"cpu@0": b"code"}


def test_the_manifest_names_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "m.hios"
    written = write(pack(MANIFEST, LIBRARIES, PARAMS), path)
    assert read_manifest(path) == written
    assert [device.library for device in written.devices] == ["kernels0.so", None]
    assert written.entries.keys() == {"kernels0.so", "params.safetensors"}
    assert replace(written, devices=MANIFEST.devices, entries={}) == MANIFEST


def test_equal_compiles_make_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(pack(MANIFEST, LIBRARIES, PARAMS), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weights_need_not_be_contiguous(tmp_path: Path) -> None:
    path = tmp_path / "m.hios"
    write(pack(MANIFEST, LIBRARIES, {"w": np.arange(8, dtype=np.float32)[::2]}), path)
    assert np.array([0, 2, 4, 6], np.float32).tobytes() in path.read_bytes()


def test_what_the_runtime_would_refuse_is_not_written(tmp_path: Path) -> None:
    wrong = {"w": np.zeros(5, np.float32)}
    with pytest.raises(ArtifactError, match="'w' is no weight of that shape"):
        write(pack(MANIFEST, LIBRARIES, wrong), tmp_path / "m.hios")
    with pytest.raises(ArtifactError, match="no library"):
        write(pack(MANIFEST, {}, PARAMS), tmp_path / "m.hios")
    assert list(tmp_path.iterdir()) == []


def test_too_large_artifacts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hios_tvm.artifact.write.MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(CompileError, match="larger than"):
        write(pack(MANIFEST, LIBRARIES, PARAMS), tmp_path / "m.hios")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing does not exist"):
        write(pack(MANIFEST, LIBRARIES, PARAMS), tmp_path / "missing" / "m.hios")


def test_a_full_disk_leaves_the_old_artifact(tmp_path: Path) -> None:
    """`ulimit -f` makes writes fail as a full disk does."""
    path = tmp_path / "m.hios"
    write(pack(MANIFEST, LIBRARIES, PARAMS), path)
    before = path.read_bytes()
    script = f"""
import resource, signal
from dataclasses import replace
import numpy as np
from pathlib import Path
from hios_tvm.artifact.write import pack, write
from hios_tvm.errors import UsageError
from hios_tvm.runtime.read_artifact import read_manifest
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
manifest = read_manifest({str(path)!r})
build = pack(manifest, {{"cpu@0": bytes(50_000)}}, {{"w": np.ones(4, np.float32)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write(build, Path({str(path)!r}))
except UsageError as error:
    print(error)
    raise SystemExit(3)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert result.returncode == 3, result.stderr.decode()
    assert result.stdout.decode() == f"cannot write {path}: File too large\n"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_no_artifact(tmp_path: Path) -> None:
    """Kill a process that writes again and again: what is there is whole, or nothing is."""
    path = tmp_path / "m.hios"
    script = f"""
from pathlib import Path
from test_artifact import *
print("ready", flush=True)
while True:
    write(pack(MANIFEST, {{"cpu@0": bytes(3_000_000)}}, PARAMS), Path({str(path)!r}))
"""
    seen = set()
    for i in range(8):
        path.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
            time.sleep(0.02 * i)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        seen.add(path.exists())
        if path.exists():
            assert read_manifest(path).entries.keys() == {"kernels0.so", "params.safetensors"}
            assert path.stat().st_size > 3_000_000
    assert True in seen
