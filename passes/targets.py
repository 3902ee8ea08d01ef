"""Targets of generated code: the host by default, or another machine by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

import tvm
from tvm.target import codegen

from hios_tvm.backends.cpu.features import missing_features
from hios_tvm.errors import DeviceError, UsageError
from hios_tvm.runtime.devices.cpu import available_features
from hios_tvm.runtime.devices.cuda import load_driver
from hios_tvm.schema.device_names import device_kind
from hios_tvm.schema.gpu_models import PRECISIONS, Precision, gpu_model

__all__ = [
    "PORTABLE_CPU",
    "cuda_target",
    "host_target",
    "parse_target",
    "parse_targets",
    "precision_of",
    "vector_lanes",
    "vector_registers",
]

PORTABLE_CPU = "x86-64-v3"
"""The oldest x86-64 that `portable` code runs on: AVX2 and FMA, any server since 2015."""

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


def cuda_target(
    arch: str, host: tvm.target.Target, precision: Precision = "fp32"
) -> tvm.target.Target:
    """Return the target of GPUs of one architecture, whose host is a CPU.

    Parameters
    ----------
    arch : str
        Such as ``sm_80`` (A100) or ``sm_90`` (H100).
    precision : str
        ``fp32``, or what tensor cores round the factors of convolutions and products to.

    Raises
    ------
    UsageError
        If that is no architecture of CUDA, one before sm_70, or one whose tensor cores lack
        `precision`.
    """
    if re.fullmatch(r"sm_[1-9][0-9]{1,2}[af]?", arch) is None:
        raise UsageError(f"{arch!r} is no architecture of a GPU: write for example sm_80 or sm_90")
    gpu_model(arch).gflops(precision)
    limits = {"max_num_threads": 1024, "max_threads_per_block": 1024, "thread_warp_size": 32}
    limits["max_shared_memory_per_block"] = 48 * 1024
    keys = ["cuda", "gpu", *([] if precision == "fp32" else [precision])]
    return tvm.target.Target({"kind": "cuda", "arch": arch, "keys": keys, **limits}, host=host)


def arch_of(target: tvm.target.Target) -> str:
    """Return the architecture of a CUDA target, such as ``sm_90``."""
    return str(target.attrs["arch"])


def precision_of(target: tvm.target.Target) -> Precision:
    """Return the precision of products on a CUDA target."""
    keys = list(map(str, target.keys))
    return next((name for name in PRECISIONS if name in keys), "fp32")


def parse_targets(
    text: str, devices: Sequence[str], precision: Precision = "fp32"
) -> tuple[tvm.target.Target, tvm.target.Target | None]:
    """Read the target of CPUs, and that of GPUs where `devices` has one.

    Parameters
    ----------
    text : str
        A CPU as in `parse_target`, an architecture as in `cuda_target`, or both with a comma
        between them: ``znver4,sm_90``. Without a CPU it is the host's, without an architecture
        that of the first GPU of this machine.
    precision : str
        As in `cuda_target`.

    Raises
    ------
    UsageError
        If a name is unknown, there is no GPU here and no architecture is named, or a precision is
        named and no GPU.
    """
    words = [word.strip() for word in text.split(",")]
    archs = [word for word in words if word.startswith("sm_")]
    cpus = [word for word in words if word not in archs]
    if len(archs) > 1 or len(cpus) > 1:
        raise UsageError(f"target {text!r} names two CPUs or two architectures")
    cpu = parse_target(cpus[0] if cpus else "host")
    if not any(device_kind(device) == "cuda" for device in devices):
        if archs:
            raise UsageError(f"target {text!r} is a GPU's, but the devices are {list(devices)}")
        if precision != "fp32":
            raise UsageError(
                f"{precision} is a precision of GPUs, but the devices are {list(devices)}"
            )
        return cpu, None
    return cpu, cuda_target(archs[0] if archs else _arch_here(), cpu, precision)


def _arch_here() -> str:
    try:
        return load_driver().arch(0)
    except DeviceError as error:
        raise UsageError(
            f"name the architecture of the GPUs, for example --target sm_90 ({error})"
        ) from error


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


def _llvm_target(cpu: str, triple: str, without: tuple[str, ...] = ()) -> tvm.target.Target:
    config: dict[str, object] = {"kind": "llvm", "mtriple": triple, "mcpu": cpu}
    if without:
        config["mattr"] = [f"-{feature}" for feature in without]
    return tvm.target.Target(config)
