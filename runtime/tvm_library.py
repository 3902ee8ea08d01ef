"""TVM's runtime libraries, which kernels call, without TVM's Python package.

Importing that package takes most of the time and memory of loading a small artifact.
"""

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import tvm_ffi  # noqa: F401  (loads libtvm_ffi.so, which the libraries need)

from hios_tvm.errors import ArtifactError

LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
"""Temporary memory of kernels, and sorting."""

BUNDLED = Path(__file__).parent / "lib"
"""Where the wheel of the runtime alone has them, with the file VERSION."""


@cache
def load_tvm_libraries() -> None:
    """Load what kernels call; once in a process.

    Raises
    ------
    ArtifactError
        If a library is missing or cannot be loaded.
    """
    folder = _folder()
    for name in LIBRARIES:
        try:
            ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ArtifactError(f"a library of TVM's runtime cannot be loaded: {error}") from error


def tvm_version() -> str:
    """Return the version of TVM that the libraries are from."""
    folder = _folder()
    if folder == BUNDLED:
        return (folder / "VERSION").read_text().strip()
    return metadata.version("apache-tvm")


@cache
def _folder() -> Path:
    """Return the folder of the libraries: TVM's own where it is installed, so that all of a process
    use the same.
    """
    for folder in _candidates():
        if (folder / LIBRARIES[0]).is_file():
            return folder
    raise ArtifactError(
        "TVM's runtime library is missing: pip install hios-tvm-runtime, or apache-tvm"
    )


def _candidates() -> Iterator[Path]:
    if override := os.environ.get("TVM_LIBRARY_PATH"):  # TVM reads it too
        yield Path(override)
    spec = find_spec("tvm")
    for location in (spec and spec.submodule_search_locations) or ():
        yield Path(location) / "lib"
    yield BUNDLED
