"""Artifacts of one network without their weights, which lie beside them, once.

An artifact embeds its weights, and many artifacts of one network are to go to another machine:
there, `join` puts them together again, byte for byte.
"""

import hashlib
from pathlib import Path

from hios_tvm.runtime.artifact_format import PARAMS
from hios_tvm.runtime.read_artifact import read_undamaged

SEPARATE = ".without-weights"
"""Behind the name of an artifact whose weights are elsewhere."""

_NUMBER_BYTES = 8


def separate(artifact: Path) -> None:
    """Replace an artifact with weights by one without; equal weights are one file in its folder.

    The new file begins with the place of the weights in the old one, and with their hash.
    """
    _, entries = read_undamaged(artifact)
    entry = next((entry for entry in entries if entry.name == PARAMS), None)
    if entry is None:
        return
    content, start, end = artifact.read_bytes(), entry.data_offset, entry.end
    weights = content[start:end]
    digest = hashlib.sha256(weights).digest()
    _weights_file(artifact.parent, digest).write_bytes(weights)
    left = artifact.with_name(artifact.name + SEPARATE)
    left.write_bytes(
        start.to_bytes(_NUMBER_BYTES, "little") + digest + content[:start] + content[end:]
    )
    artifact.unlink()


def join(left: Path) -> Path:
    """Write the artifact that `separate` has replaced, and return its path."""
    content = left.read_bytes()
    begin = _NUMBER_BYTES + hashlib.sha256().digest_size
    start = begin + int.from_bytes(content[:_NUMBER_BYTES], "little")
    weights = _weights_file(left.parent, content[_NUMBER_BYTES:begin]).read_bytes()
    artifact = left.with_name(left.name.removesuffix(SEPARATE))
    artifact.write_bytes(content[begin:start] + weights + content[start:])
    return artifact


def _weights_file(folder: Path, digest: bytes) -> Path:
    return folder / f"weights-{digest.hex()[:16]}"
