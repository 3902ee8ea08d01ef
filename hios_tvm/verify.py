"""Comparison of outputs with a reference, and the search for the first operator that differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hios_tvm.errors import HiosError, ModelError, UsageError
from hios_tvm.gpu_models import Precision

if TYPE_CHECKING:
    import onnx

__all__ = [
    "RTOL",
    "Deviation",
    "deviations",
    "first_difference",
    "onnxruntime_outputs",
    "random_inputs",
]

RTOL: Mapping[Precision, float] = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2}
"""Largest error that counts as equal, relative to the output's largest magnitude."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Deviation:
    """How far one output is from its reference: largest error over largest magnitude, cosine."""

    output: str
    max_error: float
    cosine: float

    def within(self, rtol: float) -> bool:
        """Whether the output counts as equal (NaN never does)."""
        return self.max_error <= rtol


def deviations(outputs: Arrays, reference: Arrays) -> tuple[Deviation, ...]:
    """Compare outputs of the same names.

    Raises
    ------
    UsageError
        If the names or shapes are not the same.
    """
    if outputs.keys() != reference.keys():
        raise UsageError(
            f"the reference holds {sorted(reference)}, the model returns {sorted(outputs)}"
        )
    return tuple(_deviation(name, outputs[name], reference[name]) for name in outputs)


def _deviation(name: str, output: np.ndarray, reference: np.ndarray) -> Deviation:
    if output.shape != reference.shape:
        raise UsageError(
            f"output {name!r} has shape {output.shape}, its reference {reference.shape}"
        )
    if output.size == 0:
        return Deviation(name, 0.0, 1.0)
    a = output.astype(np.float64).ravel()
    b = reference.astype(np.float64).ravel()
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # equal infinities, and NaN where it belongs
    error = float(np.max(np.abs(a[~same] - b[~same]), initial=0.0))
    magnitude = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))
    finite = np.isfinite(a) & np.isfinite(b)
    norms = float(np.linalg.norm(a[finite]) * np.linalg.norm(b[finite]))
    cosine = float(a[finite] @ b[finite]) / norms if norms else float(error == 0.0)
    return Deviation(name, error / magnitude if magnitude else error, cosine)


def random_inputs(
    specs: Sequence[tuple[str, tuple[int, ...], str]],
    seed: int,
    value_range: tuple[float, float] | None = None,
) -> dict[str, np.ndarray]:
    """Draw inputs of the given (name, shape, dtype): normal floats, or uniform in `value_range`.

    Integers are 0 or 1 unless a range is given, so that they are valid indices of any table.
    """
    rng = np.random.default_rng(seed)
    inputs: dict[str, np.ndarray] = {}
    for name, shape, dtype in specs:
        drawn: np.ndarray
        if np.issubdtype(np.dtype(dtype), np.floating):
            drawn = (
                rng.standard_normal(shape)
                if value_range is None
                else rng.uniform(*value_range, shape)
            )
        else:
            low, high = value_range or (0, 1)
            drawn = rng.integers(int(low), int(high), shape, endpoint=True)
        inputs[name] = np.asarray(drawn).astype(dtype)
    return inputs


def onnxruntime_outputs(model: onnx.ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    """Run `model` in ONNX Runtime.

    Raises
    ------
    UsageError
        If ONNX Runtime is not installed.
    ModelError
        If it cannot run the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "ONNX Runtime is not installed; run: pip install 'hios-tvm[onnxruntime]'"
        ) from error
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except (failures.Fail, failures.InvalidArgument, failures.NotImplemented) as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {error}") from error


def first_difference(
    model: onnx.ModelProto,
    inputs: Arrays,
    run: Callable[[onnx.ModelProto, Arrays], Arrays],
    rtol: float = RTOL["fp32"],
) -> tuple[str, str] | None:
    """Find the first node of `model` whose output differs from ONNX Runtime's, by bisection.

    The model is cut behind a node, both sides run what is left, and so on: about log2(nodes)
    compiles. `run` compiles and runs a cut model. Returns the node's operator and output, or
    None where no cut differs.
    """
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    low, high = 0, len(nodes)  # nodes before `low` agree; the first that differs is below `high`
    while low < high:
        middle = (low + high) // 2
        if _agrees(_cut_behind(model, nodes[middle]), inputs, run, rtol):
            low = middle + 1
        else:
            high = middle
    if low == len(nodes):
        return None
    return nodes[low].op_type, nodes[low].output[0]


def _agrees(
    model: onnx.ModelProto,
    inputs: Arrays,
    run: Callable[[onnx.ModelProto, Arrays], Arrays],
    rtol: float,
) -> bool:
    names = {value.name for value in model.graph.input}
    given = {name: array for name, array in inputs.items() if name in names}
    try:
        outputs = run(model, given)
    except HiosError:
        return False
    return all(d.within(rtol) for d in deviations(outputs, onnxruntime_outputs(model, given)))


def _cut_behind(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    """Return the part of `model` that computes the first output of `node`."""
    import onnx.utils

    inferred = onnx.shape_inference.infer_shapes(model)
    weights = {weight.name for weight in inferred.graph.initializer}
    inputs = [value.name for value in inferred.graph.input if value.name not in weights]
    extractor = onnx.utils.Extractor(inferred)
    cut: onnx.ModelProto = extractor.extract_model(inputs, [node.output[0]])
    read = {name for part in cut.graph.node for name in part.input}
    unread = [value for value in cut.graph.input if value.name not in read]
    for value in unread:
        cut.graph.input.remove(value)
    return cut
