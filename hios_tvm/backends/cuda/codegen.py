"""Code generation for GPUs: scheduled kernels to CUDA, and to the code of one architecture."""

import hashlib
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import IRModule
from tvm.target import Target
from tvm.tirx.build import split_host_device_mods

from hios_tvm.backends.cuda.targets import arch_of
from hios_tvm.backends.precisions import precision_of
from hios_tvm.compiled_code import kept_code
from hios_tvm.errors import CompileError
from hios_tvm.files import temporary_folder
from hios_tvm.passes.exact_floats import NanExtrema
from hios_tvm.passes.gpu_rules.fragments import ROUND_TF32
from hios_tvm.schema.dtypes import element_type
from hios_tvm.schema.launches import GpuKernel, Launch

_FIRST_KERNEL = 'extern "C" __global__'

_CONFIG = {
    # TVM's StorageRewrite (0.27) lets sums take the place of a slice of another type, and fails
    "tirx.disable_storage_rewrite": True,
    "tirx.use_async_copy": True,  # where a rule asks for it
}

_BOUNDS = re.compile(r"(__launch_bounds__\(\d+)\)")

_ROUND = f"""\
template <typename Fragment>
__device__ __forceinline__ void {ROUND_TF32}(Fragment* fragments, int index) {{
  #pragma unroll
  for (int i = 0; i < fragments[index].num_elements; ++i) {{
    fragments[index].x[i] = nvcuda::wmma::__float_to_tf32(fragments[index].x[i]);
  }}
}}
"""


@dataclass(frozen=True)
class CudaCode:
    """CUDA C++ of all kernels of a module, and how to launch each; all shapes are fixed."""

    source: str
    kernels: Mapping[str, GpuKernel]


def generate_cuda(mod: IRModule, target: Target) -> CudaCode:
    """Generate CUDA for every kernel of `mod`.

    Parameters
    ----------
    mod : IRModule
        Kernels whose loops are bound to blocks and threads, under their names.
    target : Target
        A CUDA target.

    Raises
    ------
    CompileError
        If a kernel's loops are not all bound to threads, or TVM fails; the message names it.
    """
    kernels: dict[str, GpuKernel] = {}
    device = IRModule({})
    for var, function in mod.functions_items():
        if isinstance(function, tirx.PrimFunc):
            name = str(var.name_hint)
            with _naming(name):
                kernels[name], functions = _split(name, function, target)
                device.update(functions)
    if not kernels:
        return CudaCode("", {})
    with _naming(", ".join(kernels)):
        source = str(tvm.get_global_func("target.build.cuda")(device, target).inspect_source())
    # Not told how many blocks a multiprocessor needs, ptxas spills to make room for ten
    source = _BOUNDS.sub(r"\1, 1)", source)
    return CudaCode(_with_tf32(source) if precision_of(target) == "tf32" else source, kernels)


def _with_tf32(source: str) -> str:
    """Write the fragments that TVM 0.27 has no name for, and the function that rounds them."""
    stand_in = re.compile(r"(nvcuda::wmma::matrix_[ab], 16, 16, 8), half\b")
    written = stand_in.sub(r"\1, nvcuda::wmma::precision::tf32", source)
    return written.replace(_FIRST_KERNEL, _ROUND + _FIRST_KERNEL, 1)


def build_device_code(source: str, target: Target, *, cache_dir: Path | None = None) -> bytes:
    """Compile CUDA C++ to a cubin for the architecture of `target`, with nvcc.

    `cache_dir` is a folder that keeps what was compiled.

    Raises
    ------
    CompileError
        If nvcc is missing, or refuses the source.
    """
    arch = arch_of(target)
    key = hashlib.sha256(f"{arch} {source}".encode()).hexdigest()[:32]
    return kept_code(cache_dir, f"{key}.cubin", lambda: _nvcc(source, arch))


