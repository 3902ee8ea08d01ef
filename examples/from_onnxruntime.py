"""A program that was written for ONNX Runtime, with one import replaced.

    python examples/from_onnxruntime.py

The first session compiles the model; later ones, also of later runs of the program, load what was
compiled from the user's cache folder.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

from hios_tvm import onnxruntime  # was: import onnxruntime


def save_classifier(path: Path) -> None:
    """Write a small network; any ONNX file takes its place."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17], producer_name: "an example">
        classifier (float[1, 256] image, float[256, 10] w) => (float[1, 10] scores) {
            products = MatMul (image, w)
            scores = Softmax <axis = 1> (products)
        }
    """)
    weight = np.random.default_rng(0).standard_normal((256, 10), dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)


def run_bound(session: onnxruntime.InferenceSession, image: np.ndarray) -> np.ndarray:
    """Bind inputs and outputs once, and run without copies between them and the caller."""
    binding = session.io_binding()
    image_value = onnxruntime.OrtValue.ortvalue_from_numpy(image, "cpu", 0)
    binding.bind_input(
        name=session.get_inputs()[0].name,
        device_type=image_value.device_name(),
        device_id=0,
        element_type=np.float32,
        shape=image_value.shape(),
        buffer_ptr=image_value.data_ptr(),
    )
    scores = onnxruntime.OrtValue.ortvalue_from_shape_and_type([1, 10], np.float32, "cpu", 0)
    binding.bind_ortvalue_output("scores", scores)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0]


def main() -> None:
    image = np.random.default_rng(1).standard_normal((1, 256), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.onnx")
        save_classifier(model)
        for _ in range(2):
            start = time.perf_counter()
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            print(f"session after {time.perf_counter() - start:.2f} s")

        model_input = session.get_inputs()[0]
        print(f"{model_input.name}: {model_input.type} {model_input.shape}")
        print("producer:", session.get_modelmeta().producer_name)
        (scores,) = session.run(None, {model_input.name: image})
        same = np.array_equal(scores, run_bound(session, image))
        print(f"class {scores.argmax()}, the same through io_binding: {same}")


if __name__ == "__main__":
    main()
