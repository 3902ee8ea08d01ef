"""The runtime without Python reads what Python reads, refuses the same, and computes the same."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import test_check_manifest
import test_check_shapes
import tvm
from archives import archive_of, entries_of, with_entry
from attacks_on_artifacts import write_several
from build_c_runtime import HEADER, LIBRARY, build_c_runtime
from c_runtime import CRuntime
from hand_made import LENGTH, HandMade
from mutations import damage, edit_json
from test_read_artifact import _damage_directory

import hios_tvm
from hios_tvm.artifact.sign import public_key_path, sign_artifact, write_new_key
from hios_tvm.errors import (
    ArtifactError,
    DeviceError,
    HiosError,
    InputError,
    RunTimeoutError,
    UsageError,
)
from hios_tvm.runtime.artifact_format import MANIFEST, PARAMS
from hios_tvm.runtime.devices.cpu import claims
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.schema.dtypes import DTYPES, numpy_dtype
from hios_tvm.schema.manifest import DeviceSpec, Manifest
from hios_tvm.schema.precisions import PRECISIONS
from hios_tvm.schema.recipe import Recipe
from hios_tvm.schema.value_checks import Kind

ROOT = Path(__file__).parents[2]
_DAMAGES = 60

pytestmark = pytest.mark.slow  # the library is compiled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with its header, and the program of examples/c."""
    folder = tmp_path_factory.mktemp("c-runtime")
    build_c_runtime(folder, ["-O1"])
    build_example("gcc", "c/run.c", folder, "run")
    return folder


