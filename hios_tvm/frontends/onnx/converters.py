"""Converters of our own, for operators that TVM's frontend lacks or converts wrongly.

A converter takes the inputs of a node (`None` where an optional one is left out) and its
attributes, and returns one expression per output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

__all__ = ["CONVERTERS", "Converter"]

Converter = Callable[[Sequence[Any], Mapping[str, Any]], tuple[relax.Expr, ...]]


def cosh(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """TVM cannot compile vectors of its own operator."""
    (x,) = inputs
    half = relax.const(0.5, x.ty.dtype.dtype)
    both = relax.op.add(relax.op.exp(x), relax.op.exp(relax.op.negative(x)))
    return (relax.op.multiply(half, both),)


def sinh(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """TVM cannot compile vectors of its own operator."""
    (x,) = inputs
    number = partial(relax.const, dtype=x.ty.dtype.dtype)
    both = relax.op.subtract(relax.op.exp(x), relax.op.exp(relax.op.negative(x)))
    # Near zero the difference cancels; there x + x^3/6 + x^5/120 is exact enough.
    square = relax.op.multiply(x, x)
    series = relax.op.add(number(1 / 6), relax.op.multiply(square, number(1 / 120)))
    series = relax.op.add(number(1.0), relax.op.multiply(square, series))
    is_small = relax.op.less(relax.op.abs(x), number(0.1))
    large = relax.op.multiply(number(0.5), both)
    return (relax.op.where(is_small, relax.op.multiply(x, series), large),)


def dropout(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """Nothing is dropped at inference; TVM would keep a tuple that most passes stumble over."""
    x, ratio, training = (*inputs, None, None)[:3]
    is_inference = training is None or _is_zero(training)
    if not is_inference and not (ratio is not None and _is_zero(ratio)):
        raise ValueError("it is in training mode; export the model for inference")
    mask = np.ones([int(size) for size in x.ty.shape.values], bool)
    return x, relax.const(tvm.runtime.tensor(mask))


def is_inf(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """TVM ignores which sign to detect."""
    (x,) = inputs
    infinite = relax.op.isinf(x)
    zero = relax.const(0, x.ty.dtype.dtype)
    if not attributes.get("detect_negative", 1):
        infinite = relax.op.logical_and(infinite, relax.op.greater(x, zero))
    if not attributes.get("detect_positive", 1):
        infinite = relax.op.logical_and(infinite, relax.op.less(x, zero))
    return (infinite,)


def lp_normalization(
    inputs: Sequence[Any], attributes: Mapping[str, Any]
) -> tuple[relax.Expr, ...]:
    """Vectors along an axis, divided by their 1- or 2-norm."""
    (x,) = inputs
    axis = attributes.get("axis", -1)
    if attributes.get("p", 2) == 1:
        norm = relax.op.sum(relax.op.abs(x), axis=axis, keepdims=True)
    else:
        norm = relax.op.sqrt(relax.op.sum(relax.op.multiply(x, x), axis=axis, keepdims=True))
    zero = relax.const(0, x.ty.dtype.dtype)
    one = relax.const(1, x.ty.dtype.dtype)
    # The standard defines 0 / 0 as 0 here.
    return (relax.op.divide(x, relax.op.where(relax.op.equal(norm, zero), one, norm)),)


def mish(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """x * tanh(log(1 + e^x)), without the logarithm, where TVM loses digits."""
    (x,) = inputs
    number = partial(relax.const, dtype=x.ty.dtype.dtype)
    # Above, the result is x in this precision, and nothing below may overflow.
    most = 5.0 if x.ty.dtype.dtype == "float16" else 20.0
    power = relax.op.exp(relax.op.minimum(x, number(most)))
    top = relax.op.multiply(power, relax.op.add(power, number(2.0)))
    ratio = relax.op.divide(top, relax.op.add(top, number(2.0)))
    return (relax.op.multiply(x, ratio),)


def bit_shift(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """Shifts by a negative number, or by all bits and more, shift every bit out."""
    x, places = inputs
    dtype = str(x.ty.dtype.dtype)
    bits = np.iinfo(dtype).bits
    number = partial(relax.const, dtype=dtype)
    is_right = attributes["direction"] == b"RIGHT"
    all_but_sign = number(bits - 1 if is_right else 0)
    inside = relax.op.less(places, number(bits))
    if dtype.startswith("int"):
        inside = relax.op.logical_and(inside, relax.op.greater_equal(places, number(0)))
    shift = relax.op.right_shift if is_right else relax.op.left_shift
    shifted = shift(x, relax.op.where(inside, places, all_but_sign))
    if is_right and dtype.startswith("int"):
        return (shifted,)  # what is left of it is the sign
    return (relax.op.where(inside, shifted, number(0)),)


def mod(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """The remainder of floats has the divisor's sign: TVM's is not a number for infinite ones."""
    x, divisor = inputs
    is_float = isinstance(x.ty, relax.TensorType) and str(x.ty.dtype.dtype).startswith("float")
    if attributes.get("fmod", 0) or not is_float:
        block = relax.BlockBuilder.current()
        return (onnx_frontend.Mod._impl_v10(block, inputs, attributes, {}),)
    zero = relax.const(0, x.ty.dtype.dtype)
    differ = relax.op.logical_xor(relax.op.less(x, zero), relax.op.less(divisor, zero))
    same_sign = relax.op.logical_or(relax.op.equal(x, zero), relax.op.logical_not(differ))
    by_infinity = relax.op.logical_and(relax.op.isinf(divisor), relax.op.isfinite(x))
    remainder = relax.op.where(same_sign, x, divisor)
    return (relax.op.where(by_infinity, remainder, relax.op.floor_mod(x, divisor)),)


def softplus(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """log(1 + e^x), where TVM's converter loses the digits of a small e^x."""
    (x,) = inputs
    number = partial(relax.const, dtype=x.ty.dtype.dtype)
    power = relax.op.exp(relax.op.negative(relax.op.abs(x)))
    logarithm = relax.op.log(relax.op.add(power, number(1)))
    series = number(0)  # p - p^2/2 + p^3/3 - ...
    for i in range(9 if x.ty.dtype.dtype == "float64" else 4, 0, -1):
        term = relax.op.multiply(power, series)
        series = relax.op.subtract(number(1 / i), term)
    is_small = relax.op.less(power, number(0.01))
    logarithm = relax.op.where(is_small, relax.op.multiply(power, series), logarithm)
    return (relax.op.add(relax.op.maximum(x, number(0)), logarithm),)


