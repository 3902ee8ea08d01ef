"""TVM's stock virtual machine, as a reference and as a rival."""

from collections.abc import Callable, Mapping

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.target import Target

from hios_tvm.backends.network import Lowered

Arrays = Mapping[str, np.ndarray]


def build_virtual_machine(
    mod: IRModule, target: Target
) -> Callable[[Arrays], dict[str, np.ndarray]]:
    """Build `mod` with TVM's default pipeline; the result runs it once on the inputs it is given.

    Inputs and outputs go by the names in the attributes of `main`.
    """
    attrs = mod["main"].attrs
    input_names = [str(name) for name in attrs["input_names"]]
    output_names = [str(name) for name in attrs["output_names"]]
    main = relax.VirtualMachine(tvm.compile(mod, target), tvm.cpu())["main"]

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        result = main(*(tvm.runtime.tensor(inputs[name]) for name in input_names))
        results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return {name: value.numpy() for name, value in zip(output_names, results, strict=True)}

    return run


def virtual_machine_runner(
    mod: IRModule, target: Target, inputs: Arrays
) -> Callable[[], dict[str, np.ndarray]]:
    """Build `mod` as `build_virtual_machine` does; the result runs it once on `inputs`."""
    run = build_virtual_machine(mod, target)
    return lambda: run(inputs)


def prepare_weights(form: Lowered, weights: Arrays) -> dict[str, np.ndarray]:
    """Compute the prepared weights of `form` from those that are stored, as the runtime does."""
    kernels = {weight.kernel: form.mod[weight.kernel] for weight in form.prepared}
    functions = {name: func.with_attr("global_symbol", name) for name, func in kernels.items()}
    library = tvm.compile(IRModule(functions), form.target)
    results = {}
    for weight in form.prepared:
        tensor = form.graph.tensor[weight.name]
        result = tvm.runtime.empty(tensor.shape, tensor.dtype)
        library[weight.kernel](tvm.runtime.tensor(weights[weight.source]), result)
        results[weight.name] = result.numpy()
    return results
