"""What Python writes is what the native executor reads: sizes, offsets and opcodes are the same."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable
from pathlib import Path

import tvm_ffi.libinfo

from hios_tvm.runtime import abi, memory, native
from hios_tvm.schema.device_names import MAX_CORES

STRUCTS: dict[type[ctypes.Structure], str] = {
    abi.DLTensor: "DLTensor",
    abi.FFIAny: "TVMFFIAny",
    abi.NativeDriver: "hios::CudaDriver",
    abi.NativeGpuCopy: "hios::GpuCopy",
    abi.NativeHostSignal: "hios::HostSignal",
    abi.NativeInstruction: "hios::Instruction",
    abi.NativeLaunch: "hios::GpuLaunch",
    abi.NativeWorker: "hios::Worker",
}
NESTED = {  # fields that Python has flat and DLPack in structs of their own
    "device_type": "device.device_type",
    "device_id": "device.device_id",
    "code": "dtype.code",
    "bits": "dtype.bits",
    "lanes": "dtype.lanes",
}
CONSTANTS = {
    "hios::kAbiVersion": abi.ABI_VERSION,
    "hios::kMaxTeam": MAX_CORES,
    "hios::kLeft": abi.LEFT,
    "hios::kNoCore": abi.NO_CORE,
    "hios::kAnyCore": abi.ANY_CORE,
    "kTVMFFIDLTensorPtr": abi.DLTENSOR_POINTER,
    "kDLCPU": memory._CPU,
}


def cpp_field(struct: type[ctypes.Structure], field: str) -> str:
    return NESTED.get(field, field) if struct is abi.DLTensor else field


def cpp_opcode(opcode: abi.Opcode) -> str:
    """Return the enumerator of program.h, for example kSignalFromStream."""
    return "hios::Opcode::k" + opcode.name.title().replace("_", "")


def expected() -> dict[str, int]:
    """Return Python's value of each C++ expression."""
    values = dict(CONSTANTS)
    for struct, name in STRUCTS.items():
        values[f"sizeof({name})"] = ctypes.sizeof(struct)
        for field, *_ in struct._fields_:
            member, layout = cpp_field(struct, field), getattr(struct, field)
            values[f"offsetof({name}, {member})"] = layout.offset
            values[f"sizeof(static_cast<{name}*>(nullptr)->{member})"] = layout.size
    for opcode in abi.Opcode:
        values[cpp_opcode(opcode)] = int(opcode)
    return values


def compile_headers(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    source = folder / "layout.cc"
    source.write_text(
        "#include <tvm/ffi/c_api.h>\n#include <cstddef>\n#include <iostream>\n"
        f'#include "program.h"\n{body}\n'
    )
    includes = (
        Path(abi.__file__).parent,
        tvm_ffi.libinfo.find_include_path(),
        tvm_ffi.libinfo.find_dlpack_include_path(),
    )
    flags = ["-std=c++17", "-Wall", "-Werror", *(f"-I{path}" for path in includes)]
    return subprocess.run(
        ["g++", *flags, source, "-o", folder / "layout"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_sizes_offsets_and_opcodes_are_the_same(tmp_path: Path) -> None:
    values = expected()
    prints = "\n".join(f"std::cout << static_cast<long>({what}) << ' ';" for what in values)
    done = compile_headers(tmp_path, f"int main() {{\n{prints}\n}}")
    assert done.returncode == 0, done.stderr
    result = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True)
    assert dict(zip(values, map(int, result.stdout.split()), strict=True)) == values


def test_functions_have_the_same_arguments(tmp_path: Path) -> None:
    """As many, of the same sizes; the first number is the size of the result, 0 for none."""
    sizes = """
#include "executor.cc"
#include "parallel.cc"
template <typename T> constexpr size_t kSize = sizeof(T);
template <> constexpr size_t kSize<void> = 0;
template <typename R, typename... A> void Print(R (*)(A...)) {
  for (size_t size : {kSize<R>, kSize<A>...}) std::cout << size << ' ';
  std::cout << std::endl;
}
"""
    prints = "\n".join(f"Print(&hios::{name});" for name in native._FUNCTIONS)
    done = compile_headers(tmp_path, f"{sizes} int main() {{\n{prints}\n}}")
    assert done.returncode == 0, done.stderr
    result = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True)
    assert [[*map(int, line.split())] for line in result.stdout.splitlines()] == [
        [0 if kind is None else ctypes.sizeof(kind) for kind in (result, *arguments)]
        for result, arguments in native._FUNCTIONS.values()
    ]


def all_fields(fewer: int = 0) -> str:
    """C++ that compiles only where each struct has as many fields as Python's."""
    functions = []
    for i, (struct, name) in enumerate(STRUCTS.items()):
        if name.startswith("hios::"):
            names = ", ".join(f"f{k}" for k in range(len(struct._fields_) - fewer))
            functions.append(f"void Fields{i}({name}& s) {{ auto& [{names}] = s; (void)f0; }}")
    return "\n".join([*functions, "int main() {}"])


def all_opcodes(opcodes: Iterable[abi.Opcode]) -> str:
    """C++ that compiles only where the enumeration has no other opcode."""
    cases = " ".join(f"case {cpp_opcode(opcode)}: break;" for opcode in opcodes)
    return f"void Cases(hios::Opcode opcode) {{ switch (opcode) {{ {cases} }} }} int main() {{}}"


def test_python_has_all_opcodes_and_fields(tmp_path: Path) -> None:
    for body in (all_opcodes(abi.Opcode), all_fields()):
        done = compile_headers(tmp_path, body)
        assert done.returncode == 0, done.stderr
    # The check itself: one opcode or field fewer does not compile
    for body in (all_opcodes(list(abi.Opcode)[:-1]), all_fields(fewer=1)):
        assert compile_headers(tmp_path, body).returncode != 0
