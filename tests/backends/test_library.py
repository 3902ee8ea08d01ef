from __future__ import annotations

import shutil

import pytest
import tvm
from tvm import te

from hios_tvm.backends.cpu.codegen import compile_kernels
from hios_tvm.backends.cpu.library import build_library, link_library
from hios_tvm.errors import ArtifactError, CompileError
from hios_tvm.runtime.abi import ABI_VERSION
from hios_tvm.runtime.native import load_library

TARGET = tvm.target.Target("llvm")


def doubled(name: str) -> tvm.tirx.PrimFunc:
    """A kernel with a parallel loop: it needs TVM's context symbols."""
    x = te.placeholder((64,), "float32", name="x")
    y = te.compute((64,), lambda i: x[i] + x[i], name="y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([x, y]))
    schedule.parallel(schedule.get_loops(schedule.get_sblock("y"))[0])
    return schedule.mod["main"].with_attr("global_symbol", name)


def test_a_library_has_its_kernels_and_the_executor() -> None:
    library = load_library(build_library(tvm.IRModule({"doubled": doubled("doubled")}), TARGET))
    assert library.dll.hios_abi_version() == ABI_VERSION
    assert library.kernel("doubled") != 0
    with pytest.raises(ArtifactError, match="no kernel called 'tripled'"):
        library.kernel("tripled")


def test_kernels_compiled_apart_link_together() -> None:
    module = tvm.IRModule({name: doubled(name) for name in ("one", "two", "three")})
    library = load_library(link_library(compile_kernels(module, TARGET).values(), TARGET))
    assert len({library.kernel(name) for name in ("one", "two", "three")}) == 3


def test_equal_libraries_are_loaded_once_and_unloaded_with_the_last_use() -> None:
    content = build_library(tvm.IRModule({"unique_kernel": doubled("unique_kernel")}), TARGET)

    def mappings() -> int:
        with open("/proc/self/maps", encoding="ascii") as file:
            return sum("hios-kernels" in line for line in file)

    before = mappings()
    first, second = load_library(content), load_library(content)
    assert first is second
    assert mappings() > before
    del first, second
    assert mappings() == before


def test_bytes_that_are_no_library_are_refused() -> None:
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load_library(b"\x7fELF" + bytes(100))


def test_a_missing_compiler_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert shutil.which("no-such-compiler") is None
    with pytest.raises(CompileError, match=r"'no-such-compiler' was not found: install it .*CXX"):
        link_library([], TARGET)


def test_a_link_error_shows_the_compilers_words() -> None:
    with pytest.raises(CompileError, match=r"g\+\+ failed: .*0\.o"):
        link_library([b"not an object file"], TARGET, compiler="g++")


def test_what_tvm_cannot_compile_is_a_compile_error() -> None:
    unknown = tvm.tirx.Evaluate(tvm.tirx.call_intrin("int32", "tirx.masked_load"))
    kernel = tvm.tirx.PrimFunc([], unknown).with_attr("global_symbol", "f")
    with pytest.raises(CompileError, match="code generation for"):
        build_library(tvm.IRModule({"f": kernel}), TARGET)
