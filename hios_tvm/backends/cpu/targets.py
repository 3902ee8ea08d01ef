"""Targets of CPUs: the host by default, or another machine by name."""

import json

import tvm
from tvm.target import codegen

from hios_tvm.backends.cpu.features import missing_features
from hios_tvm.errors import UsageError
from hios_tvm.passes.cpu_rules.integer_steps import IntegerInstruction
from hios_tvm.runtime.devices.cpu.cores import available_features
from hios_tvm.schema.precisions import Precision

PORTABLE_CPU = "x86-64-v3"
"""The oldest x86-64 that `portable` code runs on: AVX2 and FMA, any server since 2015."""

_HALF_REGISTERS = "prefer-256-bit"
"""What LLVM vectorizes itself gets half of a register of AVX-512, also where it prefers whole ones.

With 16 lanes, LLVM 22 (in TVM 0.27) computes loops with indices such as `i % 8` wrongly. Vectors of
TIR have whole registers all the same.
"""

_X86_TRIPLE = "x86_64-linux-gnu"
_ARM_TRIPLE = "aarch64-linux-gnu"


def host_target() -> tvm.target.Target:
    """Return the LLVM target with every instruction set that this machine's CPU has.

    A virtual machine may hide some of what a CPU of that name has; they are left out.
    """
    cpu, triple = codegen.llvm_get_system_cpu(), codegen.llvm_get_system_triple()
    target = _llvm_target(cpu, triple)
    available = available_features()
    hidden = () if available is None else missing_features(target, available)
    return _llvm_target(cpu, triple, without=hidden) if hidden else target


def parse_target(text: str) -> tvm.target.Target:
    """Read a target from its name on the command line.

    Parameters
    ----------
    text : str
        ``host``; ``portable`` (any x86-64-v3 machine); the name of an x86-64 or 64-bit Arm CPU
        as LLVM knows it, such as ``znver4`` or ``neoverse-n1``; or a triple such as
        ``aarch64-linux-gnu``, optionally followed by a CPU: ``aarch64-linux-gnu:cortex-a72``.

    Raises
    ------
    UsageError
        If LLVM knows no such CPU.
    """
    if text == "host":
        return host_target()
    if text == "portable":
        return _llvm_target(PORTABLE_CPU, _X86_TRIPLE)
    if text.count("-") >= 2 and text.split("-")[0] in ("aarch64", "arm64", "x86_64"):
        triple, _, cpu = text.partition(":")
        default = PORTABLE_CPU if triple.startswith("x86_64") else "generic"
        if codegen.llvm_is_valid_cpu(cpu or default, triple):
            return _llvm_target(cpu or default, triple)
        raise UsageError(f"target {text!r}: LLVM knows no CPU {cpu!r} for {triple}")
    for triple in (_X86_TRIPLE, _ARM_TRIPLE):
        if codegen.llvm_is_valid_cpu(text, triple):
            return _llvm_target(text, triple)
    raise UsageError(
        f"target {text!r} is unknown: use 'host', 'portable', the name of an x86-64 or 64-bit Arm "
        "CPU as LLVM spells it ('znver4'), or a triple ('aarch64-linux-gnu')"
    )


def vector_lanes(target: tvm.target.Target, dtype_bits: int = 32) -> int:
    """Return how many elements of `dtype_bits` the target's widest vector register holds."""
    if codegen.llvm_cpu_has_features("avx512f", target):
        return 512 // dtype_bits
    if codegen.llvm_cpu_has_features("avx2", target):
        return 256 // dtype_bits
    return 128 // dtype_bits


def vector_registers(target: tvm.target.Target) -> int:
    """Return how many vector registers the target has."""
    is_arm = str(target.attrs.get("mtriple", "")).startswith(("aarch64", "arm64"))
    return 32 if is_arm or codegen.llvm_cpu_has_features("avx512f", target) else 16


def integer_instruction(target: tvm.target.Target) -> IntegerInstruction:
    """Return what the target multiplies integers of 8 bits with, in its widest vectors."""
    wide = codegen.llvm_cpu_has_features("avx512f", target)
    if codegen.llvm_cpu_has_features("avx512vnni" if wide else "avxvnni", target):
        return "vnni"
    needed = "avx512bw" if wide else "avx2"
    return "madd" if codegen.llvm_cpu_has_features(needed, target) else "none"


def with_precision(target: tvm.target.Target, precision: Precision) -> tvm.target.Target:
    """Return `target` for kernels that round the factors of products to `precision`.

    Raises
    ------
    UsageError
        If it has no instructions for that.
    """
    if precision == "fp32":
        return target
    if not codegen.llvm_cpu_has_features("avx512bf16", target):
        raise UsageError(
            f"{precision} would be slower than fp32 on {target.attrs['mcpu']}, which has neither "
            "AMX nor AVX512-BF16: leave out --precision, or name a CPU such as znver4 or "
            "sapphirerapids with --target"
        )
    keys = [*map(str, target.keys), precision]
    return tvm.target.Target({**json.loads(str(target)), "keys": keys})


def _llvm_target(cpu: str, triple: str, without: tuple[str, ...] = ()) -> tvm.target.Target:
    config: dict[str, object] = {"kind": "llvm", "mtriple": triple, "mcpu": cpu}
    plain = tvm.target.Target(config)
    attributes = [f"-{feature}" for feature in without]
    is_wide = codegen.llvm_cpu_has_features("avx512f", plain)
    if is_wide and not codegen.llvm_cpu_has_features(_HALF_REGISTERS, plain):
        attributes.append(f"+{_HALF_REGISTERS}")
    return tvm.target.Target(config | {"mattr": attributes}) if attributes else plain
