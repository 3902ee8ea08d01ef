"""Writing artifacts; `hios_tvm.runtime.artifact_format` describes and reads them."""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from hios_tvm.errors import CompileError
from hios_tvm.files import atomic_write, temporary_file, write_errors
from hios_tvm.runtime.artifact_format import (
    MANIFEST,
    MAX_ARCHIVE_BYTES,
    PARAMS,
    SOURCES,
    Entry,
    central_directory,
    local_header,
)
from hios_tvm.runtime.check_manifest import check_manifest
from hios_tvm.schema.dtypes import element_type
from hios_tvm.schema.manifest import ALIGNMENT, Manifest, Prediction, Verification

NO_PREDICTION = Prediction()
NOT_VERIFIED = Verification()

Chunks = Sequence[bytes | memoryview]


@dataclass(frozen=True)
class Content:
    """The bytes of an entry, and their checksum as ZIP has it."""

    chunks: Chunks
    crc: int


@dataclass(frozen=True, repr=False)
class Build:
    """An artifact that is not in a file yet: its manifest, and its other entries by name.

    The manifest holds no prediction and no verification yet: `write` is given them. `weights` and
    `sources` are the arrays of the entries `PARAMS` and `SOURCES`.
    """

    manifest: Manifest
    contents: Mapping[str, Content]
    weights: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    sources: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Build of {self.manifest.summary}: {', '.join(self.contents)}>"


def write(
    build: Build,
    path: Path,
    prediction: Prediction = NO_PREDICTION,
    *,
    verification: Verification = NOT_VERIFIED,
    info: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:
    """Write the artifact: the whole file appears at `path`, or nothing does.

    Parameters
    ----------
    build : Build
    path : Path
    prediction : Prediction, optional
        What the schedule is expected to take, where its costs are known.
    verification : Verification
        What came of a comparison with a reference.
    info
        Added to the manifest's `compile_info`.

    Returns
    -------
    Manifest
        As written.

    Raises
    ------
    CompileError
        If the artifact would be larger than 4 GiB.
    UsageError
        If nothing can be written at `path`.
    """
    return write_described(described(build, prediction, verification=verification, info=info), path)


def write_described(build: Build, path: Path) -> Manifest:
    """Write the artifact as `write` does, with the manifest that it has."""
    with atomic_write(path) as file:
        _write(build, file)
    return build.manifest


def described(
    build: Build,
    prediction: Prediction = NO_PREDICTION,
    *,
    verification: Verification = NOT_VERIFIED,
    info: Mapping[str, Any] = MappingProxyType({}),
) -> Build:
    """Return `build` with what `write` is given."""
    manifest = replace(
        build.manifest,
        prediction=prediction,
        verification=verification,
        compile_info={**build.manifest.compile_info, **info},
    )
    return replace(build, manifest=manifest)


@contextmanager
def temporary_artifact(build: Build, beside: Path) -> Iterator[Path]:
    """Write a file in the folder of `beside`, and remove it at the end of the block.

    What has been loaded from it stays usable.
    """
    with temporary_file(beside) as file:
        with write_errors(beside):
            _write(build, file)
            file.flush()
        yield Path(file.name)


def _write(build: Build, file: BinaryIO) -> None:
    entries: list[Entry] = []
    contents = {MANIFEST: content_of([build.manifest.to_json()]), **build.contents}
    for name, content in contents.items():
        entry = _entry(name, content, entries)
        entries.append(entry)
        file.write(local_header(entry))
        file.writelines(content.chunks)
    file.write(central_directory(entries))


def pack(
    manifest: Manifest,
    libraries: Mapping[str, bytes],
    params: Mapping[str, np.ndarray[Any, Any]],
    device_code: Mapping[str, bytes] = MappingProxyType({}),
    sources: Mapping[str, np.ndarray[Any, Any]] = MappingProxyType({}),
) -> Build:
    """Put the entries of an artifact together, and prove that the runtime will take it.

    Parameters
    ----------
    manifest : Manifest
        Everything but `entries` and the devices' `library` and `device_code`, which are filled in
        here.
    libraries
        Kernel library of each device that has work, by the device's name.
    params
        Weights by name.
    device_code
        Code of each GPU that has work, by the device's name.
    sources
        Weights from which others are prepared, by name.

    Raises
    ------
    ArtifactError
        If programs or buffers break a rule that the runtime would refuse.
    """
    chunks: dict[str, Chunks] = {}
    library_of = _name_contents(libraries, "so", chunks)
    code_of = _name_contents(device_code, "cubin", chunks)
    for entry, arrays in ((PARAMS, params), (SOURCES, sources)):
        if arrays:
            chunks[entry] = safetensors(arrays)
    manifest = replace(
        manifest,
        devices=tuple(
            replace(
                device, library=library_of.get(device.name), device_code=code_of.get(device.name)
            )
            for device in manifest.devices
        ),
        entries={name: sha256_of(data) for name, data in chunks.items()},
    )
    check_manifest(manifest, _types(params), _types(sources))
    contents = {name: content_of(data) for name, data in chunks.items()}
    return Build(manifest, contents, params, sources)


def _types(arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, array.dtype.name) for name, array in arrays.items()}


def _name_contents(
    files: Mapping[str, bytes], suffix: str, contents: dict[str, Chunks]
) -> dict[str, str]:
    """Add each file to `contents` once; return the name of each device's entry."""
    named: dict[bytes, str] = {}
    for content in files.values():
        named.setdefault(content, f"kernels{len(named)}.{suffix}")
    contents |= {name: [content] for content, name in named.items()}
    return {device: named[content] for device, content in files.items()}


def content_of(chunks: Chunks) -> Content:
    """Return the content of an entry from its bytes."""
    crc = 0
    for chunk in chunks:
        crc = zlib.crc32(chunk, crc)
    return Content(chunks, crc)


def _entry(name: str, content: Content, before: Sequence[Entry]) -> Entry:
    size = sum(map(len, content.chunks))
    entry = Entry(name, size, content.crc, before[-1].end if before else 0)
    if entry.end + 2**20 > MAX_ARCHIVE_BYTES:
        raise CompileError(
            f"the artifact would be larger than {MAX_ARCHIVE_BYTES >> 30} GiB, which its format "
            "cannot hold"
        )
    return entry


def safetensors(params: Mapping[str, np.ndarray[Any, Any]]) -> Chunks:
    """Return a safetensors file; tensors that keep what follows them aligned come first."""
    arrays = {name: np.ascontiguousarray(array) for name, array in params.items()}
    order = sorted(arrays, key=lambda name: arrays[name].nbytes % ALIGNMENT != 0)
    header: dict[str, object] = {}
    end = 0
    for name in order:
        array = arrays[name]
        start, end = end, end + array.nbytes
        tag = element_type(array.dtype.name).tag
        header[name] = {
            "dtype": tag,
            "shape": list(params[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    data = [arrays[name].reshape(-1).view(np.uint8).data for name in order]
    return [len(text).to_bytes(8, "little") + text, *data]


def sha256_of(chunks: Chunks) -> str:
    """Return the SHA-256 of an entry (hex)."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
