"""Quotients and remainders of integers, which some operands do not have.

Processors trap at a division by zero, and at the least number divided by -1. Kernels do not divide
by those; a run whose inputs lead to them ends with an error, a constant divisor of zero is an error
of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import numpy as np
from tvm import relax, te, tirx, topi

from hios_tvm.frontends.tensors import TensorBuilder, array_of, dtype_of, shape_of
from hios_tvm.schema.value_checks import INTEGER_DIVISION, OPERATOR

Part = Literal["quotient", "floor", "remainder", "modulus"]
"""The quotient towards zero, that towards minus infinity, and what each leaves."""


def divided(call: TensorBuilder, left: relax.Expr, right: relax.Expr, part: Part) -> relax.Expr:
    """Divide integers, elements of tensors that broadcast."""
    known = array_of(left), array_of(right)
    why = why_undefined(*known, part)
    if why:
        raise call.error(why)

    attributes = {}
    if known[1] is None or (part in ("quotient", "floor") and (known[1] == -1).any()):
        attributes = {INTEGER_DIVISION: part in ("quotient", "floor"), OPERATOR: call.operator}
    function = partial(elementwise, _PARTS[part])
    return call.compute(function, left, right, primfunc_attrs=attributes)


def divisors(call: TensorBuilder, values: relax.Expr) -> relax.Expr:
    """Return positive integers to divide by, for kernels that do it unchecked."""
    known = array_of(values)
    if known is not None and known.min(initial=1) < 1:
        raise call.error(f"it divides integers by {known.min()}")
    one = tirx.const(1, dtype_of(values))

    def at_least_one(
        position: tuple[tirx.Var, ...], _dividends: te.Tensor, divisors: te.Tensor
    ) -> tirx.Expr:
        return tirx.max(divisors(*position), one)

    attributes = {INTEGER_DIVISION: False, OPERATOR: call.operator}
    return call.elements(shape_of(values), at_least_one, values, values, primfunc_attrs=attributes)


def elementwise(
    function: Callable[[tirx.Expr, tirx.Expr], tirx.Expr], left: te.Tensor, right: te.Tensor
) -> te.Tensor:
    """A function of the elements of two tensors that broadcast."""
    left, right = broadcast(left, right)
    return te.compute(left.shape, lambda *at: function(left(*at), right(*at)), name="elementwise")


def broadcast(*tensors: te.Tensor) -> list[te.Tensor]:
    """Tensors with elements repeated, so that all have one shape."""
    shape = np.broadcast_shapes(*(tuple(int(n) for n in t.shape) for t in tensors))
    return [topi.broadcast_to(tensor, shape) for tensor in tensors]


def why_undefined(left: np.ndarray | None, right: np.ndarray | None, part: Part) -> str | None:
    """Return why a division of integers has no result, as far as operands are known."""
    if right is None or right.size == 0 or (left is not None and left.size == 0):
        return None
    if (right == 0).any():
        return "it divides integers by 0"
    if left is not None and part in ("quotient", "floor") and left.dtype.kind == "i":
        least = np.iinfo(left.dtype).min
        if ((left == least) & (right == -1)).any():
            return f"it divides {least} by -1, and the result does not fit {left.dtype}"
    return None


def _is_trap(divisor: tirx.Expr) -> tirx.Expr:
    """Whether processors may trap: division by zero, and of the least number by -1."""
    is_zero = divisor == tirx.const(0, divisor.ty)
    if not _is_signed(divisor):
        return is_zero
    return tirx.any(is_zero, divisor == tirx.const(-1, divisor.ty))


def _quotient(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The quotient towards zero; that by zero is zero, as NumPy's."""
    zero, one = tirx.const(0, a.ty), tirx.const(1, a.ty)
    quotient = tirx.truncdiv(a, tirx.Select(_is_trap(b), one, b))
    special = tirx.Select(b == zero, zero, zero - a)
    return tirx.Select(_is_trap(b), special, quotient)


def _floor(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    quotient = _quotient(a, b)
    if not _is_signed(a):
        return quotient
    remainder = _remainder(a, b)
    is_above = tirx.all(remainder != tirx.const(0, a.ty), differ_in_sign(remainder, b))
    return quotient - tirx.Select(is_above, tirx.const(1, a.ty), tirx.const(0, a.ty))


def _remainder(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    zero, one = tirx.const(0, a.ty), tirx.const(1, a.ty)
    remainder = tirx.truncmod(a, tirx.Select(_is_trap(b), one, b))
    return tirx.Select(_is_trap(b), zero, remainder)


def _modulus(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    zero = tirx.const(0, a.ty)
    remainder = _remainder(a, b)
    if not _is_signed(a):
        return remainder
    crosses = tirx.all(remainder != zero, differ_in_sign(remainder, b))
    return remainder + tirx.Select(crosses, b, zero)


def differ_in_sign(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Whether one of two numbers is negative; TVM cannot compare the two truth values."""
    zero = tirx.const(0, a.ty)
    return tirx.any(tirx.all(a < zero, b >= zero), tirx.all(a >= zero, b < zero))


def _is_signed(value: tirx.Expr) -> bool:
    return not str(value.ty.dtype).startswith("u")


_PARTS: Mapping[Part, Callable[[tirx.Expr, tirx.Expr], tirx.Expr]] = {
    "quotient": _quotient,
    "floor": _floor,
    "remainder": _remainder,
    "modulus": _modulus,
}
