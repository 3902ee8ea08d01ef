"""A pass that writes exponentials and their kin as arithmetic, which becomes vectors.

LLVM calls the C library for every element of a vector otherwise. Polynomials were fitted to the
functions in double precision; in single precision results are within a few units in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, IRModule
from tvm.tirx import Expr, For, ForKind, Select, Stmt

__all__ = ["VectorMath"]


@tvm.transform.module_pass(opt_level=0, name="VectorMath")
class VectorMath:
    """Replace `exp`, `sigmoid`, `tanh` and `erf` of single precision in all kernels.

    Of functions of functions, only the innermost are replaced.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        mod = mod.clone()
        for var, func in list(mod.functions_items()):
            if isinstance(func, tirx.PrimFunc):
                kept = _not_in_vectors(func.body)
                replaced = partial(_replaced_unless, kept)
                mod[var] = func.with_body(tvm_ffi.structural_map(func.body, [(Call, replaced)]))
        return mod


def _not_in_vectors(body: Stmt) -> list[Call]:
    """Return the calls in loops over lanes that no vector computes, as they gain nothing.

    Some compute one number for all lanes. Others are in a loop that TVM 0.27 computes lane by lane,
    since it calls what has no form for vectors, such as a function of C. In both TVM would refuse
    names ("Let cannot bind the same var to two different values").
    """
    found: list[Call] = []

    def visit_loop(loop: For) -> For:
        calls: list[Call] = []

        def visit_call(call: Call) -> Call:
            calls.append(call)
            return call

        if loop.kind == ForKind.VECTORIZED:
            tvm_ffi.structural_map(loop.body, [(Call, visit_call)])
        by_lane = not all(map(_has_vectors, calls))
        found.extend(
            call
            for call in calls
            if _function(call) is not None and (by_lane or not _reads(call, loop.loop_var))
        )
        return loop

    tvm_ffi.structural_map(body, [(For, visit_loop)])
    return found


def _has_vectors(call: Call) -> bool:
    known = _function(call) is not None or call.op.name in ("tirx.isnan", "tirx.reinterpret")
    return known or bool(call.op.get_attr("TVectorizable"))


def _reads(value: Expr, var: tirx.Var) -> bool:
    found: list[bool] = []

    def visit(other: tirx.Var) -> tirx.Var:
        found.append(bool(other.same_as(var)))
        return other

    tvm_ffi.structural_map(value, [(tirx.Var, visit)])
    return any(found)


def _replaced_unless(kept: Sequence[Call], call: Call) -> Expr:
    return call if any(call.same_as(other) for other in kept) else _replaced(call)


Then = Callable[[Expr], Expr]
"""What is computed from a result. Names lie one in the other and never in a value of another name:
TVM puts values into each other while it generates code, and each name must have one."""


def _replaced(call: Call) -> Expr:
    function = _function(call)
    if function is None or str(call.ty.dtype) != "float32" or _is_composed(call.args[0]):
        return call
    return _named(call.args[0], lambda x: function(x, lambda result: result))


def _function(call: Call) -> Callable[[Expr, Then], Expr] | None:
    return _FUNCTIONS.get(str(getattr(call.op, "name", "")))


def _is_composed(argument: Expr) -> bool:
    """Whether another of the functions is part of `argument`.

    TVM 0.27 puts the values of names into each other while it generates code: a function of a
    function of a function would take it minutes.
    """
    found = []

    def meet_call(call: Call) -> Call:
        found.append(_function(call) is not None)
        return call

    def meet_name(let: tirx.Let) -> tirx.Let:
        found.append(True)
        return let

    tvm_ffi.structural_map(argument, [(Call, meet_call), (tirx.Let, meet_name)])
    return any(found)


def _named(value: Expr, then: Then) -> Expr:
    """Compute `value` once, however often what follows reads it."""
    name = tirx.Var("x", "float32")
    return tirx.Let(name, value, then(name))


