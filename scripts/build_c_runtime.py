"""Build the runtime for programs without Python: libhios_runtime.so and hios_runtime.h.

    python scripts/build_c_runtime.py -o build/c-runtime

The library needs the C library alone: what kernels call of TVM is in it. It runs artifacts of
CPUs that this version of hios-tvm compiles; docs/c-api.md has examples.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import tvm_ffi.libinfo

from hios_tvm.runtime.tvm_library import tvm_version

RUNTIME = Path(__file__).parents[1] / "runtime"
FOLDERS = (RUNTIME / "checks", RUNTIME / "c_api")
HEADER = RUNTIME / "c_api" / "hios_runtime.h"
LIBRARY = "libhios_runtime.so"

_WARNINGS = ("-Wall", "-Wextra", "-Werror")
_LINK = ("-shared", "-static-libstdc++", "-static-libgcc", "-Wl,--gc-sections", "-s")
_EXPORTS = "{ global: hios_*; TVMFFIErrorSetRaisedFromCStr*; local: *; };"
"""The functions of the header, and those of TVM that kernels call by their names."""


def build_c_runtime(folder: Path, flags: Sequence[str] = ("-O2",)) -> Path:
    """Write the library and its header into `folder`; return the path of the library.

    Raises
    ------
    CalledProcessError
        If the C++ compiler (``CXX``, or g++) refuses; it says why itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LIBRARY
    with TemporaryDirectory() as temporary:
        exports = Path(temporary, "exports")
        exports.write_text(_EXPORTS)
        link = [*_LINK, f"-Wl,--version-script={exports}", f"-Wl,-soname,{LIBRARY}"]
        compile_c_runtime([*flags, *link], path)
    shutil.copy(HEADER, folder)
    return path


def compile_c_runtime(flags: Sequence[str], result: Path) -> None:
    """Compile all sources of the runtime at once, with `flags`, into `result`.

    They have most headers in common, so that this takes half the time of one after another. Errors
    are those of `build_c_runtime`.
    """
    includes = [tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()]
    includes += map(str, FOLDERS)
    command = [
        *(os.environ.get("CXX") or "g++", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread"),
        *(f"-I{include}" for include in dict.fromkeys(includes)),
        f'-DHIOS_TVM_VERSION="{tvm_version()}"',
        *_WARNINGS,
    ]
    paths = [path for folder in FOLDERS for path in sorted(folder.glob("*.cc"))]
    sources = "".join(f'#include "{path}"\n' for path in paths)
    subprocess.run(
        [*command, "-x", "c++", "-", *flags, "-ldl", "-o", result],
        input=sources,
        text=True,
        check=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    default = Path("build") / "c-runtime"
    parser.add_argument("-o", "--output", type=Path, default=default, help="folder")
    path = build_c_runtime(parser.parse_args().output)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
