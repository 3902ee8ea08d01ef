"""``--verify``: outputs against a reference, and where they differ, since which operator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hios_tvm.cli.options import stdout
from hios_tvm.errors import ExecutionError, UsageError
from hios_tvm.verify import RTOL, deviations, first_difference, onnxruntime_outputs

if TYPE_CHECKING:
    import onnx

__all__ = ["check_outputs"]

Arrays = Mapping[str, np.ndarray]


def check_outputs(
    outputs: Arrays,
    inputs: Arrays,
    reference: Path,
    *,
    rtol: float = RTOL["fp32"],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Print how far `outputs` are from the reference.

    Parameters
    ----------
    reference : Path
        An ONNX model, run in ONNX Runtime on the same inputs, or recorded outputs (``.npz``).

    Raises
    ------
    ExecutionError
        If an output differs by more than `rtol` of its largest magnitude; with an ONNX model,
        the message names the first operator that differs.
    """
    if reference.suffix == ".npz":
        expected: Arrays = _recorded(reference)
    elif reference.suffix == ".onnx":
        expected = onnxruntime_outputs(_load(reference), inputs)
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
    wrong = [deviation.output for deviation in found if not deviation.within(rtol)]
    if not wrong:
        return
    message = f"{', '.join(wrong)} differ from {reference} by more than {rtol:g}"
    if reference.suffix == ".onnx":
        message += "; " + _blame(_load(reference), inputs, rtol, shapes or {})
    raise ExecutionError(message)


def _recorded(path: Path) -> dict[str, np.ndarray]:
    try:
        return dict(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read recorded outputs from {path}: {error}") from error


def _load(path: Path) -> onnx.ModelProto:
    import onnx

    model: onnx.ModelProto = onnx.load(path)
    return model


def _blame(
    model: onnx.ModelProto, inputs: Arrays, rtol: float, shapes: Mapping[str, tuple[int, ...]]
) -> str:
    """Say at which operator the kernels first differ from ONNX Runtime."""
    from hios_tvm.frontends.onnx import from_onnx
    from hios_tvm.passes.pipeline import lower
    from hios_tvm.passes.targets import host_target
    from hios_tvm.virtual_machine import virtual_machine_runner

    def run(cut: onnx.ModelProto, given: Arrays) -> dict[str, np.ndarray]:
        named = {name: shape for name, shape in shapes.items() if name in given}
        module = from_onnx(cut, shapes=named)
        return virtual_machine_runner(lower(module, host_target()), host_target(), given)()

    found = first_difference(model, inputs, run, rtol)
    if found is None:
        return "every kernel agrees on its own, so the fault is in the schedule or the runtime"
    operator, tensor = found
    return f"the first operator that differs is {operator}, which computes {tensor!r}"
