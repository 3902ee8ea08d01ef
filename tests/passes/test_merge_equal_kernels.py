from __future__ import annotations

from structure import assert_becomes
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.passes.merge_equal_kernels import MergeEqualKernels


def test_calls_of_equal_kernels_name_the_first() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                with T.sblock("y"):
                    v = T.axis.spatial(4, i)
                    y[v] = x[v] * T.float32(2)

        @T.prim_func(private=True, s_tir=True)
        def scale(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
            for j in range(4):
                with T.sblock("b"):
                    w = T.axis.spatial(4, j)
                    b[w] = a[w] * T.float32(2)

        @T.prim_func(private=True, s_tir=True)
        def triple(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                with T.sblock("y"):
                    v = T.axis.spatial(4, i)
                    y[v] = x[v] * T.float32(3)

        @R.function
        def main(x: R.Tensor((4,), "float32")):
            cls = Before
            with R.dataflow():
                a = R.call_tir(cls.double, (x,), out_ty=R.Tensor((4,), "float32"))
                b = R.call_tir(cls.scale, (a,), out_ty=R.Tensor((4,), "float32"))
                y = R.call_tir(cls.triple, (b,), out_ty=R.Tensor((4,), "float32"))
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                with T.sblock("y"):
                    v = T.axis.spatial(4, i)
                    y[v] = x[v] * T.float32(2)

        @T.prim_func(private=True, s_tir=True)
        def triple(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                with T.sblock("y"):
                    v = T.axis.spatial(4, i)
                    y[v] = x[v] * T.float32(3)

        @R.function
        def main(x: R.Tensor((4,), "float32")):
            cls = Expected
            with R.dataflow():
                a = R.call_tir(cls.double, (x,), out_ty=R.Tensor((4,), "float32"))
                b = R.call_tir(cls.double, (a,), out_ty=R.Tensor((4,), "float32"))
                y = R.call_tir(cls.triple, (b,), out_ty=R.Tensor((4,), "float32"))
                R.output(y)
            return y

    assert_becomes(MergeEqualKernels(), Before, Expected)
