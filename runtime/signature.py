"""Signatures of artifacts: who made a file, checked before anything of it is used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hios_tvm.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE = "signature"
"""The archive's last entry where it is signed: an Ed25519 signature, and nothing else."""

SIGNATURE_BYTES = 64
_PURPOSE = b"hios-tvm artifact\0"  # a signature made for another purpose is not valid here


REQUIRED_KEY = "HIOS_REQUIRE_SIGNATURE"
"""Environment variable of deployments: the public key whose owner must have signed artifacts."""


def required_key(given: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """Return the file of the key that must have signed: `given`, or the environment's."""
    return given if given is not None else os.environ.get(REQUIRED_KEY) or None


def signed_message(manifest: bytes) -> bytes:
    """Return what a signature signs: the manifest, which holds the SHA-256 of all other entries."""
    return _PURPOSE + manifest


def read_public_key(path: str | os.PathLike[str]) -> Ed25519PublicKey:
    """Read an Ed25519 public key in PEM.

    Raises
    ------
    UsageError
        If the file holds no such key, or the package cryptography is not installed.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise UsageError(
            "signatures need the package cryptography; run: pip install 'hios-tvm[sign]'"
        ) from error
    try:
        key = load_pem_public_key(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror}") from error
    except Exception as error:  # cryptography raises many kinds for what is no key
        raise UsageError(f"{path} is no public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} is no Ed25519 key")
    return key


def check_signature(manifest: bytes, signature: bytes | None, key: Ed25519PublicKey) -> None:
    """Raise `ArtifactError` unless `signature` is that of the owner of `key` for `manifest`."""
    from cryptography.exceptions import InvalidSignature

    if signature is None:
        raise ArtifactError("it is not signed")
    try:
        key.verify(signature, signed_message(manifest))
    except InvalidSignature:
        raise ArtifactError(
            "its signature is not that of the given key: another key signed it, or it was changed"
        ) from None
