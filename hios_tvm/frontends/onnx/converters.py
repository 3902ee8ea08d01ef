"""Converters of our own, for operators that TVM's frontend lacks or converts wrongly.

A converter takes the inputs of a node (`None` where an optional one is left out) and its
attributes, and returns one expression per output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

__all__ = ["CONVERTERS", "Converter"]

Converter = Callable[[Sequence[Any], Mapping[str, Any]], tuple[relax.Expr, ...]]


def dropout(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """Nothing is dropped at inference; TVM would keep a tuple that most passes stumble over."""
    x, *options = inputs
    training = options[1] if len(options) > 1 else None
    if training is not None and not _is_false(training):
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


def p_relu(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[relax.Expr, ...]:
    """TVM's own operator fails to compile for most shapes of the slope."""
    x, slope = inputs
    zero = relax.const(0, x.ty.dtype.dtype)
    positive = relax.op.maximum(x, zero)
    return (relax.op.add(positive, relax.op.multiply(slope, relax.op.minimum(x, zero))),)


CONVERTERS: dict[str, Converter] = {
    "Dropout": dropout,
    "IsInf": is_inf,
    "LpNormalization": lp_normalization,
    "PRelu": p_relu,
}


def _is_false(value: Any) -> bool:
    return isinstance(value, tvm.ir.GenericConst) and not value.value.numpy().any()
