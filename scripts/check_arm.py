#!/usr/bin/env python3
"""Compile ONNX files for 64-bit Arm, run them in an emulator, and compare with ONNX Runtime.

It needs a cross compiler and an emulator: `apt-get install g++-aarch64-linux-gnu qemu-user`. Each
kernel runs as it would on an Arm machine, one after another on one thread; threads and the
executor stay out. Machines with other vectors than the default of the processor are named by
--target and --cpu: `--target aarch64-linux-gnu:neoverse-v1 --cpu max`.

    python scripts/check_arm.py networks/deit_tiny_patch16_224.dynamo.onnx
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import tvm
import tvm_ffi.libinfo
from check_networks import recorded_draws

from hios_tvm.backends.cpu.codegen import compile_kernels
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.network import Lowered, lower_network
from hios_tvm.cli.console import stdout
from hios_tvm.frontends import load_model
from hios_tvm.runtime.devices import HOST
from hios_tvm.schema.graph import OperatorGraph, Tensor
from hios_tvm.verification.deviation import RTOL, deviations
from hios_tvm.verification.inputs import random_inputs
from hios_tvm.verification.onnx_reference import onnxruntime_outputs

TARGET = "aarch64-linux-gnu"
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
ROOT = "/usr/aarch64-linux-gnu"  # the cross compiler's libraries, which the emulated program loads
ALIGNMENT = 64  # bytes, of tensors

Arrays = Mapping[str, np.ndarray]


def missing_tools() -> list[str]:
    """Return the programs that are not installed."""
    return [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]


def emulated_outputs(
    network: Lowered, weights: Arrays, inputs: Arrays, *, cpu: str = "max"
) -> dict[str, np.ndarray]:
    """Run the kernels of a network in the emulator; return the model's outputs by name.

    Parameters
    ----------
    network : Lowered
        For a target of 64-bit Arm.
    weights : mapping of str to numpy.ndarray
        The constants of its graph.
    inputs : mapping of str to numpy.ndarray
        Those of the model.
    cpu : str
        As the emulator calls it.
    """
    graph, names = network.graph, network.mod["main"].attrs
    of_model = dict(zip(graph.inputs, map(str, names["input_names"]), strict=True))
    offsets, size = _places(graph)
    with tempfile.TemporaryDirectory(prefix="hios-arm-") as name:
        folder = Path(name)
        program, library, data = (folder / part for part in ("check_arm", "kernels.so", "data"))
        _build_program(program)
        kernels = tvm.IRModule({op.kernel: network.mod[op.kernel] for op in graph.operators})
        objects = compile_kernels(kernels, network.target)
        library.write_bytes(link_library(objects.values(), network.target))
        memory = np.memmap(data, np.uint8, "w+", shape=(size,))

        def view(tensor: str) -> np.ndarray:
            return _view(memory, graph.tensor[tensor], offsets[tensor])

        for constant in graph.constants:
            view(constant)[...] = weights[constant]
        for tensor, given in of_model.items():
            view(tensor)[...] = inputs[given]
        memory.flush()
        command: list[str | Path] = [EMULATOR, "-cpu", cpu, "-L", ROOT, program, library, data]
        subprocess.run(command, input=_plan(graph, offsets), text=True, check=True)
        outputs = zip(map(str, names["output_names"]), graph.outputs, strict=True)
        return {name: view(tensor).copy() for name, tensor in outputs}


def check(model: Path, target: str, cpu: str) -> float:
    """Return the largest difference from ONNX Runtime, over the largest magnitude of an output."""
    module = load_model(model)
    inputs = _inputs(model, module)
    network = lower_network(module, target)
    outputs = emulated_outputs(network.lowered[HOST], network.weights, inputs, cpu=cpu)
    found = deviations(outputs, onnxruntime_outputs(model, inputs))
    return max(deviation.max_error for deviation in found)


def _inputs(model: Path, module: tvm.IRModule) -> Arrays:
    """Return the inputs that `export_networks.py` recorded, or else random ones."""
    if draws := recorded_draws(model):
        return draws[0][0]
    main = module["main"]
    names = map(str, main.attrs["input_names"])
    tensors = [
        Tensor(name, tuple(map(int, param.ty.shape)), str(param.ty.dtype))
        for name, param in zip(names, main.params, strict=True)
    ]
    return random_inputs(tensors, seed=0)


def _places(graph: OperatorGraph) -> tuple[dict[str, int], int]:
    """Return where each tensor begins in the data, and the bytes of all."""
    offsets, size = {}, 0
    for tensor in graph.tensors:
        offsets[tensor.name] = size
        size += -(-max(1, tensor.nbytes) // ALIGNMENT) * ALIGNMENT
    return offsets, size


def _view(memory: np.ndarray, tensor: Tensor, offset: int) -> np.ndarray:
    return memory[offset : offset + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)


def _plan(graph: OperatorGraph, offsets: Mapping[str, int]) -> str:
    """Return the plan that check_arm.cc reads."""
    lines = []
    for tensor in graph.tensors:
        dtype = tvm_ffi.dtype(tensor.dtype)
        words = (dtype.type_code, dtype.bits, offsets[tensor.name], len(tensor.shape))
        lines.append(" ".join(map(str, ("tensor", *words, *tensor.shape))))
    number = {tensor.name: i for i, tensor in enumerate(graph.tensors)}
    for operator in graph.operators:
        arguments = [number[name] for name in (*operator.inputs, *operator.outputs)]
        lines.append(" ".join(map(str, ("call", operator.kernel, len(arguments), *arguments))))
    return "\n".join(lines)


def _build_program(result: Path) -> None:
    headers = {tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()}
    source = Path(__file__).with_suffix(".cc")
    flags = ["-std=c++17", "-O1", "-rdynamic", *(f"-I{folder}" for folder in headers)]
    subprocess.run([COMPILER, *flags, source, "-o", result, "-ldl"], check=True)


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--target", default=TARGET, show_default=True, help="As in hios-tvm compile.")
@click.option("--cpu", default="max", show_default=True, help="That the emulator stands for.")
def main(models: Sequence[Path], target: str, cpu: str) -> None:
    if missing := missing_tools():
        raise click.ClickException(f"install {' and '.join(missing)}")
    errors = {model: check(model, target, cpu) for model in models}
    for model, error in errors.items():
        stdout().print(f"{model.stem}: largest error {error:.1e}", markup=False)
    if max(errors.values()) > RTOL["fp32"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
