"""TVM's stock virtual machine, as a reference and as a rival."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.target import Target

__all__ = ["virtual_machine_runner"]


def virtual_machine_runner(
    mod: IRModule, target: Target, inputs: Mapping[str, np.ndarray]
) -> Callable[[], dict[str, np.ndarray]]:
    """Build `mod` with TVM's default pipeline; the result runs it once on `inputs`.

    Inputs and outputs go by the names in the attributes of `main`.
    """
    attrs = mod["main"].attrs
    arguments = [tvm.runtime.tensor(inputs[str(name)]) for name in attrs["input_names"]]
    names = [str(name) for name in attrs["output_names"]]
    main = relax.VirtualMachine(tvm.compile(mod, target), tvm.cpu())["main"]

    def run() -> dict[str, np.ndarray]:
        result = main(*arguments)
        results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return {name: value.numpy() for name, value in zip(names, results, strict=True)}

    return run