def _nvcc(source: str, arch: str) -> bytes:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise CompileError(
            "the CUDA compiler nvcc was not found: install the CUDA toolkit, or put its folder "
            "bin on PATH; a GPU is not needed to compile"
        )
    with temporary_folder() as folder:
        path, result = Path(folder, "kernels.cu"), Path(folder, "kernels.cubin")
        path.write_text(source)
        command = [nvcc, "-cubin", f"-arch={arch}", "-O3", "-w", "-o", str(result), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CompileError(f"nvcc failed for {arch}: {done.stderr.strip()[-2000:]}")
        return result.read_bytes()


@contextmanager
def _naming(kernels: str) -> Iterator[None]:
    try:
        yield
    except CompileError:
        raise
    except Exception as error:  # TVM raises what Python's types offer
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CompileError(f"TVM cannot generate CUDA for {kernels}: {reason}") from error


def _split(name: str, kernel: tirx.PrimFunc, target: Target) -> tuple[GpuKernel, IRModule]:
    """Return the launches of a kernel, and the functions that they launch."""
    module = IRModule({name: kernel.with_attr("global_symbol", name)})
    module = tirx.transform.BindTarget(target.with_host(target.host or Target("llvm")))(module)
    lower, _, finish = tvm.tirx.get_default_tir_pipeline(target)
    with tvm.transform.PassContext(config=_CONFIG):
        host, devices = split_host_device_mods(lower(module))
    if not devices:
        raise CompileError(
            f"kernel {name!r} has no loops for a GPU's threads: place its operators on a CPU"
        )
    (device,) = devices.values()
    nbytes = tuple(_nbytes(param) for param in kernel.params)
    return _launches(host[name], nbytes), tvm.transform.Sequential(
        [NanExtrema(on_gpu=True), finish()]
    )(device)


def _nbytes(buffer: tirx.Var) -> int:
    return (
        math.prod(int(extent) for extent in buffer.shape) * element_type(str(buffer.dtype)).nbytes
    )


def _launches(host: tirx.PrimFunc, nbytes: tuple[int, ...]) -> GpuKernel:
    """Read from the host's function what it would launch; extents are constants."""
    values: dict[tirx.Var, tvm.ir.Expr] = {}  # what a variable or a buffer stands for
    scratch: dict[tirx.Var, int] = {}
    scratch_bytes: list[int] = []
    launches: list[Launch] = []

    def bind(statement: tirx.Bind) -> tirx.Bind:
        values[statement.var] = statement.value
        return statement

    def declare(statement: tirx.DeclBuffer) -> tirx.DeclBuffer:
        values[statement.buffer] = statement.data
        return statement

    def allocate(statement: tirx.AllocBuffer) -> tirx.AllocBuffer:
        scratch[statement.buffer] = len(nbytes) + len(scratch)
        scratch_bytes.append(_nbytes(statement.buffer))
        return statement

    def launch(call: tvm.ir.Call) -> tvm.ir.Call:
        if getattr(call.op, "name", None) == "tirx.call_ffi_kernel":
            launches.append(_launch(call, lambda expr: _argument(expr, values, scratch)))
        return call

    tvm_ffi.structural_map(
        host.body,
        [(tirx.Bind, bind), (tirx.DeclBuffer, declare), (tirx.AllocBuffer, allocate)],
    )
    tvm_ffi.structural_map(host.body, [(tvm.ir.Call, launch)])
    return GpuKernel(tuple(launches), nbytes, tuple(scratch_bytes))


def _launch(call: tvm.ir.Call, argument: Callable[[tvm.ir.Expr], int]) -> Launch:
    axes = [str(axis) for axis in call.attrs.launch_params]
    symbol, *arguments = call.args
    tensors, extents = arguments[: -len(axes)], arguments[-len(axes) :]
    extent = {axis: int(value) for axis, value in zip(axes, extents, strict=True)}
    grid, block = (
        tuple(extent.get(f"{kind}.{axis}", 1) for axis in "xyz")
        for kind in ("blockIdx", "threadIdx")
    )
    return Launch(
        symbol=str(symbol.value),
        grid=(grid[0], grid[1], grid[2]),
        block=(block[0], block[1], block[2]),
        shared_bytes=extent.get("tirx.use_dyn_shared_memory", 0),
        args=tuple(map(argument, tensors)),
    )


def _argument(
    expr: tvm.ir.Expr, values: Mapping[tirx.Var, tvm.ir.Expr], scratch: Mapping[tirx.Var, int]
) -> int:
    """Return which of the kernel's arguments, or which scratch tensor after them, `expr` is."""
    found: list[int] = []

    def visit_call(call: tvm.ir.Call) -> tvm.ir.Call:
        name = getattr(call.op, "name", "")
        if name == "tirx.tvm_struct_get" and str(call.args[0].name) == "args":
            found.append(int(call.args[1]))
        return call

    def visit_var(var: tirx.Var) -> tirx.Var:
        if var in scratch:
            found.append(scratch[var])
        elif var in values:
            found.append(_argument(values[var], values, scratch))
        return var

    tvm_ffi.structural_map(expr, [(tvm.ir.Call, visit_call), (tirx.Var, visit_var)])
    numbers = set(found)
    if len(numbers) != 1:
        raise CompileError(f"an argument of a kernel on a GPU is no tensor: {expr}")
    return numbers.pop()
