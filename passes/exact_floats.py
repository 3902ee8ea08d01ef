"""Passes that keep TVM's simplifier from treating floats as real numbers.

TVM 0.27 simplifies ``(x + y) - y`` to ``x``, ``x - x`` to 0 and ``x == x`` to true, and negates
``x < y`` to ``y <= x``. Floats round, and NaN and infinity break all four. Its maximum of a number
and NaN may be the number.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call, IRModule, TensorLoad
from tvm.tirx import EQ, NE, BufferStore, Expr, FloatImm, Max, Min, Not, Select, Stmt, Sub

from hios_tvm.passes.tir_trees import nodes_of

_LONGEST_CHAIN = 8

Rewritings = Mapping[type[Expr], Callable[[Any], Expr]]


@tvm.transform.module_pass(opt_level=0, name="ExactComparisons")
class ExactComparisons:
    """Write differences and comparisons of floats as what TVM does not simplify.

    Before kernels are scheduled, since rules simplify too::

        a - b   ->  a + b * -1           the same rounding; LLVM makes it a subtraction again
        a == b  ->  a <= b and a >= b
        a != b  ->  uint8(a == b) == 0
        not a   ->  uint8(a) == 0        where `a` reads a tensor
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        exact = {Sub: _sum, EQ: _equal, NE: _unequal, Not: _negation}
        return _rewritten(mod, lambda _body: exact)


@tvm.transform.module_pass(opt_level=0, name="NanExtrema")
class NanExtrema:
    """Make each maximum and minimum of floats NaN where one of the two is, as NumPy's are.

    After kernels are scheduled, since rules recognize reductions by `Max` and `Min`. TVM recognizes
    reductions across a GPU's threads too, when it lowers them: `of_reductions=False` leaves
    reductions as they are, for a second run after that.
    """

    def __init__(self, *, on_gpu: bool = False, of_reductions: bool = True) -> None:
        self.with_nan = _by_comparisons if on_gpu else _by_order
        self.of_reductions = of_reductions

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        def rewritings(body: Stmt) -> Rewritings:
            reduced = [] if self.of_reductions else _reduced_buffers(body)

            def extremum(value: Max | Min) -> Expr:
                loaded = value.a.source if isinstance(value.a, TensorLoad) else None
                is_reduction = any(buffer.same_as(loaded) for buffer in reduced)
                return self.with_nan(value) if _is_float(value.a) and not is_reduction else value

            return {Max: extremum, Min: extremum}

        return _rewritten(mod, rewritings)


def _rewritten(mod: IRModule, rewritings: Callable[[Stmt], Rewritings]) -> IRModule:
    mod = mod.clone()
    for var, func in list(mod.functions_items()):
        if isinstance(func, tirx.PrimFunc):
            rules = list(rewritings(func.body).items())
            mod[var] = func.with_body(tvm_ffi.structural_map(func.body, rules))
    return mod


def _sum(difference: Sub) -> Expr:
    a, b = difference.a, difference.b
    return a + b * tirx.const(-1.0, b.ty) if _is_float(a) else difference


def _equal(comparison: EQ) -> Expr:
    a, b = comparison.a, comparison.b
    return tirx.all(a <= b, a >= b) if _is_float(a) else comparison


def _unequal(comparison: NE) -> Expr:
    a, b = comparison.a, comparison.b
    return _is_false(tirx.all(a <= b, a >= b)) if _is_float(a) else comparison


def _negation(negation: Not) -> Expr:
    reads = nodes_of(negation.a, TensorLoad, Call)  # more than arithmetic of loop variables
    return _is_false(negation.a) if reads else negation


def _is_false(condition: Expr) -> Expr:
    return tirx.Cast("uint8", condition) == tirx.const(0, "uint8")


def _by_order(extremum: Max | Min) -> Expr:
    """Return an extremum for LLVM, of whose code the second operand is the result if one is NaN."""
    a, b = _fewer_selections_first(extremum)
    ordered = type(extremum)(a, b)
    return ordered if _is_number(a) else Select(a <= a, ordered, a)


def _by_comparisons(extremum: Max | Min) -> Expr:
    """Return an extremum for CUDA, whose own one of a number and NaN is the number.

    Both operands are repeated, so of a long chain only the first ones are written so: the others
    return the number.
    """
    a, b = _fewer_selections_first(extremum)
    if len(nodes_of(b, Select)) > _LONGEST_CHAIN:
        return extremum
    larger = Select(b < a if isinstance(extremum, Max) else b > a, a, b)
    return larger if _is_number(a) else Select(a <= a, larger, a)


def _fewer_selections_first(extremum: Max | Min) -> tuple[Expr, Expr]:
    a, b = extremum.a, extremum.b
    if _is_number(b) or len(nodes_of(a, Select)) > len(nodes_of(b, Select)):
        return b, a
    return a, b


def _is_number(value: Expr) -> bool:
    return isinstance(value, FloatImm) and not math.isnan(value.value)


def _is_float(value: Expr) -> bool:
    return "float" in str(value.ty.dtype)


def _reduced_buffers(body: Stmt) -> list[tirx.Var]:
    blocks = [block for block in nodes_of(body, s_tir.SBlock) if block.init is not None]
    return [store.buffer for block in blocks for store in nodes_of(block.init, BufferStore)]
