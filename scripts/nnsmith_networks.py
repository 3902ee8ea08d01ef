"""Write random networks of nnsmith to folders; run it by a Python that has nnsmith and PyTorch.

    python scripts/nnsmith_networks.py --seed 7 --count 20 --folder networks

Each network N gets ``networks/N/model.onnx`` and ``inputs.npz``, the whole folder at once.
"""

import argparse
import functools
import random
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from nnsmith.abstract.extension import activate_ext
from nnsmith.graph_gen import model_gen
from nnsmith.materialize import Model

LARGEST_TENSOR = 4096
TYPES = ["f16", "f32", "f64", "i8", "i32", "i64", "u8", "bool"]
"""As nnsmith calls them: all but complex numbers and int16."""


def main() -> None:
    """Write the networks; those that nnsmith cannot make are named on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="number of the first network")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=8, help="operators of a network")
    arguments = parser.parse_args()
    # nnsmith was written for the exporter that traces TorchScript
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    for number in range(arguments.seed, arguments.seed + arguments.count):
        try:
            _write(number, arguments.nodes, arguments.folder / str(number))
        except Exception as error:  # z3's, PyTorch's and nnsmith's own
            lines = str(error).strip().splitlines() or [""]
            print(f"{number}: {type(error).__name__}: {lines[0][:200]}", file=sys.stderr)


def _write(seed: int, nodes: int, folder: Path) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    model_type = Model.init("onnx", backend_target="cpu")
    model_type.add_seed_setter()
    operators = model_type.operators()  # all: `auto_opset` exports each with each type, for long
    activate_ext(opset=operators, factory=None)
    generator = model_gen(
        opset=operators,
        method="symbolic-cinit",
        seed=seed,
        max_elem_per_tensor=LARGEST_TENSOR,
        max_nodes=nodes,
        dtype_choices=TYPES,
        timeout_ms=10_000,
    )
    model = model_type.from_gir(generator.make_concrete())
    model.refine_weights()
    inputs = model.make_oracle().input
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
    onnx.save(model.native_model, folder / "model.onnx")


if __name__ == "__main__":
    main()