def _exp(x: Expr, then: Then) -> Expr:
    """2^n e^r for the nearest n, and -ln 2 / 2 <= r <= ln 2 / 2; below 2e-38 it is zero."""

    def from_inside(inside: Expr) -> Expr:
        power = tirx.floor(inside * _number(1.0 / math.log(2.0)) + _number(0.5))
        return _named(power, lambda n: from_power(inside, n))

    def from_power(inside: Expr, n: Expr) -> Expr:
        # In two steps, of which the first is exact: n has few digits, and the first of ln 2 too.
        rest = inside - n * _number(_LN2_HIGH) - n * _number(_LN2_LOW)
        bits = (tirx.Cast("int32", n) + tirx.const(126, "int32")) << tirx.const(23, "int32")
        half_power = tirx.reinterpret("float32", bits)
        return _named(rest, lambda r: from_rest(_polynomial(_EXP, r), half_power))

    def from_rest(polynomial: Expr, half_power: Expr) -> Expr:
        result = polynomial * half_power * _number(2.0)
        return _named(Select(tirx.isnan(x), x, result), then)

    return _named(tirx.max(tirx.min(x, _number(89.0)), _number(-87.6)), from_inside)


def _sigmoid(x: Expr, then: Then) -> Expr:
    one = _number(1.0)
    return _named(_number(0.0) - x, lambda y: _exp(y, lambda power: then(one / (one + power))))


def _tanh(x: Expr, then: Then) -> Expr:
    def positive(a: Expr, then: Then) -> Expr:
        def from_power(t: Expr) -> Expr:
            large = (_number(1.0) - t) / (_number(1.0) + t)
            return then(Select(a < _number(0.625), a * _polynomial(_TANH, a * a), large))

        return _named(a * _number(-2.0), lambda y: _exp(y, from_power))

    return _odd(x, positive, then)


def _erf(x: Expr, then: Then) -> Expr:
    def positive(a: Expr, then: Then) -> Expr:
        def from_power(t: Expr) -> Expr:
            large = _number(1.0) - t
            result = Select(a < _number(1.0), a * _polynomial(_ERF, a * a), large)
            return then(Select(tirx.isnan(a), a, result))

        def from_limited(b: Expr) -> Expr:
            far = _number(0.0) - _polynomial(_LOG_ERFC, b)
            return _named(far, lambda y: _exp(y, from_power))

        return _named(tirx.min(a, _number(4.0)), from_limited)

    return _odd(x, positive, then)


def _odd(x: Expr, positive: Callable[[Expr, Then], Expr], then: Then) -> Expr:
    """Extend a function of positive numbers to an odd one."""
    is_negative = x < _number(0.0)

    def signed(result: Expr) -> Expr:
        return _named(result, lambda y: then(Select(is_negative, _number(0.0) - y, y)))

    size = Select(is_negative, _number(0.0) - x, x)
    return _named(size, lambda a: positive(a, signed))


def _polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    """Return the sum of ``coefficients[i] * x^i``."""
    total: Expr = _number(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + _number(coefficient)
    return total


def _number(value: float) -> Expr:
    return tirx.const(value, "float32")


_LN2_HIGH = 0.693359375  # nine bits
_LN2_LOW = math.log(2.0) - _LN2_HIGH

_EXP = (
    1.0,
    1.0,
    0.49999991059303284,
    0.16666419804096222,
    0.04166822507977486,
    0.008374815806746483,
    0.0013836842263117433,
)
"""e^x for |x| <= ln 2 / 2."""

_TANH = (
    1.0,
    -0.3333326280117035,
    0.13331185281276703,
    -0.0537252314388752,
    0.02060314640402794,
    -0.005672421772032976,
)
"""tanh(x) / x by x^2, for 0 <= x <= 0.625."""

_ERF = (
    1.1283791065216064,
    -0.3761262595653534,
    0.11283600330352783,
    -0.026854444295167923,
    0.005189535208046436,
    -0.0008020841050893068,
    0.00007889119297033176,
)
"""erf(x) / x by x^2, for 0 <= x <= 1."""

_LOG_ERFC = (
    0.00017748723621480167,
    1.1277495622634888,
    0.6370596885681152,
    0.10403741896152496,
    -0.022277116775512695,
    0.0030556158162653446,
    -0.00019718262774404138,
)
"""-log(1 - erf(x)) for 0.9 <= x <= 4."""

_FUNCTIONS: dict[str, Callable[[Expr, Then], Expr]] = {
    "tirx.erf": _erf,
    "tirx.exp": _exp,
    "tirx.sigmoid": _sigmoid,
    "tirx.tanh": _tanh,
}
