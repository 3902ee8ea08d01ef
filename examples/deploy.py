"""Sign an artifact on the build machine, and run it as a deployment machine would.

    python examples/deploy.py

The second half runs in a process of its own that imports `hios_tvm.runtime` alone: neither the
compiler nor ONNX, and of TVM only its runtime libraries.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hios_tvm import CompileOptions, compile_model, zoo
from hios_tvm.artifact.sign import sign_artifact, write_new_key
from hios_tvm.frontends.onnx import from_onnx

DEPLOYED = """
import sys
import numpy as np
import hios_tvm.runtime

artifact, public_key = sys.argv[1:]
with hios_tvm.runtime.load(artifact, verify_key=public_key) as session:
    inputs = {spec.name: np.ones(spec.shape, spec.dtype) for spec in session.manifest.inputs}
    for name, output in session.run(inputs).items():
        print(f"{name}: shape {output.shape}, largest class {output.argmax()}")
print("compiler imported:", "hios_tvm.compiler" in sys.modules)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        artifact, key = Path(folder, "model.hios"), Path(folder, "build.pem")
        device = f"cpu@{min(os.sched_getaffinity(0))}"
        module = from_onnx(zoo.build("squeezenet1_1", height=64, width=64))
        compile_model(module, artifact, CompileOptions(devices=(device,)))
        public_key = write_new_key(key)
        sign_artifact(artifact, key)

        subprocess.run([sys.executable, "-c", DEPLOYED, artifact, public_key], check=True)


if __name__ == "__main__":
    main()
