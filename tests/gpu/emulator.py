"""Generated CUDA kernels, executed on the CPU: see cuda_emulator.h."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from hios_tvm.schema.launches import GpuKernel

_HEADER = Path(__file__).with_name("cuda_emulator.h")
_COMPILER = (
    *("g++", "-std=c++17", "-O1", "-w", "-fPIC"),
    *("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"),
)
_KERNEL = re.compile(
    r'extern "C" __global__ void __launch_bounds__\([\d, ]+\) (\w+)\(([^)]*)\) \{', re.MULTILINE
)


class EmulatedCode:
    """CUDA source as a library for this CPU, and the launches of its functions."""

    def __init__(self, source: str) -> None:
        self.dll = _library(source)
        self.parameters = {
            symbol: len(parameters.split(",")) for symbol, parameters in _KERNEL.findall(source)
        }

    def launch(
        self,
        symbol: str,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        params: int | ctypes.Array,
    ) -> None:
        """Run a kernel as cuLaunchKernel does; `params` holds pointers to its arguments."""
        three = ctypes.c_uint * 3
        run = getattr(self.dll, f"launch_{symbol}")
        run(three(*grid), three(*block), ctypes.c_size_t(shared_bytes), params)

    def run(self, kernel: GpuKernel, arrays: Sequence[np.ndarray]) -> None:
        """Run all launches of a kernel on its arguments, which are changed in place."""
        scratch = [np.full(nbytes, 0xFF, np.uint8) for nbytes in kernel.scratch]
        addresses = [array.ctypes.data for array in (*arrays, *scratch)]
        for launch in kernel.launches:
            values = [ctypes.c_void_p(addresses[number]) for number in launch.args]
            params = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
            self.launch(launch.symbol, launch.grid, launch.block, launch.shared_bytes, params)


@cache
def _library(source: str) -> ctypes.CDLL:
    """Compile CUDA source for this CPU, equal sources once."""
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder, "kernels.cc"), Path(folder, "kernels.so")
        path.write_text(_translated(source))
        include = f"-I{_compiled_header().name}"
        command = [*_COMPILER, "-shared", include, "-o", result, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return ctypes.CDLL(str(result))


@cache
def _compiled_header() -> tempfile.TemporaryDirectory[str]:
    """Return a folder with the header and what the compiler made of it, which saves most time."""
    folder = tempfile.TemporaryDirectory()
    header = shutil.copy(_HEADER, folder.name)
    compiled = [*_COMPILER, "-x", "c++-header", header, "-o", f"{header}.gch"]
    subprocess.run(compiled, check=True)
    return folder


_COPY = re.compile(r"ptx_cp_async_legacy_(?:pred_)?c[ag]_(\d+)_(\d+)_(\d+)\((.*)\);")


def _with_asynchronous_copies(body: str) -> str:
    """Write calls of the emulator for what TVM's head defines in PTX."""
    body = _COPY.sub(r"emulator::CopyAsync<\1, \2, \3>(\4);", body)
    prefix = r"tvm_builtin_ptx_cp_async_"
    body = re.sub(prefix + r"commit_group_\w+\(\)", "emulator::CommitGroup()", body)
    return re.sub(prefix + r"wait_group_\w+_(\d+)\(\)", r"emulator::WaitGroup(\1)", body)


def _translated(source: str) -> str:
    """Return C++ for the emulator: TVM's head is left out, shared memory is static."""
    body = source[
        re.search(r'template <typename Fragment>|extern "C" __global__', source).start() :
    ]
    body = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 static", body)
    body = _with_asynchronous_copies(body)
    dynamic = r"extern __shared__ __align__\((\d+)\) uchar (\w+)\[\];"
    body = re.sub(dynamic, r"uchar* const \2 = emulator::shared_memory;", body)
    wrappers = []
    for symbol, parameters in _KERNEL.findall(body):
        types = [parameter.rsplit("*", 1)[0] + "*" for parameter in parameters.split(",")]
        arguments = ", ".join(f"*({kind}*)args[{i}]" for i, kind in enumerate(types))
        wrappers.append(
            f'extern "C" void launch_{symbol}(const unsigned* grid, const unsigned* block, '
            f"size_t shared_bytes, void** args) "
            f"{{ emulator::Launch(grid, block, shared_bytes, [=] {{ {symbol}({arguments}); }}); }}"
        )
    return "\n".join([f'#include "{_HEADER.name}"', body, *wrappers])
