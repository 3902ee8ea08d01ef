"""``run --verify``: outputs against an ONNX model or recorded outputs."""

from pathlib import Path

from hios_tvm.cli.console import stdout
from hios_tvm.errors import ExecutionError, UsageError
from hios_tvm.runtime.numpy_files import read_numpy
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
        recorded = read_numpy(reference)
        expected: Arrays = recorded if isinstance(recorded, dict) else {}
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
