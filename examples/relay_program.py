"""Compile a Relay program, as TVM up to 0.19 printed it, with its parameters.

    python examples/relay_program.py

Relay left TVM; its programs in text or JSON, and files of parameters, still compile.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

import hios_tvm

PROGRAM = """
#[version = "0.0.5"]
def @main(%data: Tensor[(2, 8), float32], %weight: Tensor[(4, 8), float32]) {
  %0 = nn.dense(%data, %weight, units=4);
  nn.softmax(%0)
}
"""


def main() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 8), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        program, params = Path(folder, "model.relay"), Path(folder, "model.npz")
        program.write_text(PROGRAM)
        np.savez(params, weight=weight)  # what is not in this file becomes an input

        module = hios_tvm.load_model(program, params=params)
        artifact = Path(folder, "model.hios")
        device = f"cpu@{min(os.sched_getaffinity(0))}"
        reference = hios_tvm.RelaxReference(module)  # TVM's default executor
        options = hios_tvm.CompileOptions(devices=(device,))
        result = hios_tvm.compile_model(module, artifact, options, reference=reference)
        print(result.manifest.verification)

        with hios_tvm.load(artifact) as session:
            outputs = session.run({"data": np.ones((2, 8), np.float32)})
        for name, output in outputs.items():
            print(f"{name}: rows add up to {output.sum(axis=1)}")


if __name__ == "__main__":
    main()
