"""Code generation: scheduled kernels to object files, in parallel and only once."""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import tvm
import tvm_ffi
from tvm.ir import IRModule
from tvm.target import Target

from hios_tvm.compiled_code import kept_code
from hios_tvm.errors import CompileError
from hios_tvm.runtime.sealed_memory import SealedMemory

Progress = Callable[[int, int], None]

_LONGEST_NAME = 120  # of a kernel in the name of its file


def kernel_key(kernel: tvm.tirx.PrimFunc, target: Target) -> str:
    """Name of what `kernel` computes and how, on `target`: equal for equal code.

    It depends on the structure of the kernel, the target and TVM's version, and not on names.
    """
    unnamed = kernel.without_attr("global_symbol") if "global_symbol" in kernel.attrs else kernel
    structure = tvm_ffi.structural_hash(unnamed) & (2**64 - 1)
    words = f"{tvm.__version__} {structure:016x} {target}"
    return hashlib.sha256(words.encode()).hexdigest()[:32]


def compile_kernels(
    mod: IRModule,
    target: Target,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, bytes]:
    """Compile every kernel of `mod` to an object file.

    Parameters
    ----------
    mod : IRModule
        Scheduled kernels; the name of each becomes its exported symbol. Other functions are
        left out.
    cache_dir : Path, optional
        Folder that keeps object files. What it holds is not compiled again, and what is compiled
        is there at once, so that an interrupted compile loses nothing.
    progress : function, optional
        Called with the kernels done and the kernels in all.

    Raises
    ------
    CompileError
        If TVM fails; the message names the kernel.
    """
    kernels = {
        gvar.name_hint: function
        for gvar, function in mod.functions.items()
        if isinstance(function, tvm.tirx.PrimFunc)
    }
    objects: dict[str, bytes] = {}
    # TVM compiles without Python's lock, so that threads are enough to use all cores.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            futures = {
                pool.submit(_object_file, name, kernel, target, cache_dir): name
                for name, kernel in kernels.items()
            }
        except RuntimeError as error:  # of Python, where the system allows no more threads
            raise CompileError(f"kernels cannot be compiled: {error}") from error
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                objects[futures[future]] = future.result()
                if progress is not None:
                    progress(done, len(kernels))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {name: objects[name] for name in kernels}


def _object_file(
    name: str, kernel: tvm.tirx.PrimFunc, target: Target, cache_dir: Path | None
) -> bytes:
    target = code_target(kernel, target)
    file = f"{kernel_key(kernel, target)}-{_file_name(name)}.o"
    return kept_code(cache_dir, file, lambda: _compile(name, kernel, target))


def code_target(kernel: tvm.tirx.PrimFunc, target: Target) -> Target:
    """Return the target to generate code for: without LLVM's loop vectorizer where it is wrong.

    LLVM 20 (in TVM 0.27) takes ``i % 4`` in a loop of 16 for ``i``, and reads beyond the tensor,
    where it vectorizes such a loop: it does for AVX-512. Level 1 leaves loops as they are; vectors
    that the schedule asks for stay.
    """
    if target.kind.name != "llvm" or not _wraps_around(kernel):
        return target
    return Target({**json.loads(str(target)), "opt-level": 1})


def _constant(value: tvm.tirx.Expr, *, otherwise: int) -> int:
    return int(value) if isinstance(value, tvm.tirx.IntImm) else otherwise


def _wraps_around(kernel: tvm.tirx.PrimFunc) -> bool:
    """Whether a serial loop's variable is taken modulo a power of two below its extent.

    LLVM vectorizes no loop that has vectors already.
    """
    extents: dict[tvm.tirx.Var, int] = {}
    found: list[bool] = []

    def enter(loop: tvm.tirx.For) -> tvm.tirx.For:
        if loop.kind == tvm.tirx.ForKind.SERIAL and not _has_vectors(loop.body):
            extents[loop.loop_var] = _constant(loop.extent, otherwise=2**31)
        return loop

    def check(modulo: tvm.tirx.Expr) -> tvm.tirx.Expr:
        divisor = _constant(modulo.b, otherwise=0)
        if divisor > 1 and divisor & (divisor - 1) == 0:
            variables = tvm.tirx.analysis.undefined_vars(tvm.tirx.Evaluate(modulo.a), [])
            found.extend(extents.get(variable, 0) > divisor for variable in variables)
        return modulo

    tvm_ffi.structural_map(kernel.body, [(tvm.tirx.For, enter)])
    tvm_ffi.structural_map(
        kernel.body, [(kind, check) for kind in (tvm.tirx.FloorMod, tvm.tirx.Mod)]
    )
    return any(found)


def _has_vectors(body: tvm.tirx.Stmt) -> bool:
    found: list[bool] = []

    def enter(loop: tvm.tirx.For) -> tvm.tirx.For:
        found.append(loop.kind == tvm.tirx.ForKind.VECTORIZED)
        return loop

    def meet(ramp: tvm.tirx.Ramp) -> tvm.tirx.Ramp:
        found.append(True)
        return ramp

    tvm_ffi.structural_map(body, [(tvm.tirx.For, enter), (tvm.tirx.Ramp, meet)])
    return any(found)


def _file_name(name: str) -> str:
    """Return a name that every file system takes, and that no other kernel has."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def object_code(module: tvm.runtime.Module) -> bytes:
    """Return the object file of a compiled module.

    It is written to memory: LLVM ends the process where a disk is full.
    """
    with SealedMemory("hios-object") as memory:
        path = Path(f"/proc/self/fd/{memory.descriptor}")
        module.write_to_file(str(path), "o")
        return path.read_bytes()


def _compile(name: str, kernel: tvm.tirx.PrimFunc, target: Target) -> bytes:
    try:
        module = tvm.tirx.build(
            IRModule({name: kernel.with_attr("global_symbol", name)}), target=target
        )
        return object_code(module)
    except Exception as error:  # TVM raises what Python's types offer, by the place that fails
        raise CompileError(f"TVM cannot compile kernel {name!r} for {target}: {error}") from error
