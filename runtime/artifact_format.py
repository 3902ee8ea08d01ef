"""The layout of artifacts (.hios files): a zip of stored entries in one canonical form.

Any zip tool can list and extract it. Given entries have exactly one archive: no compression,
comments, extra data, gaps or duplicates, the manifest first, every content aligned to 64 bytes. A
signature, where there is one, comes last. `hios_tvm.artifact.write` makes archives, and
`read_artifact` accepts no other bytes.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hios_tvm.errors import ArtifactError
from hios_tvm.schema.manifest import ALIGNMENT

MANIFEST = "manifest.json"
PARAMS = "params.safetensors"
SOURCES = "sources.safetensors"
MAX_ARCHIVE_BYTES = 2**32 - 1
"""What a zip without extensions can describe."""
MAX_ENTRIES = 1024

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION, _STORED, _MIDNIGHT, _DAY = 20, 0, 0, 0x21  # the first day that zip knows, 1980-01-01
_PADDING = 0xD935  # the extra field that aligns data, as Android's zipalign names it

END_BYTES = _END.size
"""Bytes of the record that ends an archive."""


@dataclass(frozen=True)
class Entry:
    """An entry of the archive; `offset` is where its header begins."""

    name: str
    nbytes: int
    crc: int
    offset: int

    @property
    def data_offset(self) -> int:
        """Where the content begins: aligned."""
        end = self.offset + _LOCAL.size + len(self.name)
        return -(-(end + 4) // ALIGNMENT) * ALIGNMENT

    @property
    def end(self) -> int:
        return self.data_offset + self.nbytes


def local_header(entry: Entry) -> bytes:
    """Return the bytes that stand before the content of `entry`."""
    name = entry.name.encode("ascii")
    padding = entry.data_offset - entry.offset - _LOCAL.size - len(name) - 4
    fixed = (_VERSION, 0, _STORED, _MIDNIGHT, _DAY, entry.crc, entry.nbytes, entry.nbytes)
    header = _LOCAL.pack(b"PK\3\4", *fixed, len(name), padding + 4)
    return header + name + struct.pack("<2H", _PADDING, padding) + bytes(padding)


def central_directory(entries: Sequence[Entry]) -> bytes:
    """Return the bytes that stand after the last entry, to the end of the file."""
    records = []
    for entry in entries:
        name = entry.name.encode("ascii")
        fixed = (_VERSION, _VERSION, 0, _STORED, _MIDNIGHT, _DAY)
        sizes = (entry.crc, entry.nbytes, entry.nbytes, len(name))
        records.append(_CENTRAL.pack(b"PK\1\2", *fixed, *sizes, 0, 0, 0, 0, 0, entry.offset) + name)
    directory = b"".join(records)
    count, start = len(entries), entries[-1].end
    return directory + _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), start, 0)


class DirectoryEnd(NamedTuple):
    """What the last record of an archive says: how many entries, and where their directory is."""

    entries: int
    nbytes: int
    start: int


def parse_end(record: bytes) -> DirectoryEnd:
    """Read the last `END_BYTES` of an archive."""
    _, _, _, entries, _, nbytes, start, _ = _END.unpack(record)
    return DirectoryEnd(entries, nbytes, start)


def parse_directory(directory: bytes, count: int) -> list[Entry]:
    """Read `count` entries of a central directory; their other fields are not looked at.

    Raises
    ------
    ArtifactError
        If the directory is cut off, a name is not allowed or occurs twice, or the manifest is not
        the first entry.
    """
    entries: list[Entry] = []
    position = 0
    for _ in range(count):
        record = directory[position : position + _CENTRAL.size]
        if len(record) != _CENTRAL.size:
            raise ArtifactError("its directory is damaged")
        fields = _CENTRAL.unpack(record)
        crc, _, nbytes, length, offset = *fields[7:11], fields[-1]
        position += _CENTRAL.size
        name = directory[position : position + length].decode("ascii", errors="replace")
        position += length
        if not _NAME.fullmatch(name) or any(name == entry.name for entry in entries):
            raise ArtifactError(f"its entry name {name[:60]!r} is not allowed, or occurs twice")
        entries.append(Entry(name, nbytes, crc, offset))
    if entries[0].name != MANIFEST:
        raise ArtifactError(f"its first entry is not {MANIFEST}")
    return entries
