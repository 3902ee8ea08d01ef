"""The stress program of the executor (stress.cc), built with sanitizers of g++."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import tvm_ffi.libinfo

from hios_tvm import runtime

SANITIZERS = {
    "thread": ["-fsanitize=thread"],
    "address-undefined": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
"""Flags of g++ by the name of the sanitizer."""

_SOURCES = Path(runtime.__file__).parent
_LATE_S = 60


def has_sanitizer(name: str, folder: Path) -> bool:
    """Whether g++ can link a program with the sanitizer, and this system runs it."""
    program = folder / f"empty-{name}"
    source = "int main() { return 0; }"
    command = ["g++", "-x", "c++", "-", *SANITIZERS[name], "-o", program]
    try:
        subprocess.run(command, input=source, text=True, capture_output=True, check=True)
        subprocess.run([program], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def build_stress(sanitizer: str, folder: Path) -> Path:
    """Compile the executor's sources and stress.cc with the sanitizer; return the program."""
    program = folder / f"stress-{sanitizer}"
    include = [tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()]
    flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{_SOURCES}"]
    flags += [f"-I{folder}" for folder in dict.fromkeys(include)]
    sources = [
        Path(__file__).with_suffix(".cc"),
        *(_SOURCES / name for name in ("executor.cc", "parallel.cc")),
    ]
    command = ["g++", *flags, *SANITIZERS[sanitizer], "-pthread", *sources, "-o", program]
    subprocess.run(command, check=True)
    return program


def run_stress(program: Path, seconds: float, seed: int) -> subprocess.CompletedProcess[str]:
    """Run the program; its status is not 0 where a result is wrong or the sanitizer complains."""
    return subprocess.run(
        [program, str(seconds), str(seed)],
        capture_output=True,
        text=True,
        timeout=seconds + _LATE_S,
        env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=1"},
    )
