"""Archives of artifacts whose directory is right, whatever their entries hold."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from hios_tvm.runtime.artifact_format import Entry, central_directory, local_header


def entries_of(archive: Path | bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(archive) if isinstance(archive, bytes) else archive) as file:
        return {name: file.read(name) for name in file.namelist()}


def archive_of(entries: Mapping[str, bytes]) -> bytes:
    written: list[Entry] = []
    content = b""
    for name, data in entries.items():
        entry = Entry(name, len(data), zlib.crc32(data), len(content))
        content += local_header(entry) + data
        written.append(entry)
    return content + central_directory(written)


def with_entry(entries: Mapping[str, bytes], name: str, content: bytes) -> dict[str, bytes]:
    """Replace an entry, and its hash in the manifests, whose own hashes may stand in others."""
    old, new = (hashlib.sha256(data).hexdigest().encode() for data in (entries[name], content))
    result = {**entries, name: content}
    for other in entries:
        if other.endswith(".json") and other != name and old in result[other]:
            result = with_entry(result, other, result[other].replace(old, new))
    return result