@pytest.fixture(scope="module")
def c_runtime(folder: Path) -> CRuntime:
    return CRuntime(folder / LIBRARY)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact for batches, with prepared weights, a checked index, and cores in a team."""
    path = tmp_path_factory.mktemp("several") / "several.hios"
    write_several(path)
    return path


def build_example(compiler: str, source: str, folder: Path, name: str) -> None:
    flags = ["-Wall", "-Wextra", "-Werror", f"-I{folder}", f"-L{folder}", "-Wl,-rpath,$ORIGIN"]
    command = [compiler, ROOT / "examples" / source, *flags, "-lhios_runtime", "-pthread"]
    subprocess.run([*command, "-o", folder / name], check=True)


def verdict(read: Callable[[], object]) -> type[HiosError] | None:
    try:
        read()
    except HiosError as error:
        return type(error)
    return None


def require_same_verdict(c_runtime: CRuntime, path: Path) -> type[HiosError] | None:
    """Return what both runtimes say of a file, which is the same."""
    expected = verdict(lambda: open_artifact(path))
    assert verdict(lambda: c_runtime.verify(path)) is expected, path
    return expected


# --- What is refused


def packed(manifests: list[Manifest]) -> bytes:
    """Return an archive in which everything is right but what the manifests themselves say."""
    header = b'{"w":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}'
    entries = {"k.so": b"code", PARAMS: len(header).to_bytes(8, "little") + header + bytes(64)}
    first, *others = manifests
    entries |= {
        name: replace(m, tvm_version=tvm.__version__).to_json()
        for name, m in zip(first.shapes.others if first.shapes else (), others, strict=False)
    }
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in entries.items()}
    first = replace(first, tvm_version=tvm.__version__, entries=digests)
    return archive_of({MANIFEST: first.to_json(), **entries})


def test_each_rule_of_manifests_holds_without_python(c_runtime: CRuntime, tmp_path: Path) -> None:
    path = tmp_path / "m.hios"
    path.write_bytes(packed([test_check_manifest.manifest()]))
    assert require_same_verdict(c_runtime, path) is None
    for name, (change, _) in test_check_manifest.DEFECTS.items():
        changed = change(test_check_manifest.manifest())
        path.write_bytes(packed([changed]))
        assert require_same_verdict(c_runtime, path) is ArtifactError or "copied" in name, name
    for name, (manifests, _) in test_check_shapes.CASES.items():
        path.write_bytes(packed(manifests))
        assert require_same_verdict(c_runtime, path) is ArtifactError, name
    path.write_bytes(packed([test_check_manifest.checked()]))
    assert require_same_verdict(c_runtime, path) is None


def test_each_word_of_the_schema_is_known(c_runtime: CRuntime, tmp_path: Path) -> None:
    path, sound = tmp_path / "m.hios", test_check_manifest.manifest()
    given, *buffers = sound.buffers
    manifests = [
        *(replace(sound, recipe=Recipe(precision=precision)) for precision in PRECISIONS),
        *(test_check_manifest.checked(kind=kind) for kind in get_args(Kind)),
        *(
            replace(
                sound,
                inputs=(replace(sound.inputs[0], dtype=dtype),),
                outputs=(sound.outputs[0], replace(sound.outputs[1], dtype=dtype)),
                buffers=(replace(given, dtype=dtype), *buffers),
            )
            for dtype in DTYPES
        ),
    ]
    for manifest in manifests:
        path.write_bytes(packed([manifest]))
        assert require_same_verdict(c_runtime, path) is None


def test_damaged_and_edited_files_have_the_same_verdict(
    c_runtime: CRuntime, hand_made: HandMade, several: Path
) -> None:
    """Bytes of the file, JSON of manifests, and weights, both with hashes that are right again."""
    rng = random.Random(0)
    path = hand_made.path
    found = []
    for whole in (path.read_bytes(), several.read_bytes()):
        entries = entries_of(whole)
        manifests = [name for name in entries if name.endswith(".json")]
        tensors = [name for name in entries if name.endswith(".safetensors")]
        for _ in range(_DAMAGES):
            edited, weights = rng.choice(manifests), rng.choice(tensors)
            for content in (
                damage(whole, rng),
                _damage_directory(whole, rng),
                archive_of(with_entry(entries, edited, edit_json(entries[edited], rng))),
                archive_of(with_entry(entries, weights, damage(entries[weights], rng))),
            ):
                path.write_bytes(content)
                found.append(require_same_verdict(c_runtime, path))
    assert 0.05 < found.count(None) / len(found) < 0.5


JSON_VALUES = (
    *("1e400", "-0", "01", "1.", ".5", "1e", "+1", "NaN", "-Infinity", "1E5", "9" * 30),
    *("1" + "0" * 400, "1" * 4301, "9007199254740993", "9007199254740993.0", "null", "tru"),
    *(r'"\ud800"', r'"\ud83d\ude00"', r'"\ud83dx"', r'"\\ud800"', r'"\u12"', r'"\x41"', '"\t"'),
    *('"\ue000"', '{"a":1,"a":2}', r'{"a":1,"\u0061":2}', "[" * 500 + "]" * 500, "[[", "[1,]"),
)


@pytest.mark.parametrize("field", ["compile_info", "independence", "arena_bytes"])
def test_the_same_json_is_valid(c_runtime: CRuntime, hand_made: HandMade, field: str) -> None:
    entries = entries_of(hand_made.path)
    before = re.compile(rf'("{field}":)([^,}}]+)'.encode())
    texts = [value.encode() for value in JSON_VALUES]
    texts += [b'"' + text + b'"' for text in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xc3\xa9")]
    for text in texts:
        value = b'{"v":' + text if field == "compile_info" else text
        changed = before.sub(lambda m, value=value: m[1] + value, entries[MANIFEST], count=1)
        hand_made.path.write_bytes(archive_of({**entries, MANIFEST: changed}))
        require_same_verdict(c_runtime, hand_made.path)
    for text in (b"", b"\xef\xbb\xbf" + entries[MANIFEST], entries[MANIFEST] + b"\0", b"[]"):
        hand_made.path.write_bytes(archive_of({**entries, MANIFEST: text}))
        assert require_same_verdict(c_runtime, hand_made.path) is ArtifactError


def test_signatures_are_checked_without_python(
    c_runtime: CRuntime, hand_made: HandMade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other, signed = tmp_path / "own.pem", tmp_path / "other.pem", tmp_path / "signed.hios"
    for key in (own, other):
        write_new_key(key)
    sign_artifact(hand_made.path, own, signed)
    try:
        c_runtime.verify(signed, public_key_path(own))
    except UsageError as error:
        pytest.skip(str(error))  # there is no libcrypto
    for path, key in ((signed, public_key_path(other)), (hand_made.path, public_key_path(own))):
        with pytest.raises(ArtifactError, match="sign"):
            open_artifact(path, verify_key=key)
        with pytest.raises(ArtifactError, match="sign"):
            c_runtime.verify(path, key)
    with pytest.raises(UsageError, match="no public key in PEM"):
        c_runtime.verify(signed, signed)
    monkeypatch.setenv("HIOS_REQUIRE_SIGNATURE", str(public_key_path(other)))
    with pytest.raises(ArtifactError, match="its signature is not that of the given key"):
        c_runtime.verify(signed)


def test_digests_are_right_with_and_without_instructions_for_them(tmp_path: Path) -> None:
    main = """
