"""Tensors of the Open Inference Protocol: names of types, and arrays from what requests hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

import numpy as np

from hios_tvm.errors import InputError, UsageError
from hios_tvm.runtime.arguments import Array
from hios_tvm.schema.dtypes import MAX_RANK, numpy_dtype
from hios_tvm.schema.manifest import TensorSpec

_DATATYPES = {
    "bool": "BOOL",
    **{name: name.upper() for bits in (8, 16, 32, 64) for name in (f"int{bits}", f"uint{bits}")},
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}
MAX_TENSORS = 1024  # in one request
_DIGITS = 32  # of a number in JSON, with what separates it from the next one
_HEADER_BYTES = 1 << 16  # names, shapes and parameters
_NUMBERS = {bool, int, float}
_MAX_ELEMENTS = 1 << 48  # whose bytes NumPy can still count
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}


def datatype_of(array: Array) -> str:
    """Return the protocol's name of an array's type."""
    return _DATATYPES[str(array.dtype)]


def metadata_of(alternatives: Sequence[Sequence[TensorSpec]]) -> list[dict[str, Any]]:
    """Return tensors as the protocol lists them; -1 is an extent in which `alternatives` differ.

    Raises
    ------
    UsageError
        If one is of a type that the protocol cannot carry, or there are too many.
    """
    tensors = []
    if len(alternatives[0]) > MAX_TENSORS:
        raise UsageError(f"{len(alternatives[0])} tensors: a request has {MAX_TENSORS} at most")
    for specs in zip(*alternatives, strict=True):
        spec = specs[0]
        if spec.dtype not in _DATATYPES:
            raise UsageError(f"{spec.name!r} is of {spec.dtype}, which the protocol cannot carry")
        extents = zip(*(other.shape for other in specs), strict=True)
        shape = [found[0] if len(set(found)) == 1 else -1 for found in extents]
        tensors.append({"name": spec.name, "datatype": _DATATYPES[spec.dtype], "shape": shape})
    return tensors


def check_wanted(wanted: Sequence[str], known: Collection[str]) -> None:
    """Raise `InputError` if an output is unknown, or is asked for twice.

    A short request could ask for one output so often that the answer takes all memory.
    """
    for name, times in Counter(wanted).items():
        if name not in known:
            raise InputError(f"there is no output {name!r}; the model has {', '.join(known)}")
        if times > 1:
            raise InputError(f"output {name!r} is asked for {times} times")


def request_bytes(specs: Sequence[TensorSpec]) -> int:
    """Return the bytes that no sensible request for these inputs exceeds, as JSON or as bytes."""
    numbers = sum(max(spec.nbytes, _DIGITS * math.prod(spec.shape)) for spec in specs)
    return _HEADER_BYTES + numbers


def array_of_bytes(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """Return the tensor whose elements are `data`, a buffer, which is not copied.

    Raises
    ------
    InputError
        If the type is unknown or the buffer has another size.
    """
    dtype = _dtype_of(name, datatype)
    nbytes = dtype.itemsize * _size(name, shape)
    if len(data) != nbytes:
        raise InputError(
            f"input {name!r} has {len(data)} bytes; {datatype} {list(shape)} has {nbytes}"
        )
    if nbytes == 0:
        return np.empty(shape, dtype)
    array = np.frombuffer(data, np.uint8)
    if datatype == "BOOL" and array.max() > 1:
        raise InputError(f"input {name!r}: BOOL is a byte of 0 or 1")
    return array.view(dtype).reshape(shape)


def array_of_numbers(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """Return the tensor whose elements are the numbers of `data`, nested or flat.

    Raises
    ------
    InputError
        If the type is unknown, the number of elements is another one, or one does not fit the type.
    """
    dtype = _dtype_of(name, datatype)
    size = _size(name, shape)
    numbers = _flat(name, data)
    if len(numbers) != size:
        raise InputError(f"input {name!r} has {len(numbers)} elements; {list(shape)} has {size}")
    if size == 0:
        return np.empty(shape, dtype)
    array = None
    if _NUMBERS.issuperset(map(type, numbers)):  # NumPy makes all strings as long as the longest
        found = np.array(numbers)
        with np.errstate(all="ignore"):
            array = found.astype(dtype) if found.dtype.kind in _sources(dtype) else None
    if array is None or not _holds(found, array):
        raise InputError(f"input {name!r}: data has values that are no {datatype}")
    return array.reshape(shape)


def _flat(name: str, data: Sequence[Any]) -> Sequence[Any]:
    """Return what nested lists hold; `InputError` unless all of one depth have equal lengths."""
    while list in (kinds := set(map(type, data))):
        if len(kinds) > 1 or len(set(map(len, data))) > 1:
            raise InputError(f"input {name!r}: data has rows of different lengths")
        data = list(chain.from_iterable(data))
    return data


def _sources(dtype: np.dtype[Any]) -> str:
    """Return the kinds of NumPy's types whose values may be given for `dtype`."""
    return "b" if dtype.kind == "b" else "iu" if dtype.kind in "iu" else "iuf"


def _holds(found: Array, array: Array) -> bool:
    """Whether `array` has the values of `found`; floats may be rounded, but not to infinity."""
    if array.dtype.kind in "biu":
        return bool((array == found).all())
    return bool((np.isfinite(array) | ~np.isfinite(found)).all())


def _dtype_of(name: str, datatype: str) -> np.dtype[Any]:
    if datatype not in _DTYPES:
        raise InputError(
            f"input {name!r} has the datatype {datatype!r}; known are {', '.join(_DTYPES)}"
        )
    return numpy_dtype(_DTYPES[datatype])


def _size(name: str, shape: Sequence[int]) -> int:
    """Return the elements of a tensor; extents beside an extent of 0 are limited, too."""
    if (
        len(shape) > MAX_RANK
        or any(extent < 0 for extent in shape)
        or math.prod(extent for extent in shape if extent) > _MAX_ELEMENTS
    ):
        raise InputError(f"input {name!r} has the shape {list(shape)}, which no tensor has")
    return math.prod(shape)
