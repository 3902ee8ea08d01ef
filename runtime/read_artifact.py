"""Reading and checking artifacts (.hios files); `artifact_format` describes the bytes.

An artifact is checked whole before anything of it is used: the archive, its signature where a key
is given, the SHA-256 of every entry, that its code fits this machine, and the manifest.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hios_tvm.errors import ArtifactError, MemoryLimitError
from hios_tvm.runtime.artifact_format import (
    END_BYTES,
    MANIFEST,
    MAX_ARCHIVE_BYTES,
    MAX_ENTRIES,
    PARAMS,
    SOURCES,
    Entry,
    central_directory,
    local_header,
    parse_directory,
    parse_end,
)
from hios_tvm.runtime.check_manifest import check_texts
from hios_tvm.runtime.devices.cpu.cores import available_features
from hios_tvm.runtime.memory_limit import check_memory
from hios_tvm.runtime.sealed_memory import SealedMemory
from hios_tvm.runtime.signature import (
    SIGNATURE,
    SIGNATURE_BYTES,
    check_signature,
    read_public_key,
    required_key,
)
from hios_tvm.runtime.tvm_library import tvm_version
from hios_tvm.runtime.weights import Weights, known_weights, sealed_weights
from hios_tvm.schema.manifest import REBUILD_COMMAND, Manifest, rebuild_command

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_MANIFEST_BYTES = 256 * 2**20
_PARSED = 40  # bytes of objects for a byte of JSON: measured with lists and numbers
_TICK_NS = 2_000_000_000  # longer than between two times that a file system can tell apart
_CHUNK = 1 << 20  # bytes that are hashed at once


@dataclass(frozen=True)
class Artifact:
    """A verified artifact: its manifest, its weights, and the bytes of its libraries by entry.

    The code of GPUs is among the libraries. From `sources` weights are prepared. `others` are the
    same model's other shapes, which share all of it but the manifest.
    """

    manifest: Manifest
    libraries: Mapping[str, bytes]
    weights: Weights | None
    sources: Weights | None
    others: tuple[Artifact, ...] = ()


def read_manifest(
    path: str | os.PathLike[str], *, verify_key: str | os.PathLike[str] | None = None
) -> Manifest:
    """Read the manifest of an artifact without its code and weights.

    With `verify_key`, as in `open_artifact`, all entries are checked nevertheless.

    Raises
    ------
    ArtifactError
        If the file is no artifact of a format that this runtime reads, or is not the key's.
    """
    required = required_key(verify_key)
    key = None if required is None else read_public_key(required)
    with _Reader(Path(path)) as reader:
        manifest = reader.manifest(key)
        if key is not None:
            reader.check_entries(manifest)
        return manifest


def read_manifests(
    path: str | os.PathLike[str], *, verify_key: str | os.PathLike[str] | None = None
) -> tuple[Manifest, ...]:
    """Read the manifests of all shapes of an artifact, the largest shape first.

    Parameters and errors are those of `read_manifest`.
    """
    first = read_manifest(path, verify_key=verify_key)
    with _Reader(Path(path)) as reader:
        return (first, *reader.others(first))


def read_undamaged(path: str | os.PathLike[str]) -> tuple[bytes, tuple[Entry, ...]]:
    """Return the bytes of the manifest, and all entries in order but the signature.

    Raises
    ------
    ArtifactError
        If the file is no artifact, or the SHA-256 of an entry is not that of the manifest.
    """
    with _Reader(Path(path)) as reader:
        reader.check_entries(reader.manifest())
        entries = [entry for name, entry in reader.entries.items() if name != SIGNATURE]
        return reader.manifest_text(), tuple(entries)


def open_artifact(
    path: str | os.PathLike[str], *, verify_key: str | os.PathLike[str] | None = None
) -> Artifact:
    """Read an artifact and verify it whole; nothing of it has run when this returns.

    Parameters
    ----------
    path
        The file.
    verify_key : path, optional
        File of an Ed25519 public key (PEM) whose owner must have signed the artifact: checked
        before anything else of the file is used. By default what the environment variable
        ``HIOS_REQUIRE_SIGNATURE`` names.

    Raises
    ------
    ArtifactError
        If the file is damaged, was made for another TVM or CPU, or is not the key's.
    UsageError
        If `verify_key` is no such key.
    """
    required = required_key(verify_key)
    key = None if required is None else read_public_key(required)
    with _Reader(Path(path)) as reader:
        manifest = reader.manifest(key)
        expected = reader.expected_entries(manifest)
        manifests = [manifest, *reader.others(manifest)]
        for each in manifests:
            _check_machine(reader, each)
        libraries = {
            name: reader.content(name, manifest)
            for each in manifests
            for device in each.devices
            for name in (device.library, device.device_code)
            if name is not None
        }
        others = () if manifest.shapes is None else manifest.shapes.others
        if expected - {MANIFEST, PARAMS, SOURCES, *others} != libraries.keys():
            raise reader.error("it has an entry that no device uses")
        weights = reader.weights(PARAMS, manifest)
        sources = reader.weights(SOURCES, manifest)
        check_memory(_PARSED * sum(map(len, reader.texts)), f"the checks of {path}")
        try:
            check_texts(reader.texts, manifests, _types(weights), _types(sources))
        except ArtifactError as error:
            raise reader.error(str(error)) from error
        artifacts = [Artifact(each, libraries, weights, sources) for each in manifests]
        return replace(artifacts[0], others=tuple(artifacts[1:]))


class _Reader:
    """An open archive whose directory has been checked; `texts` are the manifests read so far."""

    def __init__(self, path: Path) -> None:
        self.texts: list[bytes] = []
        self._path = path
        self._command = REBUILD_COMMAND
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror}") from error
        try:
            self.entries = self._read_directory()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def error(self, problem: str) -> ArtifactError:
        """Return an error that says what is wrong and what to do."""
        return ArtifactError(f"{self._path}: {problem}; make it again with {self._command!r}")

    def manifest(self, key: Ed25519PublicKey | None = None) -> Manifest:
        """Read and check ``manifest.json``, after its signature where `key` is given."""
        text = self.manifest_text()
        signature = self._signature()
        if key is not None:
            try:
                check_signature(text, signature, key)
            except ArtifactError as error:
                raise ArtifactError(f"{self._path}: {error}") from error
        try:
            manifest = Manifest.from_json(text)
        except ArtifactError as error:
            self._command = rebuild_command(text)
            raise self.error(str(error)) from error
        self._command = manifest.rebuild_command
        self.texts.append(text)
        return manifest

    def others(self, manifest: Manifest) -> list[Manifest]:
        """Read and check the manifests of the model's other shapes."""
        names = () if manifest.shapes is None else manifest.shapes.others
        nbytes = sum(self._known(name, manifest).nbytes for name in names)
        if nbytes > MAX_MANIFEST_BYTES:
            raise self.error(f"its manifests have {nbytes} bytes")
        check_memory(_PARSED * nbytes, f"the manifests of {self._path}")
        texts = [self.content(name, manifest) for name in names]
        self.texts += texts
        try:
            return [Manifest.from_json(text) for text in texts]
        except ArtifactError as error:
            raise self.error(str(error)) from error

    def manifest_text(self) -> bytes:
        """Read ``manifest.json``."""
        entry = self.entries[MANIFEST]
        if entry.nbytes > MAX_MANIFEST_BYTES:
            raise self.error(f"its manifest has {entry.nbytes} bytes")
        check_memory(_PARSED * entry.nbytes, f"the manifest of {self._path}")
        text = self._read(entry.data_offset, entry.nbytes)
        if zlib.crc32(text) != entry.crc:
            raise self.error("its manifest is damaged (checksum)")
        return text

    def expected_entries(self, manifest: Manifest) -> set[str]:
        """Return the entries but the signature, which must be those that the manifest names."""
        expected = {MANIFEST, *manifest.entries}
        if expected != self.entries.keys() - {SIGNATURE} or SIGNATURE in expected:
            raise self.error("its entries are not those that its manifest names")
        return expected

    def check_entries(self, manifest: Manifest) -> None:
        """Check that the SHA-256 of each entry is that of the manifest."""
        for name in self.expected_entries(manifest) - {MANIFEST}:
            self._check_hash(name, manifest)

    def content(self, name: str, manifest: Manifest) -> bytes:
        """Read an entry whole; its SHA-256 must be that of the manifest."""
        entry = self._known(name, manifest)
        content = self._read(entry.data_offset, entry.nbytes)
        if hashlib.sha256(content).hexdigest() != manifest.entries[name]:
            raise self.error(f"its entry {name!r} is damaged (SHA-256)")
        return content

    def weights(self, name: str, manifest: Manifest) -> Weights | None:
        """Copy the weights of an entry to sealed memory, and check the SHA-256 of the copy.

        Other sessions of this process share it. What the file holds is only checked then, unless
        it is still the file that the copy was made of.
        """
        if name not in manifest.entries:
            return None
        digest = manifest.entries[name]
        known = known_weights(digest)
        if known is not None:
            if known.file is None or known.file != self._identity():
                self._check_hash(name, manifest)
            return known
        nbytes = self._known(name, manifest).nbytes
        if nbytes == 0:
            raise self.error("its weights have no header")
        check_memory(nbytes, f"the weights of {self._path}")
        try:
            with SealedMemory("hios-weights") as memory:
                identity = self._identity()  # as it is before it is read
                self._check_hash(name, manifest, memory.write)
                memory.seal()
                return self._sealed(memory, name, digest, identity)
        except OSError as error:
            raise MemoryLimitError(f"{self._path}: no memory for its weights: {error}") from error

    def _identity(self) -> tuple[int, ...] | None:
        """Return what changes with every write to the file, and is another one for another file.

        None where the file was written just now: its next change might have the same time.
        """
        status = os.fstat(self._descriptor)
        if time.time_ns() - status.st_ctime_ns < _TICK_NS:
            return None
        times = status.st_mtime_ns, status.st_ctime_ns
        return (status.st_dev, status.st_ino, status.st_size, *times)

    def _sealed(
        self, memory: SealedMemory, name: str, digest: str, identity: tuple[int, ...] | None
    ) -> Weights:
        try:
            return sealed_weights(memory, digest, identity)
        except ArtifactError as error:
            raise self.error(f"{name}: {error}") from error

    def _check_hash(
        self, name: str, manifest: Manifest, use: Callable[[bytes], None] = lambda _: None
    ) -> None:
        """Read an entry piece by piece for its SHA-256, and hand each piece on."""
        entry = self._known(name, manifest)
        digest = hashlib.sha256()
        for start in range(entry.data_offset, entry.end, _CHUNK):
            piece = self._read(start, min(_CHUNK, entry.end - start))
            digest.update(piece)
            use(piece)
        if digest.hexdigest() != manifest.entries[name]:
            raise self.error(f"its entry {name!r} is damaged (SHA-256)")

    def _signature(self) -> bytes | None:
        entry = self.entries.get(SIGNATURE)
        if entry is None:
            return None
        if entry.nbytes != SIGNATURE_BYTES or entry is not list(self.entries.values())[-1]:
            raise self.error("its signature has a wrong size or place")
        signature = self._read(entry.data_offset, entry.nbytes)
        if zlib.crc32(signature) != entry.crc:
            raise self.error("its signature is damaged (checksum)")
        return signature

    def _known(self, name: str, manifest: Manifest) -> Entry:
        if name not in self.entries or name not in manifest.entries:
            raise self.error(f"it has no entry {name!r}")
        return self.entries[name]

    def _read_directory(self) -> dict[str, Entry]:
        """Read the entries; the file must be what the writer makes of them, byte for byte."""
        size = os.fstat(self._descriptor).st_size
        if not END_BYTES <= size <= MAX_ARCHIVE_BYTES:
            raise self.error(f"a file of {size} bytes is no artifact")
        end = parse_end(self._read(size - END_BYTES, END_BYTES))
        if end.start + end.nbytes + END_BYTES != size or not 0 < end.entries <= MAX_ENTRIES:
            raise self.error("it is no artifact, or was cut off (no directory at its end)")
        directory = self._read(end.start, end.nbytes + END_BYTES)
        try:
            entries = parse_directory(directory, end.entries)
        except ArtifactError as error:
            raise self.error(str(error)) from error
        position = 0
        for entry in entries:
            header = local_header(entry)
            if entry.offset != position or self._read(position, len(header)) != header:
                raise self.error(f"the header of its entry {entry.name!r} is damaged")
            position = entry.end
        if position != end.start or central_directory(entries) != directory:
            raise self.error("its directory is damaged")
        return {entry.name: entry for entry in entries}

    def _read(self, start: int, nbytes: int) -> bytes:
        try:
            content = os.pread(self._descriptor, nbytes, start)
            while len(content) < nbytes:
                more = os.pread(self._descriptor, nbytes - len(content), start + len(content))
                if not more:
                    raise self.error("it ends too early")
                content += more
        except OSError as error:
            raise ArtifactError(f"{self._path}: {error.strerror}") from error
        return content


def _types(weights: Weights | None) -> dict[str, tuple[tuple[int, ...], str]]:
    tensors = {} if weights is None else weights.tensors
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _check_machine(reader: _Reader, manifest: Manifest) -> None:
    if manifest.tvm_version != tvm_version():
        raise reader.error(
            f"it was compiled with TVM {manifest.tvm_version}, this is TVM {tvm_version()}"
        )
    features = available_features()
    for device in manifest.devices:
        missing = [] if features is None else sorted(set(device.cpu_features) - features)
        if missing:
            raise reader.error(
                f"its code for {device.name} ({device.target}) needs the CPU features "
                f"{', '.join(missing)}, which this machine lacks"
            )
