"""The CPU features that generated code may use, in the words of /proc/cpuinfo."""

from collections.abc import Collection

from tvm.target import Target, codegen

# LLVM's name -> the kernel's, for what LLVM uses on its own in numeric code. What it never emits
# without being asked (cryptography, transactional memory, ...) must not keep a machine out.
_X86 = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "movbe": "movbe",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512ifma": "avx512ifma",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
    "gfni": "gfni",
}
_ARM = {
    "neon": "asimd",
    "dotprod": "asimddp",
    "fullfp16": "asimdhp",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "sve": "sve",
    "sve2": "sve2",
    "i8mm": "i8mm",
    "bf16": "bf16",
}


def cpu_features(target: Target) -> tuple[str, ...]:
    """Return the features that a machine must have to run code for `target`, sorted.

    >>> cpu_features(Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}))
    ('pni', 'popcnt', 'sse4_1', 'sse4_2', 'ssse3')
    """
    return tuple(sorted(_enabled(target).values()))


def missing_features(target: Target, available: Collection[str]) -> tuple[str, ...]:
    """Return the features of `target` that are not `available`, in LLVM's words.

    >>> target = Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"})
    >>> missing_features(target, {"pni", "ssse3", "sse4_1", "popcnt"})
    ('sse4.2',)
    """
    return tuple(llvm for llvm, name in _enabled(target).items() if name not in available)


def _enabled(target: Target) -> dict[str, str]:
    """Features of the target: LLVM's name to the kernel's."""
    enabled = {str(feature) for feature in codegen.llvm_get_cpu_features(target)}
    names = _ARM if str(target.attrs.get("mtriple", "")).startswith(("aarch64", "arm64")) else _X86
    return {feature: name for feature, name in names.items() if feature in enabled}
