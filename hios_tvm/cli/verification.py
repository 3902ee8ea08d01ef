"""``run --verify``: outputs against an ONNX model or recorded outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hios_tvm.cli.console import stdout
from hios_tvm.errors import ExecutionError, UsageError
from hios_tvm.runtime.numpy_files import read_numpy
from hios_tvm.verification.deviation import Arrays, Tolerance, deviations

if TYPE_CHECKING:
    from hios_tvm.verification.onnx_reference import OnnxReference


@dataclass(frozen=True)
class Expected:
    """What outputs are compared with: an ONNX model, or outputs that were recorded for it."""

    path: Path
    model: OnnxReference | None = None
    recorded: Arrays | None = None

    @staticmethod
    def read(path: Path) -> Expected:
        """Read a file, before there is anything to compare.

        Raises
        ------
        UsageError
            If it is of another kind, damaged, or needs ONNX Runtime, which is not installed.
        """
        if path.suffix == ".npz":
            recorded = read_numpy(path)
            return Expected(path, recorded=recorded if isinstance(recorded, dict) else {})
        if path.suffix != ".onnx":
            raise UsageError(f"--verify needs an ONNX model or recorded outputs (.npz), not {path}")
        from hios_tvm.verification.onnx_reference import OnnxReference

        model = OnnxReference(path)
        _ = model.runner
        return Expected(path, model=model)

    def outputs(self, inputs: Arrays) -> Arrays:
        """Return the outputs for `inputs`."""
        if self.recorded is not None:
            return self.recorded
        assert self.model is not None
        return self.model.run(inputs)


def check_outputs(
    outputs: Arrays, inputs: Arrays, expected: Expected, tolerance: Tolerance
) -> None:
    """Print how far `outputs` are from what is expected.

    Raises
    ------
    ExecutionError
        If an output differs by more than the tolerance.
    """
    found = deviations(outputs, expected.outputs(inputs))
    for deviation in found:
        stdout().print(
            f"{deviation.output}: largest error {deviation.max_error:.1e} of the largest "
            f"magnitude, cosine {deviation.cosine:.6f}"
        )
    wrong = [deviation.output for deviation in found if not deviation.within(tolerance)]
    if not wrong:
        return
    message = f"{', '.join(wrong)} differ from {expected.path} by more than {tolerance.rtol:g}"
    if expected.path.suffix == ".onnx":
        message += (
            f"; hios-tvm compile {expected.path} --dump-reproducer FOLDER finds the first operator "
            "that differs"
        )
    raise ExecutionError(message)
