"""Kernels to the bytes of a shared library, with the executor linked in."""

import os
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path

import tvm
import tvm_ffi.libinfo

from hios_tvm.backends.cpu.codegen import object_code
from hios_tvm.compiled_code import run_compiler
from hios_tvm.errors import CompileError
from hios_tvm.files import temporary_folder, write_errors

_SOURCES = ("executor.cc", "parallel.cc")
_EMULATION = ("emulation.cc",)
_HEADERS = ("cuda.h", "events.h", "parallel.h", "program.h")
_CROSS_COMPILERS = {"aarch64": "aarch64-linux-gnu-g++", "x86_64": "x86_64-linux-gnu-g++"}


def build_library(
    mod: tvm.IRModule, target: tvm.target.Target, *, compiler: str | None = None
) -> bytes:
    """Generate code for `mod` and link it with the runtime's executor.

    Parameters
    ----------
    mod : tvm.IRModule
        Scheduled PrimFuncs, each with the attribute ``global_symbol``.
    target : tvm.target.Target
        An LLVM target.
    compiler : str, optional
        The C++ compiler for that target; by default ``CXX``, or g++ for the target's processor.

    Returns
    -------
    bytes
        An ELF shared library.

    Raises
    ------
    CompileError
        If there is no C++ compiler, code generation fails, or linking does.
    """
    try:
        kernels = tvm.compile(mod, target=target).mod
    except Exception as error:
        raise CompileError(f"code generation for {target} failed: {error}") from error
    return link_library([object_code(kernels)], target, compiler=compiler)


def link_library(
    objects: Iterable[bytes], target: tvm.target.Target, *, compiler: str | None = None
) -> bytes:
    """Link object files of kernels with the runtime's executor.

    Parameters
    ----------
    objects
        Object files that TVM generated for `target`.
    target, compiler
        As in `build_library`.

    Returns
    -------
    bytes
        An ELF shared library.

    Raises
    ------
    CompileError
        If there is no C++ compiler, or linking fails.
    """
    compiler = compiler or _default_compiler(target)
    executor = _compile_runtime(compiler, _SOURCES)
    with temporary_folder() as folder, write_errors(folder):
        contents = [*objects, *executor]
        parts = [Path(folder, f"{i}.o") for i in range(len(contents))]
        for path, content in zip(parts, contents, strict=True):
            path.write_bytes(content)
        result = Path(folder, "library.so")
        run_compiler(
            [compiler, "-shared", "-fPIC", "-Wl,--as-needed", "-s", *parts, "-o", result], folder
        )
        return result.read_bytes()


def build_emulation_library(target: tvm.target.Target) -> bytes:
    """Link the executor with kernels that take time and do nothing (emulation.cc).

    Raises
    ------
    CompileError
        As `link_library`.
    """
    return link_library(_compile_runtime(_default_compiler(target), _EMULATION), target)


@cache
def _compile_runtime(compiler: str, sources: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return object files of the runtime's native part; TVM's header is apache-tvm-ffi's."""
    includes = [tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()]
    flags = ["-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden"]
    flags += [f"-I{include}" for include in dict.fromkeys(includes)]
    objects = []
    with temporary_folder() as folder, write_errors(folder):
        for name in (*_HEADERS, *sources):
            content = resources.files("hios_tvm.runtime").joinpath(name).read_bytes()
            Path(folder, name).write_bytes(content)
        for name in sources:
            result = Path(folder, f"{name}.o")
            run_compiler([compiler, *flags, "-c", Path(folder, name), "-o", result], folder)
            objects.append(result.read_bytes())
    return tuple(objects)


def _default_compiler(target: tvm.target.Target) -> str:
    named = os.environ.get("CXX")
    if named:
        return named
    processor = str(target.attrs.get("mtriple", "")).split("-")[0]
    if processor in ("", os.uname().machine):
        return "g++"
    return _CROSS_COMPILERS.get(processor, "g++")
