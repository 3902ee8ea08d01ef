"""The library of the checks in C++ (`runtime/checks/`), which `check_manifest` calls.

The wheel of the runtime alone has it. A checkout and the wheel of the compiler have its sources: it
is compiled when it is needed for the first time, and kept in the user's cache.
"""

import ctypes
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from hios_tvm.errors import ArtifactError, CompileError
from hios_tvm.files import temporary_folder
from hios_tvm.runtime.native import private_file
from hios_tvm.runtime.tvm_library import BUNDLED

NAME = "libhios_checks.so"

_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "checks", _HERE / "c_api")  # of headers: the latter has the codes of errors
_FLAGS = ("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden")
_LINK_FLAGS = (
    *("-shared", "-s", "-Wl,--as-needed", "-Wl,--gc-sections"),
    "-Wl,--wrap=_ZSt28__throw_bad_array_new_lengthv",
)
_HALVES = 2  # who compiles is waited for, and each unit reads the same headers


@cache
def load_checks() -> ctypes.CDLL:
    """Return the library; it is loaded, and compiled where that is needed, once in a process.

    Raises
    ------
    CompileError
        If it has to be compiled, and there is no C++ compiler, or that fails.
    ArtifactError
        If it cannot be loaded.
    """
    bundled = BUNDLED / NAME
    try:
        if bundled.is_file():
            library = ctypes.CDLL(str(bundled))
        else:
            with private_file(kept_checks()) as path:
                library = ctypes.CDLL(path)
    except OSError as error:  # there is no memory, or a limit of the process is reached
        raise ArtifactError(f"the checks of artifacts cannot be loaded: {error}") from error
    library.hios_check_error.restype = ctypes.c_char_p
    text = (ctypes.c_char_p, ctypes.c_size_t)
    library.hios_check_manifest.argtypes = (*text, *text)
    library.hios_check_shapes.argtypes = (
        *(ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(ctypes.c_size_t), ctypes.c_size_t),
    )
    return library


def kept_checks() -> bytes:
    """Return the library that the cache has of these sources, or compile it with ``CXX``, or g++.

    Raises
    ------
    CompileError
        As `load_checks`.
    """
    from hios_tvm.compiled_code import default_cache_dir, kept_code

    key = hashlib.sha256(repr((_compiler(), _FLAGS, _LINK_FLAGS, os.uname().machine)).encode())
    headers = sorted((_HERE / "checks").glob("*.h"))
    for path in (*_sources(), *headers, _HERE / "c_api" / "hios_runtime.h"):
        key.update(path.read_bytes())
    try:
        return kept_code(default_cache_dir() / "checks", f"{key.hexdigest()}.so", _compile)
    except CompileError as error:
        raise CompileError(
            f"the checks of artifacts have to be compiled once: {error}; the package "
            "hios-tvm-runtime has them compiled"
        ) from error


def _compile() -> bytes:
    """Compile two halves of the sources at once, each of which have most in common."""
    from hios_tvm.compiled_code import run_compiler

    with temporary_folder() as folder, ThreadPoolExecutor(_HALVES) as pool:

        def compiled(number: int) -> Path:
            source = folder / f"checks{number}.cc"
            paths = _sources()[number::_HALVES]
            source.write_text("".join(f'#include "{path}"\n' for path in paths))
            includes = [f"-I{folder}" for folder in _FOLDERS]
            code = source.with_suffix(".o")
            run_compiler([_compiler(), *_FLAGS, *includes, "-c", source, "-o", code], folder)
            return code

        codes, result = list(pool.map(compiled, range(_HALVES))), folder / NAME
        run_compiler([_compiler(), *_LINK_FLAGS, *codes, "-o", result], folder)
        return result.read_bytes()


def _sources() -> list[Path]:
    return [*sorted((_HERE / "checks").glob("*.cc")), _HERE / "checks.cc"]


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"
