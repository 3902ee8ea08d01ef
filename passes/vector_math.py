"""A pass that writes exponentials and related functions as arithmetic, which LLVM vectorizes.

LLVM calls the C library for every element of a vector otherwise. Polynomials were fitted to the
functions in double precision; in single precision results are within a few units in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, IRModule, TensorLoad
from tvm.tirx import Expr, For, ForKind, Let, Select, Stmt

from hios_tvm.passes.tir_trees import nodes_of


@tvm.transform.module_pass(opt_level=0, name="VectorMath")
class VectorMath:
    """Replace `exp`, `sigmoid`, `tanh` and `erf` of single precision in all kernels.

    Where one is applied to the result of another, only the inner one is replaced.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        mod = mod.clone()
        for var, func in list(mod.functions_items()):
            if isinstance(func, tirx.PrimFunc):
                mod[var] = func.with_body(_with_arithmetic(func.body))
        return mod


def _with_arithmetic(body: Stmt) -> Stmt:
    kept = _calls_without_vectors(body)

    def replace(call: Call) -> Expr:
        return call if any(call.same_as(other) for other in kept) else _arithmetic(call)

    return tvm_ffi.structural_map(body, [(Call, replace)])


def _calls_without_vectors(body: Stmt) -> list[Call]:
    """Return the calls in vectorized loops that stay scalar, which gain nothing.

    Some have the same argument in all lanes. Others are in a loop that TVM 0.27 computes lane by
    lane, since it calls what has no vector form, such as a function of C. In both cases TVM would
    reject variables of `Let` ("Let cannot bind the same var to two different values").
    """
    found: list[Call] = []
    for loop in nodes_of(body, For):
        if loop.kind != ForKind.VECTORIZED:
            continue
        calls = nodes_of(loop.body, Call)
        lane_by_lane = not all(map(_has_vector_form, calls))
        found.extend(
            call
            for call in calls
            if _function(call) is not None and (lane_by_lane or not _reads(call, loop.loop_var))
        )
    return found


def _has_vector_form(call: Call) -> bool:
    known = _function(call) is not None or call.op.name in ("tirx.isnan", "tirx.reinterpret")
    return known or bool(call.op.get_attr("TVectorizable"))


def _reads(value: Expr, var: tirx.Var) -> bool:
    return any(other.same_as(var) for other in nodes_of(value, tirx.Var))


def _arithmetic(call: Call) -> Expr:
    """Return what `call` computes as arithmetic, or `call` itself."""
    function = _function(call)
    if function is None or str(call.ty.dtype) != "float32" or _is_composed(call.args[0]):
        return call
    names = _Names()
    x = names.name(call.args[0])
    result = function(x, names)
    is_long = len(nodes_of(call.args[0], *_ARITHMETIC)) > _LONGEST_ARGUMENT
    return names.around(_lane_by_lane(x, result) if is_long else result)


def _lane_by_lane(x: Expr, result: Expr) -> Expr:
    """Return `result`, in a form of which LLVM makes vectors and not TVM.

    TVM 0.27 substitutes the values of names when it makes vectors, and long ones compile 50 times
    as long. It computes `isnan` lane by lane, and names stay what they are. All functions of NaN
    are NaN.
    """
    return Select(tirx.isnan(x), x, result)


def _function(call: Call) -> Function | None:
    return _FUNCTIONS.get(str(getattr(call.op, "name", "")))


def _is_composed(argument: Expr) -> bool:
    """Whether `argument` calls another of the functions, or did before its replacement.

    TVM 0.27 substitutes the variables of `Let` while it generates code: a function of a function of
    a function would take it minutes.
    """
    return any(
        isinstance(node, Let) or _function(node) is not None
        for node in nodes_of(argument, Call, Let)
    )


class _Names:
    """Values that are computed once and read by name, in the order of computation.

    A nest of `Let` around the whole result binds them. None is inside the value of another: TVM
    substitutes the values while it generates code, and would bind inner names several times.
    """

    def __init__(self) -> None:
        self._values: list[tuple[tirx.Var, Expr]] = []

    def name(self, value: Expr) -> tirx.Var:
        """Return the name under which what follows reads `value`."""
        var = tirx.Var("x", "float32")
        self._values.append((var, value))
        return var

    def around(self, result: Expr) -> Expr:
        """Return `result`, which reads the names, with their values."""
        for var, value in reversed(self._values):
            result = Let(var, value, result)
        return result


