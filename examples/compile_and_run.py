"""Compile a network for two devices of one core each, run the artifact, compare the outputs.

    python examples/compile_and_run.py

The network is a small SqueezeNet with random weights; any ONNX file takes its place.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import hios_tvm
from hios_tvm import zoo


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, artifact = Path(folder, "model.onnx"), Path(folder, "model.hios")
        onnx.save(zoo.build("squeezenet1_1", height=64, width=64), model)

        # The first two cores that this process may use; one device where there is only one.
        cores = sorted(os.sched_getaffinity(0))[:2]
        options = hios_tvm.CompileOptions(devices=tuple(f"cpu@{core}" for core in cores))
        result = hios_tvm.compile_model(
            hios_tvm.load_model(model),
            artifact,
            options,
            name="squeezenet1_1",
            reference=hios_tvm.OnnxReference(model),  # wrong artifacts are not written
        )
        for device in result.schedule:
            print(f"{device.device}: {len(device.operators)} operators")
        print(f"predicted makespan: {result.schedule.makespan_ms:.2f} ms")
        print(result.manifest.verification)

        images = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
        with hios_tvm.load(artifact) as session:
            outputs = session.run({"input": images})
        (expected,) = onnxruntime.InferenceSession(model).run(None, {"input": images})
        error = np.abs(outputs["output"] - expected).max() / np.abs(expected).max()
        print(f"largest difference from ONNX Runtime: {error:.1e} of the largest magnitude")


if __name__ == "__main__":
    main()
