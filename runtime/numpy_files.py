"""Reading ``.npy`` and ``.npz`` files, which may be damaged or hostile."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

from hios_tvm.errors import HiosError, UsageError
from hios_tvm.runtime.memory_limit import check_memory

# What zipfile and NumPy raise for files that were truncated or written by hand.
_ERRORS = (
    *(EOFError, KeyError, MemoryError, NotImplementedError, OSError, RuntimeError, SyntaxError),
    *(TypeError, ValueError, OverflowError, zipfile.BadZipFile, zlib.error, TokenError),
)


@contextmanager
def numpy_errors(name: object) -> Iterator[None]:
    """Raise one `UsageError` for all that is raised in the block for a file that is damaged."""
    try:
        yield
    except HiosError:
        raise
    except _ERRORS as error:
        reason = str(error).split(". ")[0]  # NumPy goes on to praise pickles
        raise UsageError(f"cannot read {name} as .npy or .npz: {reason}") from error


def read_numpy(file: Path | BinaryIO) -> np.ndarray | dict[str, np.ndarray]:
    """Read the array of a ``.npy`` file, or the arrays of a ``.npz`` file by name.

    Pickled objects are refused, and so are archives that unpack to more than fits into memory.

    Raises
    ------
    UsageError
        If the file cannot be read, is damaged, or holds more than arrays.
    """
    name = file if isinstance(file, Path) else "the file"
    with numpy_errors(name):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                check_memory(
                    sum(entry.file_size for entry in archive.infolist()), f"{name}, unpacked,"
                )
        if not isinstance(file, Path):
            file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    for entry, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UsageError(f"cannot read {name} as .npz: {entry!r} in it is not an array")
    return arrays
