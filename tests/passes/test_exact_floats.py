from __future__ import annotations

import tvm
from tvm import tirx
from tvm.script import ir as I
from tvm.script import tirx as T

from hios_tvm.passes.exact_floats import ExactComparisons, NanExtrema


def test_differences_and_comparisons_of_floats() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(
            a: T.Buffer((4,), "float32"),
            b: T.Buffer((4,), "float32"),
            d: T.Buffer((4,), "float32"),
            e: T.Buffer((4,), "bool"),
        ):
            for i in range(4):
                d[i] = a[i] - b[i]
                e[i] = a[i] == b[i]

    @I.ir_module
    class Expected:
        @T.prim_func(s_tir=True)
        def main(
            a: T.Buffer((4,), "float32"),
            b: T.Buffer((4,), "float32"),
            d: T.Buffer((4,), "float32"),
            e: T.Buffer((4,), "bool"),
        ):
            for i in range(4):
                d[i] = a[i] + b[i] * T.float32(-1)
                e[i] = a[i] <= b[i] and a[i] >= b[i]

    tvm.ir.assert_structural_equal(ExactComparisons()(Before), Expected)


def test_negations_of_what_is_read() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(
            a: T.Buffer((4,), "float32"), n: T.Buffer((4,), "bool"), u: T.Buffer((4,), "bool")
        ):
            for i in range(4):
                n[i] = not (a[i] < T.float32(0))
                u[i] = a[i] != T.float32(0)

    @I.ir_module
    class Expected:
        @T.prim_func(s_tir=True)
        def main(
            a: T.Buffer((4,), "float32"), n: T.Buffer((4,), "bool"), u: T.Buffer((4,), "bool")
        ):
            for i in range(4):
                n[i] = T.Cast("uint8", a[i] < T.float32(0)) == T.uint8(0)
                u[i] = T.Cast("uint8", a[i] <= T.float32(0) and a[i] >= T.float32(0)) == T.uint8(0)

    tvm.ir.assert_structural_equal(ExactComparisons()(Before), Expected)


def test_integers_are_compared_as_they_are() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(a: T.Buffer((4,), "int32"), d: T.Buffer((4,), "int32")):
            for i in range(4):
                d[i] = T.Select(a[i] == 3, a[i] - 1, T.max(a[i], 0))

    passes = tvm.transform.Sequential([ExactComparisons(), NanExtrema()])
    tvm.ir.assert_structural_equal(passes(Before), Before)


def test_extrema_are_nan_where_an_operand_is() -> None:
    """LLVM's code for an extremum returns the second operand where one of them is NaN."""

    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(
            a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32"), m: T.Buffer((4,), "float32")
        ):
            for i in range(4):
                m[i] = T.max(a[i], b[i]) + T.min(a[i], T.float32(6))

    @I.ir_module
    class Expected:
        @T.prim_func(s_tir=True)
        def main(
            a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32"), m: T.Buffer((4,), "float32")
        ):
            for i in range(4):
                m[i] = T.Select(a[i] <= a[i], T.max(a[i], b[i]), a[i]) + T.min(T.float32(6), a[i])

    @I.ir_module
    class OnGpu:
        @T.prim_func(s_tir=True)
        def main(
            a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32"), m: T.Buffer((4,), "float32")
        ):
            for i in range(4):
                m[i] = T.Select(a[i] <= a[i], T.Select(b[i] < a[i], a[i], b[i]), a[i]) + T.Select(
                    a[i] > T.float32(6), T.float32(6), a[i]
                )

    tvm.ir.assert_structural_equal(NanExtrema()(Before), Expected)
    tvm.ir.assert_structural_equal(NanExtrema(on_gpu=True)(Before), OnGpu)


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
