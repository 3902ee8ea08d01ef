"""Legalizations of operators on single elements that TVM's own compute wrongly.

TVM's maximum of a number and NaN may be the number. Here the comparison is written so that NaN
stays; with a constant bound, x86 still needs one instruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import tvm
from tvm import relax, te, tirx, topi
from tvm.ir import Call

from hios_tvm.passes.dataflow import constant_value, operator_name

__all__ = [
    "legalize_cast",
    "legalize_clip",
    "legalize_extreme",
    "legalize_not",
    "legalize_not_equal",
    "legalize_relu",
]

_FLOATS = ("bfloat16", "float16", "float32", "float64")
_OPAQUE = 8  # TVM's number of the pattern of kernels that nothing is fused with

Function = Callable[[tirx.Expr], tirx.Expr]


def legalize_relu(
    builder: relax.BlockBuilder, call: Call, _target: tvm.target.Target
) -> relax.Expr | None:
    """Return a rectifier of floats that returns NaN for NaN."""
    if _dtype(call) not in _FLOATS:
        return None
    return _elementwise(builder, call.args[0], lambda x: _bounded(x, 0.0, is_max=True), "relu")


def legalize_clip(
    builder: relax.BlockBuilder, call: Call, _target: tvm.target.Target
) -> relax.Expr | None:
    """Return a clipping of floats that returns NaN for NaN; the upper bound wins."""
    if _dtype(call) not in _FLOATS:
        return None
    low, high = (float(bound.value) for bound in call.args[1:])

    def clip(x: tirx.Expr) -> tirx.Expr:
        return _bounded(_bounded(x, low, is_max=True), high, is_max=False)

    return _elementwise(builder, call.args[0], clip, "clip")


def legalize_extreme(
    builder: relax.BlockBuilder, call: Call, _target: tvm.target.Target
) -> relax.Expr | None:
    """Return the maximum or minimum of two tensors of floats: NaN if either is NaN."""
    if _dtype(call) not in _FLOATS:
        return None
    is_max = operator_name(call) == "relax.maximum"
    hint = "maximum" if is_max else "minimum"
    left, right = call.args
    for bound, tensor in ((right, left), (left, right)):
        array = constant_value(bound)
        if array is not None and array.ndim == 0 and not math.isnan(float(array)):
            bounded = partial(_bounded, number=float(array), is_max=is_max)
            return _elementwise(builder, tensor, bounded, hint)
    return builder.call_te(
        lambda a, b: _extreme(a, b, is_max=is_max), left, right, primfunc_name_hint=hint
    )


def legalize_not(builder: relax.BlockBuilder, call: Call, _target: tvm.target.Target) -> relax.Expr:
    """Return a negation that TVM does not turn into the opposite comparison.

    With NaN, a comparison and its opposite are both false.
    """
    return _elementwise(builder, call.args[0], _negated, "logical_not")


def legalize_not_equal(
    builder: relax.BlockBuilder, call: Call, _target: tvm.target.Target
) -> relax.Expr | None:
    """Return a comparison of floats in which NaN differs from everything."""
    left, right = call.args
    if _dtype(left) not in _FLOATS:
        return None

    def differ(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        equal = topi.equal(a, b)
        return te.compute(equal.shape, lambda *at: _negated(equal(*at)), name="compute")

    return builder.call_te(differ, left, right, primfunc_name_hint="not_equal")


def legalize_cast(
    builder: relax.BlockBuilder, call: Call, _target: tvm.target.Target
) -> relax.Expr | None:
    """Return a conversion from or to bfloat16 as a kernel of its own, or None for other types.

    TVM repeats what it converts. Where that binds names, as exponentials do after `VectorMath`, it
    refuses the kernel or gives wrong numbers.
    """
    (data,) = call.args
    dtype = _dtype(call)
    if "bfloat16" not in (dtype, _dtype(data)):
        return None
    return builder.call_te(
        lambda x: topi.cast(x, dtype),
        data,
        primfunc_name_hint="cast",
        primfunc_attrs={"op_pattern": _OPAQUE},
    )


def _dtype(value: relax.Expr) -> str:
    return str(value.ty.dtype.dtype)


def _elementwise(
    builder: relax.BlockBuilder, data: relax.Expr, function: Function, hint: str
) -> relax.Expr:
    return builder.call_te(
        lambda x: te.compute(x.shape, lambda *at: function(x(*at)), name="compute"),
        data,
        primfunc_name_hint=hint,
    )


def _negated(condition: tirx.Expr) -> tirx.Expr:
    return tirx.Cast("uint8", condition) == tirx.const(0, "uint8")


def _bounded(x: tirx.Expr, number: float, *, is_max: bool) -> tirx.Expr:
    bound = tirx.const(number, x.ty)
    return tirx.Select(x < bound if is_max else x > bound, bound, x)


def _extreme(left: te.Tensor, right: te.Tensor, *, is_max: bool) -> te.Tensor:
    """The right tensor stands once, so that long chains stay short: TVM fuses by repeating."""
    extreme = topi.maximum(left, right) if is_max else topi.minimum(left, right)
    # TVM's own returns `right` if one is NaN; its isnan does not take bfloat16
    is_none = topi.isnan(topi.cast(left, "float32") if left.dtype == "bfloat16" else left)
    return topi.where(is_none, left, extreme)