#include "digest.h"
#include <cstdio>
int main() {
  for (int size = 0; size < 300; ++size) {
    const std::string text(size, static_cast<char>(size));
    for (bool portable : {false, true}) {
      hios::Sha256 digest(portable);
      digest.Update(text.data(), size / 3);
      digest.Update(text.data() + size / 3, size - size / 3);
      std::puts(digest.Hex().c_str());
    }
  }
}
"""
    sources = HEADER.parent
    command = ["g++", "-std=c++17", "-O1", f"-I{sources}", "-x", "c++", "-", sources / "digest.cc"]
    subprocess.run([*command, "-o", tmp_path / "digests"], input=main, text=True, check=True)
    done = subprocess.run([tmp_path / "digests"], capture_output=True, text=True, check=True)
    texts = [bytes([size % 256]) * size for size in range(300) for _ in range(2)]
    assert done.stdout.split() == [hashlib.sha256(text).hexdigest() for text in texts]


# --- Runs


def inputs_of(manifest: Manifest, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {
        spec.name: (3 * rng.random((rows, *spec.shape[1:]))).astype(numpy_dtype(spec.dtype))
        for spec in manifest.inputs
    }


def test_all_sizes_of_a_batch_give_the_same_bytes(c_runtime: CRuntime, several: Path) -> None:
    with hios_tvm.load(several) as session, closing(c_runtime.session(several)) as other:
        for rows in (3, 2, 1):
            inputs = inputs_of(session.manifest, rows)
            expected = session.run(inputs)
            for unaligned in (0, 1):
                outputs = {name: unaligned_like(a, unaligned) for name, a in expected.items()}
                other.run(inputs, outputs)
                for name, array in expected.items():
                    assert array.tobytes() == outputs[name].tobytes()
        wrong = {**inputs, "i": inputs["i"] + 100}
        for read in (lambda: session.run(wrong), lambda: other.run(wrong, {})):
            with pytest.raises(InputError, match="got the index 10"):
                read()
        with pytest.raises(InputError, match="runs batches from 1 to 3"):
            other.run(inputs_of(session.manifest, 4), {})
        with pytest.raises(InputError, match=r"'x' is missing: float32 \[3, 8\]"):
            other.run({"i": inputs["i"]}, {})
        with pytest.raises(InputError, match="'q' is unknown"):
            other.run({**inputs, "q": inputs["x"]}, {})
        with pytest.raises(InputError, match="shares memory with an input"):
            other.run(inputs, {"y": inputs["x"][:, :5].reshape(-1)[:5].reshape(1, 5)})


def unaligned_like(array: np.ndarray, offset: int) -> np.ndarray:
    """Return memory for an array like this one, `offset` elements behind an aligned address."""
    size = array.itemsize
    memory = np.zeros(array.nbytes + 64 + offset * size, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64 + offset * size
    return memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)


def test_failures_have_the_codes_of_pythons_errors(
    c_runtime: CRuntime, folder: Path, faulty: Path, two_devices: tuple[str, str], tmp_path: Path
) -> None:
    devices = ",".join(two_devices)
    x = np.zeros(LENGTH, np.float32)
    y = np.empty_like(x)
    with closing(c_runtime.session(faulty, devices)) as session:
        session.run({"x": x}, {"y": y})
        slow = x.copy()
        slow[0] = 0.3  # seconds, see faults.cc
        with pytest.raises(RunTimeoutError, match="given up"):
            session.run({"x": slow}, {"y": y}, timeout_s=0.02)
        session.run({"x": x}, {"y": y})
    for wrong in ("cpu@999,cpu@999", "cpu@0", "cuda:0,cuda:1"):
        with pytest.raises(DeviceError):
            c_runtime.session(faulty, wrong)
    failing = x.copy()
    failing[1] = -1
    done = run_program(folder, faulty, [failing], 1, tmp_path, devices)
    assert done.returncode == 1
    assert re.search("operator 'check1' failed on .*the second number is negative", done.stderr)


def test_artifacts_for_gpus_are_read_and_not_loaded(c_runtime: CRuntime, tmp_path: Path) -> None:
    path, sound = tmp_path / "m.hios", test_check_manifest.manifest()
    gpu = DeviceSpec("cuda:0", "cuda", None, "cuda", (), 0)
    path.write_bytes(packed([replace(sound, devices=(*sound.devices, gpu))]))
    assert require_same_verdict(c_runtime, path) is None
    with pytest.raises(DeviceError, match="is for the GPU cuda:0, too: this runtime runs on CPUs"):
        c_runtime.session(path)


def run_program(
    folder: Path, path: Path, inputs: list[np.ndarray], outputs: int, place: Path, devices: str
) -> subprocess.CompletedProcess[str]:
    """Run the program of examples/c with files `in0`, ..., `out0`, ... in `place`."""
    for i, array in enumerate(inputs):
        (place / f"in{i}").write_bytes(array.tobytes())
    files = [place / f"in{i}" for i in range(len(inputs))]
    files += [place / f"out{i}" for i in range(outputs)]
    return subprocess.run(
        [folder / "run", path, *files],
        capture_output=True,
        text=True,
        check=False,
        env={"HIOS_DEVICES": devices},
    )


def test_the_library_needs_the_c_library_alone(folder: Path) -> None:
    shown = subprocess.run(
        ["readelf", "-dW", folder / LIBRARY], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"NEEDED.*\[(.+?)\.so", shown))
    assert needed <= {"libc", "libm", "libdl", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
    assert (folder / LIBRARY).stat().st_size < 5_000_000


def chroot_command(root: Path) -> list[str] | None:
    """Return the command that runs programs inside of `root`, if this process may."""
    for command in (["chroot", root], ["unshare", "-r", "chroot", root]):
        try:
            found = subprocess.run([*command, "/run"], capture_output=True, check=False)
        except OSError:
            continue
        if found.returncode == 2:  # the program asks for its arguments
            return [*map(str, command)]
    return None


def copy_libraries(program: Path, root: Path) -> None:
    """Copy what a program is loaded with, and the library of mathematics, which kernels call."""
    shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = [Path(path) for path in re.findall(r"(/\S+) \(0x", shown)]
    system = next(path for path in paths if path.name.startswith("libc.so")).parent
    for path in (*paths, system / "libm.so.6"):
        place = system if path.name == LIBRARY else path.parent
        target = root / str(place).lstrip("/") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


@pytest.fixture
def root(folder: Path, tmp_path: Path) -> Path:
    """A root folder with the program of examples/c and its libraries: there is not even /proc."""
    root = tmp_path / "root"
    (root / "tmp").mkdir(parents=True)
    (root / "dev" / "shm").mkdir(parents=True)
    copy_libraries(folder / "run", root)
    shutil.copy(folder / "run", root)
    return root


def run_in(
    root: Path, path: Path, inputs: Iterable[np.ndarray], outputs: int, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the program inside of `root` on an artifact, with files `in0`, ..., `out0`, ..."""
    command = chroot_command(root)
    if command is None:
        pytest.skip("this process may not change its root folder")
    shutil.copy(path, root / "model.hios")
    files = []
    for i, array in enumerate(inputs):
        (root / f"in{i}").write_bytes(array.tobytes())
        files.append(f"/in{i}")
    files += [f"/out{i}" for i in range(outputs)]
    return subprocess.run(
        [*command, "/run", "/model.hios", *files],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_c_program_runs_where_there_is_no_python(root: Path, several: Path) -> None:
    with hios_tvm.load(several) as session:
        inputs = inputs_of(session.manifest, 3)
        expected = session.run(inputs)
    done = run_in(root, several, inputs.values(), len(expected))
    assert (done.returncode, done.stderr) == (0, "")
    assert "call z_conv2d" in done.stdout
    for i, array in enumerate(expected.values()):
        assert (root / f"out{i}").read_bytes() == array.tobytes()


def test_cores_that_a_session_has_for_itself_are_refused(
    root: Path, hand_made: HandMade, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims of both runtimes are the same: here Python's session has the cores.

    They lie in a folder of this test, so that tests in other processes are left alone.
    """
    monkeypatch.setattr(claims, "_PATH", str(root / "dev/shm/hios-tvm-cores-0"))
    monkeypatch.setattr(claims, "_CLAIMS", claims._Claims())
    devices = ",".join(hand_made.devices)
    with hand_made.load(exclusive=True):
        done = run_in(root, hand_made.path, [x], 3, HIOS_DEVICES=devices)
    assert done.returncode == 1
    assert "is used by another process, and that process wants it for itself" in done.stderr
    done = run_in(root, hand_made.path, [x], 3, HIOS_DEVICES=devices)
    assert (done.returncode, done.stderr) == (0, "")
    for i, array in enumerate(hand_made.expected(x).values()):
        assert (root / f"out{i}").read_bytes() == array.tobytes()


def test_threads_of_a_cpp_program_share_a_session(folder: Path, several: Path) -> None:
    build_example("g++", "cpp/run.cc", folder, "threads")
    done = subprocess.run(
        [folder / "threads", several, "4"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "4 runs of model are equal\n"), done.stderr


def test_the_description_is_that_of_the_manifest(folder: Path, several: Path) -> None:
    done = subprocess.run([folder / "run", several], capture_output=True, text=True, check=True)
    manifest = json.loads(entries_of(several)[MANIFEST])
    lines = [
        f"{kind} {spec['name']} {spec['dtype']} {spec['shape']}"
        for kind in ("input", "output")
        for spec in manifest[f"{kind}s"]
    ]
    assert done.stdout.splitlines() == [manifest["model"], *lines]
