"""Aligned memory, and the tensors that kernels see in it."""

import ctypes
import math
import mmap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from hios_tvm.runtime.abi import DLTensor
from hios_tvm.schema.dtypes import element_type, numpy_dtype, tensor_bytes
from hios_tvm.schema.manifest import ALIGNMENT

_CPU = 1  # kDLCPU


def align_up(nbytes: int) -> int:
    """Round `nbytes` up to the alignment of buffers.

    >>> align_up(0), align_up(1), align_up(64)
    (0, 64, 64)
    """
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def aligned_empty(shape: Sequence[int], dtype: str) -> np.ndarray[Any, Any]:
    """Return an uninitialised array that kernels can use without a copy.

    >>> aligned_empty((2, 3), "float32").ctypes.data % 64
    0
    """
    return AlignedEmpty(shape, dtype)()[0]


class AlignedEmpty:
    """Makes arrays as `aligned_empty` does, many of one shape and type."""

    def __init__(self, shape: Sequence[int], dtype: str) -> None:
        self._shape = tuple(shape)
        self._dtype = numpy_dtype(dtype)
        self._nbytes = tensor_bytes(shape, dtype) + ALIGNMENT

    def __call__(self) -> tuple[np.ndarray[Any, Any], int]:
        """Return a new array, and its address."""
        memory = np.empty(self._nbytes, _BYTES)
        address = address_of(memory)
        offset = -address % ALIGNMENT
        return np.ndarray(self._shape, self._dtype, memory, offset), address + offset


def address_of(array: np.ndarray[Any, Any]) -> int:
    """Return the address of the first element."""
    try:  # three times as fast as the other way
        return ctypes.addressof(_NOTHING.from_buffer(cast(Any, array)))
    except (BufferError, TypeError, ValueError):  # read-only, not contiguous, or of bfloat16
        # Not __array_interface__, with which NumPy ends the process where memory ends
        return array.ctypes.data or 0


_BYTES = np.dtype(np.uint8)
_NOTHING = ctypes.c_char * 0


class Arena:
    """Zeroed memory in pages of its own, in huge ones where the system has them."""

    def __init__(self, nbytes: int) -> None:
        self._memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if nbytes >= 1 << 21 and hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.bytes = np.frombuffer(self._memory, np.uint8)
        self.address = address_of(self.bytes)


class TensorTable:
    """One DLTensor for each name; kernels' arguments point to them.

    The address of a tensor may change between runs, everything else is fixed.
    """

    def __init__(self, tensors: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        self._index = {name: i for i, name in enumerate(tensors)}
        self._tensors = (DLTensor * max(1, len(tensors)))()
        self._base = ctypes.addressof(self._tensors)
        self._numbers = []  # keeps shapes and strides alive
        self._nbytes = {}
        for (name, (shape, dtype)), tensor in zip(tensors.items(), self._tensors, strict=False):
            element = element_type(dtype)
            strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
            numbers = (ctypes.c_int64 * (2 * len(shape)))(*shape, *strides)
            self._numbers.append(numbers)
            tensor.device_type, tensor.ndim = _CPU, len(shape)
            tensor.code, tensor.bits, tensor.lanes = element.code, element.bits, 1
            tensor.shape = ctypes.addressof(numbers)
            tensor.strides = ctypes.addressof(numbers) + 8 * len(shape)
            self._nbytes[name] = tensor_bytes(shape, dtype)

    def pointer(self, name: str) -> int:
        """Return the address of the DLTensor called `name`."""
        return self._base + self._index[name] * ctypes.sizeof(DLTensor)

    def data_pointer(self, name: str) -> int:
        """Return the address of the `data` field of tensor `name`."""
        return self.pointer(name) + DLTensor.data.offset

    def address(self, name: str) -> ctypes.c_uint64:
        """Return the address of tensor `name`, as a number that may be changed."""
        return ctypes.c_uint64.from_address(self.data_pointer(name))

    def nbytes(self, name: str) -> int:
        """Return the bytes of tensor `name`."""
        return self._nbytes[name]

    def place(self, name: str, address: int) -> None:
        """Set the address of tensor `name`."""
        self._tensors[self._index[name]].data = address
