"""TVM's stock virtual machine, as a reference and as a rival."""

from collections.abc import Callable, Mapping

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.target import Target

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
