"""Signing artifacts; `hios_tvm.runtime.signature` says what is signed, and checks it."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from hios_tvm.errors import UsageError
from hios_tvm.files import atomic_write, check_writable, write_errors
from hios_tvm.runtime.artifact_format import Entry, central_directory, local_header
from hios_tvm.runtime.read_artifact import read_undamaged
from hios_tvm.runtime.signature import SIGNATURE, signed_message

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sign_artifact(path: Path, key: Path, output: Path | None = None) -> None:
    """Sign an artifact, after its entries have been checked.

    Parameters
    ----------
    path : Path
        The artifact; a signature that it has is replaced.
    key : Path
        Ed25519 private key in PEM, as `write_new_key` or OpenSSL write it.
    output : Path, optional
        Where to write the signed artifact; without it `path` is replaced, once it is whole.

    Raises
    ------
    ArtifactError
        If the artifact is damaged.
    UsageError
        If `key` is no such key, or nothing can be written.
    """
    private = _read_private_key(key)
    manifest, entries = read_undamaged(path)
    signature = private.sign(signed_message(manifest))
    end = entries[-1].end
    entry = Entry(SIGNATURE, len(signature), zlib.crc32(signature), end)
    with path.open("rb") as source, atomic_write(output or path) as file:
        shutil.copyfileobj(source, file)
        file.truncate(end)
        file.seek(end)
        file.write(local_header(entry) + signature + central_directory([*entries, entry]))


def public_key_path(key: Path) -> Path:
    """Return where `write_new_key` puts the public half.

    >>> public_key_path(Path("keys/build.pem")).as_posix()
    'keys/build.pub.pem'
    """
    return key.with_name(f"{key.stem}.pub{key.suffix or '.pem'}")


def write_new_key(key: Path) -> Path:
    """Write a new Ed25519 key in PEM to `key`, for its owner alone, and its public half beside it.

    Raises
    ------
    UsageError
        If one of the files exists: keys are never overwritten.
    """
    private = _private_key_type().generate()
    from cryptography.hazmat.primitives import serialization as pem

    public = public_key_path(key)
    secret = private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    shown = private.public_key().public_bytes(
        pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo
    )
    for path in (key, public):
        check_writable(path)
        if path.exists():
            raise UsageError(f"{path} exists already; keys are never overwritten")
    for path, content, mode in ((key, secret, 0o600), (public, shown, 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        with write_errors(path), os.fdopen(descriptor, "wb") as file:
            file.write(content)
    return public


def _read_private_key(path: Path) -> Ed25519PrivateKey:
    kind = _private_key_type()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror}") from error
    except Exception as error:  # cryptography raises many kinds for what is no key
        raise UsageError(f"{path} is no private key in PEM without a password: {error}") from error
    if not isinstance(key, kind):
        raise UsageError(f"{path} is no Ed25519 key")
    return key


def _private_key_type() -> type[Ed25519PrivateKey]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise UsageError(
            "signatures need the package cryptography; run: pip install 'hios-tvm[sign]'"
        ) from error
    return Ed25519PrivateKey
