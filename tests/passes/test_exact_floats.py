from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import tirx
from tvm.script import ir as I
from tvm.script import tirx as T

from hios_tvm.passes.exact_floats import ExactComparisons, NanExtrema

FLOAT, INTEGER = "float32", "int32"


def elements(
    function: Callable[..., tirx.Expr | Sequence[tirx.Expr]], *dtypes: str
) -> tvm.IRModule:
    """A kernel that stores each value of ``function`` of the elements of its inputs."""
    i = tirx.Var("i", "int32")
    inputs = [tirx.decl_buffer((4,), dtype) for dtype in dtypes]
    values = function(*(tirx.BufferLoad(buffer, [i]) for buffer in inputs))
    values = [values] if isinstance(values, tirx.Expr) else values
    outputs = [tirx.decl_buffer((4,), str(value.ty.dtype)) for value in values]
    stores = [
        tirx.BufferStore(buffer, value, [i]) for buffer, value in zip(outputs, values, strict=True)
    ]
    loop = tirx.For(i, 0, 4, tirx.ForKind.SERIAL, tirx.stmt_seq(*stores))
    return tvm.IRModule({"main": tirx.PrimFunc([*inputs, *outputs], loop)})


def number(value: float) -> tirx.Expr:
    return tirx.const(value, "float32")


def is_false(condition: tirx.Expr) -> tirx.Expr:
    return tirx.EQ(tirx.Cast("uint8", condition), tirx.const(0, "uint8"))


def test_differences_and_comparisons_of_floats() -> None:
    before = elements(lambda a, b: [a - b, tirx.EQ(a, b)], FLOAT, FLOAT)
    expected = elements(lambda a, b: [a + b * number(-1), tirx.And(a <= b, a >= b)], FLOAT, FLOAT)
    tvm.ir.assert_structural_equal(ExactComparisons()(before), expected)


def test_negations_of_what_is_read() -> None:
    zero = number(0)
    before = elements(lambda a: [tirx.Not(a < zero), tirx.NE(a, zero)], FLOAT)
    expected = elements(
        lambda a: [is_false(a < zero), is_false(tirx.And(a <= zero, a >= zero))], FLOAT
    )
    tvm.ir.assert_structural_equal(ExactComparisons()(before), expected)


def test_integers_are_compared_as_they_are() -> None:
    before = elements(
        lambda a: tirx.Select(tirx.EQ(a, 3), a - 1, tirx.Max(a, tirx.const(0, INTEGER))), INTEGER
    )
    passes = tvm.transform.Sequential([ExactComparisons(), NanExtrema()])
    tvm.ir.assert_structural_equal(passes(before), before)


def test_extrema_are_nan_where_an_operand_is() -> None:
    """LLVM's code for an extremum returns the second operand where one of them is NaN."""
    six = number(6)
    before = elements(lambda a, b: tirx.Max(a, b) + tirx.Min(a, six), FLOAT, FLOAT)
    by_order = elements(
        lambda a, b: tirx.Select(a <= a, tirx.Max(a, b), a) + tirx.Min(six, a), FLOAT, FLOAT
    )
    by_comparisons = elements(
        lambda a, b: (
            tirx.Select(a <= a, tirx.Select(b < a, a, b), a) + tirx.Select(a > six, six, a)
        ),
        FLOAT,
        FLOAT,
    )
    tvm.ir.assert_structural_equal(NanExtrema()(before), by_order)
    tvm.ir.assert_structural_equal(NanExtrema(on_gpu=True)(before), by_comparisons)


def test_chains_of_extrema_stay_short() -> None:
    """A sampling of images limits its coordinates again and again: nothing is written twice."""
    a = tirx.decl_buffer((4,), "float32", "a", layout=None)
    b = tirx.decl_buffer((4,), "float32", "b", layout=None)
    value = tirx.BufferLoad(a, [0])
    for _ in range(40):
        value = tirx.Min(tirx.Max(value, tirx.const(0.0, "float32")), tirx.BufferLoad(b, [0]))
    store = tirx.BufferStore(a, value, [0])
    (written,) = NanExtrema()(
        tvm.IRModule({"main": tirx.PrimFunc([a, b], store)})
    ).functions.values()
    assert len(str(written)) < 20_000


def test_extrema_of_reductions_can_stay() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(a: T.Buffer((4,), "float32"), m: T.Buffer((1,), "float32")):
            for i in range(4):
                with T.sblock("m"):
                    v = T.axis.reduce(4, i)
                    with T.init():
                        m[0] = T.min_value("float32")
                    m[0] = T.max(m[0], a[v])

    tvm.ir.assert_structural_equal(NanExtrema(of_reductions=False)(Before), Before)