Function = Callable[[Expr, _Names], Expr]
"""Returns a function of a named value, in terms of further names."""


def _exp(x: Expr, names: _Names) -> Expr:
    """2^n e^r for the nearest integer n, and |r| <= ln 2 / 2; results below 2e-38 are 0.

    NaN passes the limits, whose comparisons are false, and the polynomial.
    """
    # TVM's `min(a, b)` is b where a is not less: NaN passes where it is the second operand
    limited = names.name(tirx.max(_number(-87.6), tirx.min(_number(89.0), x)))
    n = names.name(tirx.floor(limited * _number(1.0 / math.log(2.0)) + _number(0.5)))
    # In two steps, of which the first is exact: n has few digits, and the first part of ln 2 too
    r = names.name(limited - n * _number(_LN2_HIGH) - n * _number(_LN2_LOW))
    bits = (tirx.Cast("int32", n) + tirx.const(126, "int32")) << tirx.const(23, "int32")
    half_power = tirx.reinterpret("float32", bits)  # 2^(n-1): 2^n may be infinite
    return names.name(_polynomial(_EXP, r) * half_power * _number(2.0))


def power_of_softmax(x: Expr) -> Expr:
    """Return e^x for x that are 0 at most, or NaN, with fewer operations than of any x.

    2^n e^r as for `exp`.
    """
    names = _Names()
    x = names.name(x)
    limited = names.name(Select(x < _number(_LOG_ZERO), _number(_LOG_ZERO), x))
    n = names.name(tirx.floor(limited * _number(1.0 / math.log(2.0)) + _number(0.5)))
    r = names.name(limited - n * _number(_LN2_HIGH) - n * _number(_LN2_LOW))
    bits = (tirx.Cast("int32", n) + tirx.const(127, "int32")) << tirx.const(23, "int32")
    return names.around(_polynomial(_EXP_SHORT, r) * tirx.reinterpret("float32", bits))


def _sigmoid(x: Expr, names: _Names) -> Expr:
    one = _number(1.0)
    power = _exp(names.name(_number(0.0) - x), names)
    return one / (one + power)


def _tanh(x: Expr, names: _Names) -> Expr:
    a = _magnitude(x, names)
    t = _exp(names.name(a * _number(-2.0)), names)
    large = (_number(1.0) - t) / (_number(1.0) + t)
    small = a * _polynomial(_TANH, a * a)
    return _with_sign_of(x, Select(a < _number(0.625), small, large), names)


def _erf(x: Expr, names: _Names) -> Expr:
    a = _magnitude(x, names)
    b = names.name(tirx.min(_number(4.0), a))
    t = _exp(names.name(_number(0.0) - _polynomial(_LOG_ERFC, b)), names)
    large = _number(1.0) - t
    result = Select(a < _number(1.0), a * _polynomial(_ERF, a * a), large)
    return _with_sign_of(x, result, names)


def _magnitude(x: Expr, names: _Names) -> Expr:
    zero = _number(0.0)
    return names.name(Select(x < zero, zero - x, x))


def _with_sign_of(x: Expr, magnitude: Expr, names: _Names) -> Expr:
    zero = _number(0.0)
    y = names.name(magnitude)
    return Select(x < zero, zero - y, y)


def _polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    """Return the sum of ``coefficients[i] * x^i``."""
    total: Expr = _number(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + _number(coefficient)
    return total


def _number(value: float) -> Expr:
    return tirx.const(value, "float32")


_ARITHMETIC = (
    *(Call, Let, Select, TensorLoad, tirx.Add, tirx.Cast, tirx.Div, tirx.FloorDiv, tirx.FloorMod),
    *(tirx.Max, tirx.Min, tirx.Mul, tirx.Sub),
)
_LONGEST_ARGUMENT = 100
"""Operators, those of indices too, of an argument that TVM may substitute some hundred times."""

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

_EXP_SHORT = (
    1.0,
    0.9999997019767761,
    0.49999144673347473,
    0.16667640209197998,
    0.041898392140865326,
    0.008290229365229607,
)
"""e^x for |x| <= ln 2 / 2, to 1e-7 of it."""

_LOG_ZERO = -88.0
"""Its power has the bits of 0, as those of smaller numbers should."""

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

_FUNCTIONS: dict[str, Function] = {
    "tirx.erf": _erf,
    "tirx.exp": _exp,
    "tirx.sigmoid": _sigmoid,
    "tirx.tanh": _tanh,
}
