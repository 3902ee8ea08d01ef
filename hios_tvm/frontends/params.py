"""Parameter files: weights by name, in the formats in which frameworks save them.

Three formats are told apart by their first bytes: those of `relay.save_param_dict` and
`tvm.runtime.save_param_dict`, NumPy's ``.npz``, and safetensors. None of them runs code when it
is read: pickled objects inside an ``.npz`` are refused.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from hios_tvm.errors import ModelError, UsageError
from hios_tvm.runtime.numpy_files import read_numpy
from hios_tvm.schema.dtypes import DTYPES, numpy_dtype

PARAM_DICT_MAGIC = 0xF7E58D4F05049CB7
TENSOR_MAGIC = 0xDD5E40F096B4A13F
MAX_DIMENSIONS = 32

_DTYPES = [dtype for dtype in DTYPES.values() if not dtype.name.startswith("float8")]
# By DLPack's type code and the bits of an element; TVM also writes bools as uint1.
_DLPACK_DTYPES = {(dtype.code, dtype.bits): dtype.name for dtype in _DTYPES} | {(1, 1): "bool"}
_SAFETENSORS_DTYPES = {dtype.tag: dtype.name for dtype in _DTYPES}

_deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize


def load_params(path: str | Path) -> dict[str, np.ndarray]:
    """Read a parameter file of any of the three formats.

    Raises
    ------
    ModelError
        If the file is missing, damaged or of another format.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        if content[:8] == struct.pack("<Q", PARAM_DICT_MAGIC):
            return read_tvm_params(content)
        if content[:2] == b"PK":
            return _read_npz(content)
        return _read_safetensors(content)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def read_tvm_params(content: bytes) -> dict[str, np.ndarray]:
    """Read what `save_param_dict` returned.

    Raises
    ------
    ModelError
        If the bytes end too early, or hold something else.
    """
    magic, _reserved, count = _unpack("<QQQ", content, 0)
    if magic != PARAM_DICT_MAGIC:
        raise ModelError("this is not a parameter file of TVM")
    offset = 24
    names = []
    for _ in range(count):
        (length,) = _unpack("<Q", content, offset)
        try:
            names.append(_slice(content, offset + 8, length).decode())
        except UnicodeDecodeError as error:
            raise ModelError("a parameter's name is not UTF-8") from error
        offset += 8 + length
    (tensors,) = _unpack("<Q", content, offset)
    if tensors != count or len(set(names)) != count:
        raise ModelError(f"{len(set(names))} different names for {tensors} parameters")
    offset += 8
    params = {}
    for name in names:
        params[name], offset = read_tensor(content, offset)
    return params


def read_tensor(content: bytes, offset: int = 0) -> tuple[np.ndarray, int]:
    """Read one tensor in TVM's binary form; return it and the offset behind it.

    Raises
    ------
    ModelError
        If the bytes end too early, or hold something else.
    """
    magic, _reserved, _device, _index, ndim, code, bits, lanes = _unpack(
        "<QQiiiBBH", content, offset
    )
    if magic != TENSOR_MAGIC:
        raise ModelError("this is not a tensor of TVM")
    dtype = _DLPACK_DTYPES.get((code, bits))
    if dtype is None or lanes != 1:
        raise ModelError(f"element type (code {code}, {bits} bits, {lanes} lanes) is unknown")
    if not 0 <= ndim <= MAX_DIMENSIONS:
        raise ModelError(f"a tensor cannot have {ndim} dimensions")
    offset += struct.calcsize("<QQiiiBBH")
    *shape, size = _unpack(f"<{ndim + 1}q", content, offset)
    offset += 8 * (ndim + 1)
    return _array(_slice(content, offset, size), dtype, shape), offset + size


def _read_npz(content: bytes) -> dict[str, np.ndarray]:
    try:
        params = read_numpy(io.BytesIO(content))
    except UsageError as error:
        raise ModelError(str(error)) from error
    assert isinstance(params, dict)  # as the file is an archive
    for name, array in params.items():
        if array.dtype.kind not in "biuf":
            raise ModelError(f"{name} in this .npz file is not an array of numbers")
    return {name: array.astype(array.dtype.newbyteorder("=")) for name, array in params.items()}


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    try:
        entries = _deserialize(content)
    except safetensors.SafetensorError as error:
        raise ModelError(
            "parameters are read from files of save_param_dict, .npz and safetensors; this is "
            f"none of them, or it is damaged ({error})"
        ) from error
    params = {}
    for name, entry in entries:
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ModelError(f"{name} has the element type {entry['dtype']}, which is unknown")
        params[name] = _array(bytes(entry["data"]), dtype, entry["shape"])
    return params


def _unpack(layout: str, content: bytes, offset: int) -> tuple[int, ...]:
    return struct.unpack(layout, _slice(content, offset, struct.calcsize(layout)))


def _slice(content: bytes, offset: int, size: int) -> bytes:
    if size < 0 or offset + size > len(content):
        raise ModelError(f"{size} bytes at {offset} lie outside of the file's {len(content)}")
    return content[offset : offset + size]


def _array(data: bytes, name: str, shape: list[int] | tuple[int, ...]) -> np.ndarray:
    dtype, count = numpy_dtype(name), 1
    for dimension in shape:
        if dimension < 0:
            raise ModelError(f"{list(shape)} is not a shape")
        count *= dimension
    if count * dtype.itemsize != len(data):
        raise ModelError(f"{len(data)} bytes are not {list(shape)} elements of {dtype}")
    try:
        return np.frombuffer(data, dtype).reshape(shape).copy()
    except ValueError as error:  # empty, with other dimensions that are too large
        raise ModelError(f"{list(shape)} is not a shape") from error
