"""Element types of tensors: their size, and their names in DLPack, NumPy and safetensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hios_tvm.errors import ArtifactError


@dataclass(frozen=True)
class ElementType:
    """An element type; `code` is DLPack's type code, `tag` the name in safetensors files."""

    name: str
    code: int
    nbytes: int
    tag: str

    @property
    def bits(self) -> int:
        return 8 * self.nbytes


_INT, _UINT, _FLOAT, _BFLOAT, _BOOL, _FLOAT8_E8M0 = 0, 1, 2, 4, 6, 14

DTYPES = {
    dtype.name: dtype
    for dtype in (
        ElementType("bool", _BOOL, 1, "BOOL"),
        ElementType("int8", _INT, 1, "I8"),
        ElementType("int16", _INT, 2, "I16"),
        ElementType("int32", _INT, 4, "I32"),
        ElementType("int64", _INT, 8, "I64"),
        ElementType("uint8", _UINT, 1, "U8"),
        ElementType("uint16", _UINT, 2, "U16"),
        ElementType("uint32", _UINT, 4, "U32"),
        ElementType("uint64", _UINT, 8, "U64"),
        ElementType("float16", _FLOAT, 2, "F16"),
        ElementType("float32", _FLOAT, 4, "F32"),
        ElementType("float64", _FLOAT, 8, "F64"),
        ElementType("bfloat16", _BFLOAT, 2, "BF16"),
        ElementType("float8_e8m0fnu", _FLOAT8_E8M0, 1, "F8_E8M0"),
    )
}


def element_type(name: str) -> ElementType:
    """Return the element type called `name`; an unknown one is an `ArtifactError`.

    >>> element_type("float16").nbytes
    2
    """
    if name not in DTYPES:
        raise ArtifactError(f"dtype {name!r} is unknown; known are {', '.join(DTYPES)}")
    return DTYPES[name]


MAX_RANK = 32
"""Dimensions of a tensor: NumPy 1 has no more."""

MAX_BYTES = 2**53
"""Of a tensor: what JSON holds exactly, and more than any memory."""


def tensor_bytes(shape: Sequence[int], dtype: str) -> int:
    """Return the bytes of a tensor; one that no machine holds is an `ArtifactError`.

    >>> tensor_bytes((2, 3), "float32")
    24
    """
    nbytes = element_type(dtype).nbytes
    if len(shape) > MAX_RANK:
        raise ArtifactError(f"a tensor has {len(shape)} dimensions, more than {MAX_RANK}")
    nbytes *= math.prod(shape)
    if nbytes > MAX_BYTES:
        raise ArtifactError(f"a tensor has the shape {list(shape)}, which no memory holds")
    return nbytes


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype for `name`; bfloat16 and float8 need the package ml_dtypes."""
    if name in ("bfloat16", "float8_e8m0fnu"):
        import ml_dtypes  # noqa: F401  (registers the name with NumPy)
    return np.dtype(element_type(name).name)
