"""``run --verify``: outputs against an ONNX model or recorded outputs."""

from pathlib import Path

import numpy as np

from hios_tvm.cli.options import stdout
from hios_tvm.errors import ExecutionError, UsageError
from hios_tvm.verification.deviation import Arrays, Tolerance, deviations


def check_outputs(outputs: Arrays, inputs: Arrays, reference: Path, tolerance: Tolerance) -> None:
    """Print how far `outputs` are from the reference.

    Parameters
    ----------
    reference : Path
        An ONNX model, run in ONNX Runtime on the same inputs, or recorded outputs (``.npz``).

    Raises
    ------
    ExecutionError
        If an output differs by more than the tolerance.
    """
    if reference.suffix == ".npz":
        expected: Arrays = _recorded(reference)
    elif reference.suffix == ".onnx":
        from hios_tvm.verification.onnx_reference import onnxruntime_outputs

        expected = onnxruntime_outputs(reference, inputs)
    else:
        raise UsageError(
            f"--verify needs an ONNX model or recorded outputs (.npz), not {reference}"
        )
    found = deviations(outputs, expected)
    for deviation in found:
        stdout().print(
            f"{deviation.output}: largest error {deviation.max_error:.1e} of the largest "
            f"magnitude, cosine {deviation.cosine:.6f}"
        )
    wrong = [deviation.output for deviation in found if not deviation.within(tolerance)]
    if not wrong:
        return
    message = f"{', '.join(wrong)} differ from {reference} by more than {tolerance.rtol:g}"
    if reference.suffix == ".onnx":
        message += (
            f"; hios-tvm compile {reference} --dump-reproducer FOLDER finds the first operator "
            "that differs"
        )
    raise ExecutionError(message)


def _recorded(path: Path) -> dict[str, np.ndarray]:
    try:
        return dict(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read recorded outputs from {path}: {error}") from error
