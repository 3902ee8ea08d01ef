"""Arrays between pages that nobody may access: a kernel that leaves its tensor ends the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

from hios_tvm.runtime.memory import address_of, align_up

_NOBODY = 0  # PROT_NONE
_PAGE = mmap.PAGESIZE


def fenced(array: np.ndarray[Any, Any], *, at_end: bool) -> np.ndarray[Any, Any]:
    """Return a copy that begins right behind such a page, or ends less than 64 bytes before one.

    It is contiguous and aligned, so that kernels use it in place.
    """
    nbytes = align_up(array.nbytes)
    inner = -(-max(nbytes, 1) // _PAGE) * _PAGE
    memory = mmap.mmap(-1, inner + 2 * _PAGE)
    start = address_of(np.frombuffer(memory, np.uint8))
    for fence in (start, start + _PAGE + inner):
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(fence), _PAGE, _NOBODY):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = _PAGE + (inner - nbytes if at_end else 0)
    copy = np.ndarray(array.shape, array.dtype, memory, offset)
    copy[...] = array
    return copy
