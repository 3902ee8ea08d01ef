"""Fourier transforms, and the windows and filters around them.

Lengths are known at import, so that a transform is a product with a constant matrix.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import helper
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value, normalized_axis
from hios_tvm.frontends.tensors import constant, dtype_of, shape_of


def dft(call: OperatorCall) -> Value:
    """Before version 20 the axis is an attribute, counted from 1."""
    attributes = call.attributes
    x = call.tensor(0)
    rank = len(shape_of(x))
    inverse, onesided = attributes.flag("inverse"), attributes.flag("onesided")
    if call.version < 20:
        axis = call.axis(rank, default=1)
    else:
        given = call.integers(2, "the values of its axis")
        axis = normalized_axis(-2 if given is None else given[0], rank)
    if axis == rank - 1:
        raise ValueError("its axis is the last one, which holds real and imaginary parts")
    given_length = call.integers(1, "the values of its length")
    size = shape_of(x)[axis]
    default = 2 * (size - 1) if inverse and onesided else size
    length = default if given_length is None else given_length[0]
    if length < 1:
        raise ValueError(f"its length is {length}; it must be positive")
    parts = _parts(x)
    if onesided and not inverse and parts == 2:
        raise ValueError("onesided needs a real input")
    used = min(size, length)
    if inverse and onesided:
        used = min(size, length // 2 + 1)
        matrix = _real_inverse(used, length)[:parts]
    else:
        bins = length // 2 + 1 if onesided else length
        matrix = _transform(used, bins, length, inverse=inverse)[:parts]
    if used < size:
        x = call.emit(relax.op.strided_slice(x, [axis], [0], [used]))
    return _along_axis(call, x, axis, matrix)


def stft(call: OperatorCall) -> Value:
    """Frames of a signal, each times a window and transformed: one product for all frames."""
    onesided = call.attributes.flag("onesided", True)
    signal = call.tensor(0)
    if len(shape_of(signal)) == 2:  # older texts of the standard leave out the axis of parts
        signal = call.reshape(signal, [*shape_of(signal), 1])
    batch, samples, _ = shape_of(signal)
    parts = _parts(signal)
    if onesided and parts == 2:
        raise ValueError("onesided needs a real signal")
    (step,) = call.integers(1, "the values of its step") or (0,)
    window = call.optional_tensor(2)
    length = _frame_length(call, window, samples)
    if step < 1 or not 1 <= length <= samples:
        raise ValueError(f"frames of {length} every {step} samples do not fit {samples} samples")
    count = (samples - length) // step + 1

    def element(at: tuple[tirx.Var, ...], x: te.Tensor, *windows: te.Tensor) -> tirx.Expr:
        b, frame, i, part = at
        value = x[b, frame * step + i, part]
        for factor in windows:
            value = value * factor[i]
        return value

    windows = [] if window is None else [window]
    framed = call.elements((batch, count, length, parts), element, signal, *windows)
    bins = length // 2 + 1 if onesided else length
    return _along_axis(call, framed, 2, _transform(length, bins, length, inverse=False)[:parts])


def _frame_length(call: OperatorCall, window: relax.Expr | None, samples: int) -> int:
    given = call.integers(3, "the values of its frame length")
    size = samples if window is None else shape_of(window)[0]
    if given is None:
        return size
    if window is not None and given[0] != size:
        raise ValueError(f"its window has {size} elements, its frames {given[0]}")
    return given[0]


def _parts(x: relax.Expr) -> int:
    parts = shape_of(x)[-1]
    if parts not in (1, 2):
        raise ValueError(f"its last axis must hold 1 or 2 parts of a number, not {parts}")
    return parts


def _transform(size: int, bins: int, length: int, *, inverse: bool) -> np.ndarray:
    """A transform as ``(part of input, element, bin, part of output)``."""
    # Exact angles: the product of the indices may be large, its remainder is not
    turns = np.outer(np.arange(size), np.arange(bins)) % length / length
    angles = 2 * np.pi * turns * (1 if inverse else -1)
    real, imaginary = np.cos(angles), np.sin(angles)
    matrix = np.stack([np.stack([real, imaginary], axis=-1), np.stack([-imaginary, real], axis=-1)])
    result: np.ndarray = matrix / length if inverse else matrix
    return result


def _real_inverse(size: int, length: int) -> np.ndarray:
    """The inverse of a onesided transform: bins in the middle stand for two each."""
    matrix: np.ndarray = _transform(size, length, length, inverse=True)[..., :1]
    weights = np.full(size, 2.0)
    weights[0] = 1
    if length % 2 == 0 and size == length // 2 + 1:
        weights[-1] = 1
    result: np.ndarray = matrix * weights[:, None, None]
    return result


def _along_axis(call: OperatorCall, x: relax.Expr, axis: int, matrix: np.ndarray) -> relax.Expr:
    """Transform an axis in front of the one of real and imaginary parts."""
    parts, size, bins, out_parts = matrix.shape
    *others, _ = (i for i in range(len(shape_of(x))) if i != axis)
    last = len(shape_of(x)) - 1
    rows = call.permute(x, [*others, axis, last])
    outer = [shape_of(x)[i] for i in others]
    count = int(np.prod(outer, dtype=np.int64))
    rows = call.reshape(rows, [count, size * parts])
    weights = matrix.transpose(1, 0, 2, 3).reshape(size * parts, bins * out_parts)
    result = call.emit(relax.op.matmul(rows, constant(weights, dtype_of(x))))
    result = call.reshape(result, [*outer, bins, out_parts])
    back = [*range(axis), len(others), *range(axis, len(others)), last]
    return call.permute(result, back)


# --- Windows and filters, which depend on constants alone ---


def _window(formula: Callable[[np.ndarray], np.ndarray]) -> Converter:
    """A window by its values from a place of 0, its begin, to 1, its end."""

    def convert(call: OperatorCall) -> Value:
        (size,) = call.integers(0, "the values of its size") or (0,)
        if size < 0:
            raise ValueError(f"its size is {size}; it must not be negative")
        dtype = _output_dtype(call)
        intervals = size if call.attributes.flag("periodic", True) else size - 1
        places = np.arange(size) / max(intervals, 1)
        return constant(formula(places), dtype)

    return convert


def _cosines(*weights: float) -> Callable[[np.ndarray], np.ndarray]:
    def formula(places: np.ndarray) -> np.ndarray:
        terms = [w * np.cos(2 * np.pi * i * places) for i, w in enumerate(weights)]
        total: np.ndarray = np.sum(terms, axis=0)
        return total

    return formula


def mel_weight_matrix(call: OperatorCall) -> Value:
    """Triangular filters, equally wide on the mel scale; edges are bins of the spectrum."""
    bins, length, rate = (int(call.constant(i, "its settings").item()) for i in range(3))
    low, high = (float(call.constant(i, "its settings").item()) for i in (3, 4))
    dtype = _output_dtype(call)

    def mel(hertz: float) -> float:
        return float(2595 * np.log10(1 + hertz / 700))

    step = (mel(high) - mel(low)) / (bins + 2)
    mels = np.arange(bins + 2) * step + mel(low)
    hertz = 700 * (10 ** (mels / 2595) - 1)
    edges = ((length + 1) * hertz // rate).astype(np.int64)
    spectrum = length // 2 + 1
    if bins < 1 or edges.min() < 0 or edges.max() > spectrum:
        raise ValueError("its edges lie outside the spectrum")
    matrix = np.zeros((spectrum + 1, bins))
    for i in range(bins):
        _add_triangle(matrix[:, i], edges[i : i + 3].tolist())
    return constant(matrix[:spectrum], dtype)


def _add_triangle(column: np.ndarray, edges: Sequence[int]) -> None:
    left, center, right = edges
    if left == center:
        column[center] = 1
    else:
        rising = np.arange(left, center + 1)
        column[rising] = (rising - left) / (center - left)
    if right > center:
        falling = np.arange(center, right)
        column[falling] = (right - falling) / (right - center)


def _output_dtype(call: OperatorCall) -> str:
    element = call.attributes.integer("output_datatype", 1)
    return str(helper.tensor_dtype_to_np_dtype(element).name)


OPERATORS: Mapping[str, Converter] = {
    "BlackmanWindow": _window(_cosines(0.42, -0.5, 0.08)),
    "DFT": dft,
    "HammingWindow": _window(_cosines(25 / 46, -21 / 46)),
    "HannWindow": _window(_cosines(0.5, -0.5)),
    "MelWeightMatrix": mel_weight_matrix,
    "STFT": stft,
}
