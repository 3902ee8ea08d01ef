"""Archives of artifacts whose directory is right, whatever their entries hold."""

from __future__ import annotations

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