def p_relu(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """TVM's own operator fails to compile for most shapes of the slope."""
    x, slope = inputs
    zero = relax.const(0, x.ty.dtype.dtype)
    positive = relax.op.maximum(x, zero)
    return (relax.op.add(positive, relax.op.multiply(slope, relax.op.minimum(x, zero))),)


def sequence_insert(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """TVM counts negative positions from behind the last tensor."""
    sequence, tensor, position = (*inputs, None)[:3]
    tensors = list(sequence)
    index = len(tensors)
    if position is not None:
        if not isinstance(position, tvm.ir.GenericConst):
            raise ValueError("its position depends on data")
        index = int(position.value.numpy())
    if not -len(tensors) <= index <= len(tensors):
        raise ValueError(f"position {index} is not in a sequence of {len(tensors)} tensors")
    index += len(tensors) if index < 0 else 0
    return (relax.Tuple([*tensors[:index], tensor, *tensors[index:]]),)


def split_to_sequence(
    inputs: Sequence[Any], attributes: Mapping[str, Any]
) -> tuple[relax.Expr, ...]:
    """The parts of a tensor along an axis; TVM's converter knows no ``keepdims=0``."""
    x, sizes = inputs[0], inputs[1] if len(inputs) > 1 else None
    axis, keep = int(attributes.get("axis", 0)), int(attributes.get("keepdims", 1))
    extent = int(x.ty.shape.values[axis])
    if sizes is None:
        starts = list(range(1, extent))
    elif not isinstance(sizes, tvm.ir.GenericConst):
        raise ValueError("its sizes depend on data; only static shapes can be compiled")
    else:
        given = sizes.value.numpy()
        starts = (
            np.cumsum(given)[:-1].tolist() if given.ndim else list(range(int(given), extent, given))
        )
    block = relax.BlockBuilder.current()
    parts = block.normalize(relax.op.split(x, starts, axis)) if starts else relax.Tuple([x])
    tensors = [block.normalize(relax.TupleGetItem(parts, i)) for i in range(len(starts) + 1)]
    if sizes is None and not keep:
        tensors = [block.normalize(relax.op.squeeze(tensor, axis)) for tensor in tensors]
    return (relax.Tuple(tensors),)


CONVERTERS: dict[str, Converter] = {
    "BitShift": bit_shift,
    "Cosh": cosh,
    "Dropout": dropout,
    "IsInf": is_inf,
    "LpNormalization": lp_normalization,
    "Mish": mish,
    "Mod": mod,
    "PRelu": p_relu,
    "SequenceInsert": sequence_insert,
    "Sinh": sinh,
    "Softplus": softplus,
    "SplitToSequence": split_to_sequence,
}


def _is_zero(value: Any) -> bool:
    return isinstance(value, tvm.ir.GenericConst) and not value.value.numpy().any()
