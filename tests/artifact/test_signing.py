"""Signatures, with real keys: everything but the signed file itself is refused."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hios_tvm import runtime
from hios_tvm.artifact.sign import public_key_path, sign_artifact, write_new_key
from hios_tvm.artifact.write import pack, write
from hios_tvm.cli import main
from hios_tvm.errors import ArtifactError, UsageError
from hios_tvm.runtime.artifact_format import Entry, central_directory, local_header
from hios_tvm.runtime.read_artifact import open_artifact, read_manifest
from hios_tvm.schema.manifest import Buffer, DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.program import Call, Program

SPEC = TensorSpec("x", "x", (4,), "float32")
LIBRARIES = {"cpu@0": b"code"}
ENTRY_BYTES = 4096  # more than the entry of a signature takes, its directory included


def manifest(model: str) -> Manifest:
    """Return the manifest of a model that adds its weights; its code is never loaded."""
    import tvm

    return Manifest(
        tvm_version=tvm.__version__,
        model=model,
        inputs=(SPEC,),
        outputs=(TensorSpec("y", "y", (4,), "float32"),),
        devices=(DeviceSpec("cpu@0", "cpu", None, "llvm", (), 0),),
        programs=(Program("cpu@0", 0, (Call("add1", "add", ("x", "w", "y")),)),),
        buffers=(
            Buffer("x", None, "input", (4,), "float32"),
            Buffer("w", None, "param", (4,), "float32"),
            Buffer("y", None, "output", (4,), "float32"),
        ),
    )


@pytest.fixture
def key(tmp_path: Path) -> Path:
    write_new_key(tmp_path / "build.pem")
    return tmp_path / "build.pem"


@pytest.fixture
def unsigned(tmp_path: Path) -> Path:
    path = tmp_path / "unsigned.hios"
    write(pack(manifest("a"), LIBRARIES, {"w": np.arange(4, dtype=np.float32)}), path)
    return path


@pytest.fixture
def signed(unsigned: Path, key: Path, tmp_path: Path) -> Path:
    sign_artifact(unsigned, key, tmp_path / "signed.hios")
    return tmp_path / "signed.hios"


def test_the_owner_of_the_key_is_accepted(signed: Path, unsigned: Path, key: Path) -> None:
    artifact = open_artifact(signed, verify_key=public_key_path(key))
    assert artifact.weights is not None
    assert artifact.manifest == open_artifact(unsigned).manifest
    assert open_artifact(signed).manifest == artifact.manifest  # without a key it is like another
    assert read_manifest(signed, verify_key=public_key_path(key)) == artifact.manifest


def test_signing_adds_an_entry_and_changes_no_other_byte(signed: Path, unsigned: Path) -> None:
    before, after = unsigned.read_bytes(), signed.read_bytes()
    content_end = before.index(b"PK\1\2")
    assert after[:content_end] == before[:content_end]
    assert len(after) - len(before) < ENTRY_BYTES


def test_signing_again_replaces_the_signature(signed: Path, key: Path, tmp_path: Path) -> None:
    once = signed.read_bytes()
    sign_artifact(signed, key)
    assert signed.read_bytes() == once  # Ed25519 is deterministic
    write_new_key(tmp_path / "other.pem")
    sign_artifact(signed, tmp_path / "other.pem")
    assert open_artifact(signed, verify_key=tmp_path / "other.pub.pem")
    with pytest.raises(ArtifactError, match="another key"):
        open_artifact(signed, verify_key=public_key_path(key))


def test_an_unsigned_file_is_refused(unsigned: Path, key: Path) -> None:
    for read in (open_artifact, read_manifest, runtime.load):
        with pytest.raises(ArtifactError, match="it is not signed"):
            read(unsigned, verify_key=public_key_path(key))


def test_a_signature_of_another_artifact_is_refused(
    signed: Path, key: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.hios"
    write(pack(manifest("b"), LIBRARIES, {"w": np.arange(4, dtype=np.float32)}), other)
    sign_artifact(other, key)
    swapped = tmp_path / "swapped.hios"
    swapped.write_bytes(with_entry(other, signature_of(signed)))
    with pytest.raises(ArtifactError, match="another key signed it, or it was changed"):
        open_artifact(swapped, verify_key=public_key_path(key))


def test_a_signature_for_another_purpose_is_refused(unsigned: Path, key: Path) -> None:
    private = pem.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    bare = private.sign(read_manifest(unsigned).to_json())
    unsigned.write_bytes(with_entry(unsigned, bare))
    open_artifact(unsigned)
    with pytest.raises(ArtifactError, match="another key signed it, or it was changed"):
        open_artifact(unsigned, verify_key=public_key_path(key))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_has_64_bytes(unsigned: Path, size: int) -> None:
    unsigned.write_bytes(with_entry(unsigned, bytes(size)))
    with pytest.raises(ArtifactError, match="signature has a wrong size or place"):
        open_artifact(unsigned)


def test_every_changed_byte_is_refused(signed: Path, key: Path, tmp_path: Path) -> None:
    """Of the whole file, one after another; most of them where an attacker would need them."""
    content = signed.read_bytes()
    broken = tmp_path / "broken.hios"
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 + position % 255
        broken.write_bytes(changed)
        with pytest.raises(ArtifactError):
            open_artifact(broken, verify_key=public_key_path(key))


def test_changes_with_repaired_checksums_are_refused(
    signed: Path, unsigned: Path, key: Path, tmp_path: Path
) -> None:
    """An attacker can repair hashes, and cannot sign."""
    forged = tmp_path / "forged.hios"
    write(pack(manifest("a"), LIBRARIES, {"w": np.full(4, 666, np.float32)}), forged)
    open_artifact(forged)
    forged.write_bytes(with_entry(forged, signature_of(signed)))
    open_artifact(forged)
    for read in (open_artifact, read_manifest):
        with pytest.raises(ArtifactError, match="another key signed it, or it was changed"):
            read(forged, verify_key=public_key_path(key))


def test_content_that_the_manifest_does_not_describe_is_refused(
    signed: Path, key: Path, tmp_path: Path
) -> None:
    """The manifest and its signature are real, the weights are others."""
    content = signed.read_bytes()
    old, new = (np.arange(n, n + 4, dtype=np.float32).tobytes() for n in (0, 1))
    signed.write_bytes(repaired(content.replace(old, new)))
    for read in (open_artifact, read_manifest):
        with pytest.raises(ArtifactError, match="damaged"):
            read(signed, verify_key=public_key_path(key))
    with pytest.raises(ArtifactError, match="damaged"):
        sign_artifact(signed, key)


def test_the_signature_is_checked_before_the_manifest_is_read(unsigned: Path, key: Path) -> None:
    content = unsigned.read_bytes().replace(b'"format_version":4', b'"format_version":7')
    unsigned.write_bytes(repaired(content))
    with pytest.raises(ArtifactError, match="format version 7"):
        open_artifact(unsigned)
    with pytest.raises(ArtifactError, match="it is not signed"):
        open_artifact(unsigned, verify_key=public_key_path(key))


def test_a_private_key_is_for_its_owner_alone(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"PRIVATE" not in public_key_path(key).read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        write_new_key(key)


def test_what_is_no_key_is_named(unsigned: Path, key: Path, tmp_path: Path) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    secret = curve.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    public = curve.public_key().public_bytes(
        pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo
    )
    files = {"secret.pem": secret, "public.pem": public, "text.pem": b"no key"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name, message in (
        ("public.pem", "is no Ed25519 key"),
        ("text.pem", "is no public key"),
        ("build.pem", "is no public key"),
        ("missing.pem", "cannot read"),
    ):
        with pytest.raises(UsageError, match=message):
            open_artifact(unsigned, verify_key=tmp_path / name)
    for name, message in (
        ("secret.pem", "is no Ed25519 key"),
        ("text.pem", "is no private key"),
        ("build.pub.pem", "is no private key"),
        ("missing.pem", "cannot read"),
    ):
        with pytest.raises(UsageError, match=message):
            sign_artifact(unsigned, tmp_path / name)


def test_what_cannot_be_signed_is_left_alone(unsigned: Path, key: Path, tmp_path: Path) -> None:
    before = unsigned.read_bytes()
    with pytest.raises(UsageError, match="does not exist"):
        sign_artifact(unsigned, key, tmp_path / "missing" / "a.hios")
    damaged = tmp_path / "damaged.hios"
    damaged.write_bytes(before[:-1])
    with pytest.raises(ArtifactError):
        sign_artifact(damaged, key)
    assert damaged.read_bytes() == before[:-1]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_commands(unsigned: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "new.pem", tmp_path / "new.pub.pem"

    def call(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    assert call("sign", "--new-key", key)[0] == 0
    assert call("sign", "--new-key", key)[0] == 2
    assert call("sign", unsigned)[0] == 2
    assert call("sign", unsigned, "--new-key", tmp_path / "x.pem")[0] == 2
    for words in (["run"], ["benchmark"], ["inspect"], ["plot"], ["report"], ["compare", unsigned]):
        code, output = call(*words, unsigned, "--verify-key", public)
        assert code == 1
        assert f"error: {unsigned}: it is not signed" in output
    assert call("sign", unsigned, "--key", key)[0] == 0
    code, output = call("inspect", unsigned, "--version-only", "--verify-key", public)
    assert code == 0, output


def test_without_cryptography_the_extra_is_named(unsigned: Path, key: Path) -> None:
    code = """
