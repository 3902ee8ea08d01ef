from __future__ import annotations

import hashlib
import mmap
import os
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from archives import archive_of, entries_of
from hand_made import HandMade, make_manifest
from mutations import damage

from hios_tvm.artifact.write import pack, write
from hios_tvm.errors import ArtifactError
from hios_tvm.runtime import read_artifact
from hios_tvm.runtime.artifact_format import MANIFEST, PARAMS
from hios_tvm.runtime.read_artifact import open_artifact, read_manifest
from hios_tvm.runtime.sealed_memory import SealedMemory
from hios_tvm.runtime.session import Session
from hios_tvm.schema.manifest import Manifest


def rewrite(path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    entries = entries_of(path)
    change(entries)
    path.write_bytes(archive_of(entries))
    return path


def with_manifest(path: Path, change: Callable[[Manifest], Manifest]) -> Path:
    manifest = change(read_manifest(path))
    return rewrite(path, lambda entries: entries.update({MANIFEST: manifest.to_json()}))


def test_other_tools_read_the_archive(hand_made: HandMade) -> None:
    with zipfile.ZipFile(hand_made.path) as file:
        assert file.testzip() is None
        assert file.namelist() == [MANIFEST, "kernels0.so", PARAMS]
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
        weights = safetensors.numpy.load(file.read(PARAMS))
    np.testing.assert_array_equal(weights["w"], hand_made.weight)


def test_weights_and_libraries_are_aligned(hand_made: HandMade) -> None:
    content = hand_made.path.read_bytes()
    assert content.index(b"\x7fELF") % 64 == 0
    assert content.index(hand_made.weight.tobytes()) % 64 == 0


def test_equal_libraries_are_stored_once(hand_made: HandMade) -> None:
    manifest = read_manifest(hand_made.path)
    assert [device.library for device in manifest.devices] == ["kernels0.so"] * 2
    content = entries_of(hand_made.path)["kernels0.so"]
    assert manifest.entries["kernels0.so"] == hashlib.sha256(content).hexdigest()


def test_sessions_share_weights(hand_made: HandMade) -> None:
    first, second = open_artifact(hand_made.path), open_artifact(hand_made.path)
    assert first.weights is not None
    assert first.weights is second.weights
    assert first.weights.address("w") % 64 == 0


def test_weights_of_all_sizes_are_found(tmp_path: Path, library: bytes) -> None:
    rng = np.random.default_rng(0)
    sizes = [0, 1, 16, 17, 1000, 4096]
    params = {f"p{n}": rng.standard_normal(n).astype(np.float32) for n in sizes}
    params |= {
        "scalar": np.array(3, np.int64),
        "flags": np.array([True, False]),
        "w": params["p1000"],
    }
    path = tmp_path / "m.hios"
    write(pack(make_manifest(), {"cpu@0": library, "cpu@1": library}, params), path)
    weights = open_artifact(path).weights
    assert weights is not None
    for name, array in params.items():
        stored = weights.array(name).view(array.dtype).reshape(array.shape)
        np.testing.assert_array_equal(stored, array)
        assert weights.address(name) % 64 == 0
        assert stored.size == 0 or stored.__array_interface__["data"][0] == weights.address(name)


def test_another_tvm_is_named_with_the_command_that_rebuilds(hand_made: HandMade) -> None:
    import tvm

    path = with_manifest(hand_made.path, lambda m: replace(m, tvm_version="0.99"))
    message = (
        f"compiled with TVM 0.99, this is TVM {tvm.__version__}; make it again with "
        "'hios-tvm compile hand-made.onnx'"
    )
    with pytest.raises(ArtifactError, match=message):
        open_artifact(path)


def test_missing_cpu_features_are_named(
    hand_made: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_manifest(
        hand_made.path,
        lambda m: replace(m, devices=tuple(replace(d, cpu_features=("warp",)) for d in m.devices)),
    )
    with pytest.raises(
        ArtifactError, match="needs the CPU features warp, which this machine lacks"
    ):
        open_artifact(path)
    monkeypatch.setattr(read_artifact, "available_features", lambda: frozenset({"warp"}))
    open_artifact(path)


def _rename(old: str, new: str) -> Callable[[dict[str, bytes]], object]:
    def change(entries: dict[str, bytes]) -> None:
        renamed = {new if name == old else name: data for name, data in entries.items()}
        entries.clear()
        entries.update(renamed)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update({"extra.bin": b"1"}), "entries are not those"),
        (lambda e: e.pop(PARAMS), "entries are not those"),
        (
            lambda e: e.update({"kernels0.so": e["kernels0.so"] + b"\0"}),
            r"'kernels0.so' is damaged",
        ),
        (lambda e: e.update({PARAMS: e[PARAMS][:-1] + b"\1"}), r"'params.safetensors' is damaged"),
        (_rename("kernels0.so", "../kernels0.so"), "is not allowed"),
        (_rename("kernels0.so", "/etc/passwd"), "is not allowed"),
        (_rename("kernels0.so", "a\\b"), "is not allowed"),
        (_rename("kernels0.so", "c:evil"), "is not allowed"),
        (_rename("kernels0.so", "a\0b"), "is not allowed"),
        (_rename("kernels0.so", "lib/a.so"), "is not allowed"),
        (_rename("kernels0.so", "x" * 101), "is not allowed"),
        (lambda e: e.update({MANIFEST: e.pop(MANIFEST)}), "first entry is not manifest.json"),
        (_rename(MANIFEST, "other.json"), "first entry is not manifest.json"),
    ],
)
def test_wrong_entries_are_refused(
    hand_made: HandMade, change: Callable[[dict[str, bytes]], object], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        open_artifact(rewrite(hand_made.path, change))


def test_duplicate_entries_are_refused(hand_made: HandMade) -> None:
    content = hand_made.path.read_bytes().replace(b"kernels0.so", b"manifest.so")
    content = content.replace(b"manifest.so", MANIFEST.encode()[:11])
    hand_made.path.write_bytes(content)
    with pytest.raises(ArtifactError):
        open_artifact(hand_made.path)


def test_compressed_archives_are_refused(hand_made: HandMade) -> None:
    entries = entries_of(hand_made.path)
    with zipfile.ZipFile(hand_made.path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    with pytest.raises(ArtifactError):
        open_artifact(hand_made.path)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"\0" * 22, b"PK\5\6" + b"\0" * 18, b"PK\5\6" + b"\xff" * 18]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.hios"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"m\.hios: .* make it again with 'hios-tvm compile'"):
        open_artifact(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        open_artifact(tmp_path / "nothing.hios")
    with pytest.raises(ArtifactError):
        open_artifact(tmp_path)


def _header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


_ONE = b'{"w":{"dtype":"F32","shape":[1000],"data_offsets":[%d,%d]}}'


@pytest.mark.parametrize(
    "params",
    [
        b"",
        b"\0" * 7,
        _header(b"", 2**63),
        _header(b"{}", 3),
        _header(b" {}"),
        _header(b"[]"),
        _header(b"{", 1),
        _header(b"{}") + b"\0",
        _header(_ONE % (0, 4000)) + bytes(3999),
        _header(_ONE % (0, 4000)) + bytes(4001),
        _header(_ONE % (1, 4001)) + bytes(4001),
        _header(_ONE % (0, 3999)) + bytes(3999),
        _header(_ONE % (4000, 0)) + bytes(4000),
        _header(_ONE.replace(b"1000", b"-1000") % (0, 4000)) + bytes(4000),
        _header(_ONE.replace(b"1000", b"1e3") % (0, 4000)) + bytes(4000),
        _header(_ONE.replace(b"F32", b"F99") % (0, 4000)) + bytes(4000),
        _header(_ONE.replace(b'"dtype"', b'"x":1,"dtype"') % (0, 4000)) + bytes(4000),
        _header(
            _ONE.replace(b'{"w"', b'{"v":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"w"')
            % (0, 4000)
        )
        + bytes(4000),
        _header(_ONE[:-1] % (0, 4000) + b"," + _ONE[1:] % (0, 4000)) + bytes(4000),
    ],
    ids=range(19),
)
def test_broken_weights_are_refused_even_with_a_right_hash(
    hand_made: HandMade, params: bytes
) -> None:
    rewrite(hand_made.path, lambda entries: entries.update({PARAMS: params}))
    digest = hashlib.sha256(params).hexdigest()
    with_manifest(hand_made.path, lambda m: replace(m, entries={**m.entries, PARAMS: digest}))
    with pytest.raises(ArtifactError):
        open_artifact(hand_made.path)


def _damage_directory(content: bytes, rng: random.Random) -> bytes:
    """Damage headers and the directory, where a blind hit is rare."""
    places = [i for i in range(len(content) - 300, len(content))]
    places += [i + d for i in _find_all(content, b"PK\3\4") for d in range(60)]
    i = rng.choice(places)
    return content[:i] + bytes([rng.randrange(256)]) + content[i + 1 :]


def _find_all(content: bytes, what: bytes) -> list[int]:
    found, i = [], content.find(what)
    while i >= 0:
        found.append(i)
        i = content.find(what, i + 1)
    return found


@pytest.mark.parametrize("change", [damage, _damage_directory])
def test_damaged_files_are_refused_or_harmless(
    hand_made: HandMade, x: np.ndarray, change: Callable[[bytes, random.Random], bytes]
) -> None:
    """At least 2,000 damaged artifacts: an `ArtifactError`, or outputs equal bit for bit."""
    whole = hand_made.path.read_bytes()
    expected = {name: array.tobytes() for name, array in hand_made.expected(x).items()}
    rng = random.Random(0)
    refused = 0
    for _ in range(1100):
        damaged = change(whole, rng)
        hand_made.path.write_bytes(damaged)
        try:
            artifact = open_artifact(hand_made.path)
        except ArtifactError:
            refused += 1
            continue
        with Session(artifact, devices=hand_made.devices) as session:
            outputs = session.run({"the input": x})
        assert {name: array.tobytes() for name, array in outputs.items()} == expected
        assert damaged == whole, "no byte of the file is without meaning"
    assert refused > 900


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    hand_made: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading never touches mapped pages that may be gone: that would be a crash."""
    size = hand_made.path.stat().st_size

    def shrinking(machine: object, manifest: Manifest) -> None:
        with open(hand_made.path, "r+b") as file:
            file.truncate(size // 2)

    monkeypatch.setattr(read_artifact, "_check_machine", shrinking)
    with pytest.raises(ArtifactError, match="ends too early"):
        open_artifact(hand_made.path)


@pytest.mark.parametrize("change", ["overwritten", "shortened", "removed"])
def test_files_that_change_after_loading_do_not_matter(
    hand_made: HandMade, x: np.ndarray, change: str
) -> None:
    """Mapped files would end the process with SIGBUS, or change what a verified session computes.

    The outputs are compared bit by bit, in the session and in one more of the same weights.
    """
    whole = hand_made.path.read_bytes()
    expected = hand_made.expected(x)
    with hand_made.load() as session:
        if change == "overwritten":
            with open(hand_made.path, "r+b") as file:
                file.write(bytes(len(whole)))
        elif change == "shortened":
            os.truncate(hand_made.path, 0)
        else:
            hand_made.path.unlink()
        outputs = session.run({"the input": x})
        with pytest.raises(ArtifactError):
            open_artifact(hand_made.path)
        hand_made.path.write_bytes(whole)
        with hand_made.load() as second:
            again = second.run({"the input": x})
    for name, array in expected.items():
        np.testing.assert_array_equal(outputs[name], array)
        np.testing.assert_array_equal(again[name], array)


def test_weights_of_a_file_that_nobody_changed_are_hashed_once(
    hand_made: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    check = read_artifact._Reader._check_hash

    def counting(reader: read_artifact._Reader, name: str, *rest: Any) -> None:
        hashed.append(name)
        check(reader, name, *rest)

    monkeypatch.setattr(read_artifact._Reader, "_check_hash", counting)
    first = open_artifact(hand_made.path)  # just written: its next change may have the same time
    again = open_artifact(hand_made.path)
    assert hashed == [PARAMS] * 2
    del first, again
    monkeypatch.setattr(read_artifact, "_TICK_NS", 0)
    first = open_artifact(hand_made.path)
    assert open_artifact(hand_made.path).weights is first.weights
    assert hashed == [PARAMS] * 3
    os.utime(hand_made.path)
    assert open_artifact(hand_made.path).weights is first.weights
    assert hashed == [PARAMS] * 4


def test_sealed_memory_cannot_be_written_even_by_its_own_process() -> None:
    with SealedMemory("test") as memory:
        memory.write(b"verified")
        memory.seal()
        with pytest.raises(PermissionError):
            memory.write(b"more")
        with pytest.raises(PermissionError):
            os.truncate(memory.descriptor, 0)
        with pytest.raises(PermissionError):
            mmap.mmap(memory.descriptor, 0)
        assert memory.map()[:] == b"verified"
