"""How elements are quantized: scales, and the arithmetic that rounds to steps of 8 bits.

Results of convolutions and products of integers are scaled once, to steps of the result::

    y = uint8(clip(int32(round(float32(sums) * (scale of sums / scale of y))) + zero, low, high))

So is everything whose magnitude is known. Other numbers are divided by the scale, as ONNX has it,
and clipped before they are converted, since large ones do not fit into an integer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import Call

from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name

DEQUANTIZE, QUANTIZE = "relax.dequantize", "relax.quantize"

MOVES = (
    *("relax.expand_dims", "relax.flatten", "relax.permute_dims", "relax.reshape"),
    *("relax.squeeze", "relax.strided_slice"),
)
"""Operators that move elements of one tensor."""

LARGEST = "relax.nn.max_pool2d"

_SAFE = 2.0**30
"""Magnitudes up to this one are converted to ``int32`` before they are clipped."""

_DEEPEST = 16
"""Operators in a row that are looked at for a bound of a result."""


@dataclass(frozen=True)
class Scale:
    """What quantized tensors mean: numbers for the whole tensor, or vectors along an axis."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int

    @staticmethod
    def of(call: Call) -> Scale | None:
        """Return that of a (de)quantization; None where it is computed."""
        scale, zero = map(constant_value, call.args[1:])
        if scale is None or zero is None:
            return None
        if scale.size == zero.size == 1:
            scale, zero = scale.reshape(()), zero.reshape(())
        axis = int(call.attrs.axis) % max(1, call.args[0].ty.ndim)
        return Scale(scale.astype(np.float32), zero.astype(np.int64), axis)

    @property
    def is_number(self) -> bool:
        """Whether it holds for the whole tensor."""
        return self.scale.ndim == self.zero.ndim == 0

    def same_as(self, other: Scale) -> bool:
        """Whether both are the same numbers."""
        both = self.is_number and other.is_number
        return both and self.scale == other.scale and self.zero == other.zero

    def along(self, vector: np.ndarray, rank: int) -> np.ndarray:
        """Return a scale or zero point as it broadcasts to a tensor of `rank` axes."""
        if not vector.ndim:
            return vector
        return vector.reshape([-1 if i == self.axis else 1 for i in range(rank)])


def scaled(rewriter: Rewriter, sums: relax.Expr, scale: np.ndarray) -> relax.Expr:
    floats = rewriter.emit(relax.op.astype(rewriter.emit(sums), "float32"))
    return relax.op.multiply(floats, relax.const(scale))


def scaled_sums(rewriter: Rewriter, value: relax.Expr) -> tuple[relax.Expr, np.ndarray] | None:
    """Return the sums of ``int32`` and the scale that `value` is the product of."""
    product = rewriter.producer(value, ("relax.multiply",))
    if product is None:
        return None
    floats, scale = (
        rewriter.producer(product.args[0], ("relax.astype",)),
        constant_value(product.args[1]),
    )
    if floats is None or scale is None or dtype_of(floats.args[0]) != "int32":
        return None
    return floats.args[0], scale


def rounded(rewriter: Rewriter, value: relax.Expr, scale: Scale) -> relax.Expr:
    """Scale, round and clip elements; clipped values are clipped once."""
    value, low, high = _clipped(rewriter, value, scale)
    found, most = scaled_sums(rewriter, value), _magnitude(rewriter, value)
    if found is not None:
        sums, factor = found
        ratio = scaled(rewriter, sums, (factor / scale.scale).astype(np.float32))
    elif math.isfinite(most):
        ratio = relax.op.multiply(value, relax.const(np.asarray(1 / scale.scale, np.float32)))
    else:
        ratio = relax.op.divide(value, relax.const(scale.scale))
    steps = rewriter.emit(relax.op.round(rewriter.emit(ratio)))
    is_small = most / float(scale.scale) < _SAFE
    kind = "int32" if is_small else "float32"
    if is_small:
        steps = rewriter.emit(relax.op.astype(steps, kind))
    if scale.zero:
        steps = rewriter.emit(relax.op.add(steps, relax.const(int(scale.zero), kind)))
    steps = rewriter.emit(relax.op.maximum(steps, relax.const(low, kind)))
    steps = rewriter.emit(relax.op.minimum(steps, relax.const(high, kind)))
    return relax.op.astype(steps, "uint8")


def _clipped(rewriter: Rewriter, value: relax.Expr, scale: Scale) -> tuple[relax.Expr, int, int]:
    """Return what `value` clips, and its bounds as steps: rounding keeps the order."""
    call = rewriter.producer(value, ("relax.nn.relu", "relax.clip"))
    if call is None:
        return value, 0, 255
    low, high = 0.0, math.inf
    if operator_name(call) == "relax.clip":
        low, high = (float(bound.value) for bound in call.args[1:])
    if math.isnan(low) or math.isnan(high):
        return value, 0, 255

    def step(bound: float) -> int:
        steps = float(np.rint(np.float64(bound) / scale.scale)) + float(scale.zero)
        return int(min(max(steps, 0.0), 255.0))

    return call.args[0], step(low), step(high)


def _magnitude(rewriter: Rewriter, value: relax.Expr, depth: int = _DEEPEST) -> float:
    """Return the largest magnitude that an element of `value` can have, infinity if unknown."""
    array = constant_value(value)
    if array is not None:
        return float(np.abs(array.astype(np.float64)).max(initial=0))
    call = rewriter.producer(value)
    name = "" if call is None else operator_name(call)
    if call is None or not depth:
        limits = {"uint8": 255.0, "int8": 128.0}
        return limits.get(dtype_of(value), math.inf)

    def of(operand: relax.Expr) -> float:
        return _magnitude(rewriter, operand, depth - 1)

    if name == DEQUANTIZE:
        scale = Scale.of(call)
        limit = math.inf if scale is None else float(np.abs(scale.zero).max()) + 255
        return math.inf if scale is None else limit * float(scale.scale.max())
    if name in ("relax.add", "relax.subtract"):
        return of(call.args[0]) + of(call.args[1])
    if name == "relax.multiply":
        return of(call.args[0]) * of(call.args[1])
    if name in ("relax.nn.conv2d", "relax.matmul"):
        weight = constant_value(call.args[1])
        if weight is None or not weight.size:
            return math.inf
        by_output = weight if name == "relax.nn.conv2d" else np.moveaxis(weight, -1, 0)
        sums = np.abs(by_output.astype(np.float64)).reshape(by_output.shape[0], -1).sum(1)
        return of(call.args[0]) * float(sums.max())
    if name in _UP_TO_ONE:
        return 1.0
    if name in _BOUNDED:
        return min(of(call.args[0]), {"uint8": 255.0, "int8": 128.0}.get(dtype_of(value), math.inf))
    return {"uint8": 255.0, "int8": 128.0}.get(dtype_of(value), math.inf)


_BOUNDED = frozenset(
    (
        *(*MOVES, LARGEST, "relax.astype", "relax.mean", "relax.nn.avg_pool2d"),
        *("relax.nn.gelu", "relax.nn.gelu_tanh", "relax.nn.relu", "relax.nn.silu"),
    )
)
"""Operators whose results are no larger than their operand."""

_UP_TO_ONE = frozenset(("relax.erf", "relax.nn.softmax", "relax.sigmoid", "relax.tanh"))
"""Operators whose results have magnitudes up to 1."""


def dtype_of(value: relax.Expr) -> str:
    return str(value.ty.dtype.dtype) if isinstance(value.ty, relax.TensorType) else ""