import sys
sys.modules["cryptography"] = None
from pathlib import Path
import hios_tvm.runtime
from hios_tvm.errors import UsageError
from hios_tvm.artifact.sign import sign_artifact
for call in (
    lambda: hios_tvm.runtime.load(sys.argv[1], verify_key=sys.argv[2]),
    lambda: sign_artifact(Path(sys.argv[1]), Path(sys.argv[2])),
):
    try:
        call()
    except UsageError as error:
        assert "pip install 'hios-tvm[sign]'" in str(error)
    else:
        raise SystemExit("no error")
"""
    arguments = [sys.executable, "-c", code, str(unsigned), str(key)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, env=os.environ)
    assert result.returncode == 0, result.stderr


def entries_of(content: bytes) -> list[tuple[str, bytes]]:
    """Return names and contents by the sizes in the local headers, whatever their checksums."""
    entries, position = [], 0
    while content[position : position + 4] == b"PK\3\4":
        nbytes = int.from_bytes(content[position + 18 : position + 22], "little")
        length = int.from_bytes(content[position + 26 : position + 28], "little")
        extra = int.from_bytes(content[position + 28 : position + 30], "little")
        name = content[position + 30 : position + 30 + length].decode()
        start = position + 30 + length + extra
        entries.append((name, content[start : start + nbytes]))
        position = start + nbytes
    return entries


def archive_of(entries: list[tuple[str, bytes]]) -> bytes:
    import zlib

    written: list[Entry] = []
    content = b""
    for name, data in entries:
        entry = Entry(name, len(data), zlib.crc32(data), len(content))
        content += local_header(entry) + data
        written.append(entry)
    return content + central_directory(written)


def repaired(content: bytes) -> bytes:
    """Return the archive with right checksums."""
    return archive_of(entries_of(content))


def with_entry(path: Path, signature: bytes) -> bytes:
    entries = [entry for entry in entries_of(path.read_bytes()) if entry[0] != "signature"]
    return archive_of([*entries, ("signature", signature)])


def signature_of(path: Path) -> bytes:
    return dict(entries_of(path.read_bytes()))["signature"]


def test_a_deployment_requires_signatures_by_its_environment(
    unsigned: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = tmp_path / "signed.hios"
    sign_artifact(unsigned, key, signed)
    monkeypatch.setenv("HIOS_REQUIRE_SIGNATURE", str(public_key_path(key)))
    assert open_artifact(signed).manifest == open_artifact(signed).manifest
    for read in (open_artifact, read_manifest, runtime.load):
        with pytest.raises(ArtifactError, match="it is not signed"):
            read(unsigned)
    monkeypatch.setenv("HIOS_REQUIRE_SIGNATURE", str(tmp_path / "missing.pem"))
    with pytest.raises(UsageError, match=r"cannot read the key .*missing\.pem"):
        open_artifact(signed)


def test_commands_may_refuse_to_run_without_a_key(unsigned: Path) -> None:
    result = CliRunner().invoke(main, ["run", str(unsigned), "--require-signature"])
    assert result.exit_code == 2
    assert "--require-signature needs a key: give --verify-key, or set" in result.output
