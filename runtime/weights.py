"""Weights: the strict reader of safetensors files, and memory that sessions share."""

import struct
import threading
import weakref
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from hios_tvm.errors import ArtifactError
from hios_tvm.runtime.memory import address_of, aligned_empty
from hios_tvm.runtime.sealed_memory import SealedMemory
from hios_tvm.runtime.shared_memory import SharedMap
from hios_tvm.schema.dtypes import DTYPES, tensor_bytes
from hios_tvm.schema.manifest import ALIGNMENT
from hios_tvm.schema.strict_json import parse

MAX_HEADER_BYTES = 100_000_000
_TAGS = {dtype.tag: dtype for dtype in DTYPES.values()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file; `start` counts from the start of that file.

    Or one that was prepared, in memory without a header.
    """

    shape: tuple[int, ...]
    dtype: str
    start: int
    nbytes: int


def read_header(header: bytes, file_bytes: int) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file.

    Parameters
    ----------
    header : bytes
        The file's beginning: 8 bytes of length, then the JSON.
    file_bytes : int
        Size of the whole file.

    Raises
    ------
    ArtifactError
        Unless the tensors cover the rest of the file without holes and overlaps, each with as
        many bytes as its shape and dtype need.
    """
    if not header[8:].startswith(b"{"):
        raise ArtifactError("the header must begin with '{'")
    data = parse(header[8:])
    tensors = {name: _entry(name, value, len(header)) for name, value in data.items()}
    end = len(header)
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
        if tensor.start != end:
            raise ArtifactError(f"hole or overlap before tensor {name!r}")
        end += tensor.nbytes
    if end != file_bytes:
        raise ArtifactError(f"tensors end at byte {end} of {file_bytes}")
    return tensors


def header_length(start: bytes, file_bytes: int) -> int:
    """Return how many bytes the header has, its length field included."""
    if len(start) != 8:
        raise ArtifactError("no header")
    (length,) = struct.unpack("<Q", start)
    if length > min(MAX_HEADER_BYTES, file_bytes - 8):
        raise ArtifactError(f"a header of {length} bytes is too long")
    return 8 + int(length)


class Weights:
    """Weights of an artifact in memory.

    `file` tells the file that they were copied from, as it was then.
    """

    def __init__(
        self,
        memory: SharedMap,
        tensors: Mapping[str, StoredTensor],
        file: tuple[int, ...] | None = None,
    ) -> None:
        self.file = file
        self._memory = memory
        self._view = np.frombuffer(memory.content, np.uint8)
        base = address_of(self._view)
        self.tensors = dict(tensors)
        self._copies = []
        self._address = {}
        for name, tensor in self.tensors.items():
            address = base + tensor.start
            if address % ALIGNMENT:  # small ones, which the writer puts last
                copy = aligned_empty((tensor.nbytes,), "uint8")
                copy[:] = self._view[tensor.start : tensor.start + tensor.nbytes]
                self._copies.append(copy)
                address = address_of(copy)
            self._address[name] = address

    def address(self, name: str) -> int:
        """Return the address of weight `name`, aligned for kernels."""
        return self._address[name]

    def array(self, name: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """Return the bytes of weight `name`, read-only."""
        tensor = self.tensors[name]
        start = self._address[name]
        for copy in self._copies:
            if address_of(copy) == start:
                return copy
        first = start - address_of(self._view)
        return self._view[first : first + tensor.nbytes]


def known_weights(key: Hashable) -> Weights | None:
    """Return the weights with this key that a session of this process has."""
    with _LOCK:
        return _KNOWN.get(key)


def shared_weights(weights: Weights, key: Hashable) -> Weights:
    """Let sessions of this process share weights that are sealed, by what they were made of."""
    with _LOCK:
        return _KNOWN.setdefault(key, weights)


def sealed_weights(memory: SealedMemory, digest: str, file: tuple[int, ...] | None) -> Weights:
    """Read a safetensors file in memory whose SHA-256 is `digest`, and which is sealed.

    `file` tells the file that it was copied from.

    Sessions that ask for the same `digest` share it, in this process and in others.

    Raises
    ------
    ArtifactError
        As `read_header`.
    """
    shared = SharedMap(memory, digest)
    content = shared.content
    length = header_length(content[:8], len(content))
    weights = Weights(shared, read_header(content[:length], len(content)), file)
    return shared_weights(weights, digest)


def _entry(name: str, data: object, base: int) -> StoredTensor:
    """Read one value of the header's JSON, where `base` is where the data begins."""
    match data:
        case {"dtype": str(tag), "shape": list(shape), "data_offsets": [start, end], **rest}:
            sizes = [start, end, *shape]
            whole = all(type(size) is int and 0 <= size < 2**53 for size in sizes)
            if whole and tag in _TAGS and not rest:
                dtype = _TAGS[tag]
                if end - start == tensor_bytes(shape, dtype.name):
                    return StoredTensor(tuple(shape), dtype.name, base + start, end - start)
    raise ArtifactError(f"tensor {name!r} is described wrongly")


_KNOWN: weakref.WeakValueDictionary[Hashable, Weights] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()
