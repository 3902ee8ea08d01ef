from __future__ import annotations

import tvm
from structure import assert_becomes
from tvm import relax, topi
from tvm.ir import IRModule
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.passes.raise_pads import RaisePads


def padded(before: list[int], after: list[int]) -> IRModule:
    """A call of TOPI's kernel, as TVM's ONNX frontend emits it."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 2, 4, 5), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            call = builder.call_te(topi.nn.pad, x, before, after, 0.5)
            result = builder.emit_output(call)
        builder.emit_func_output(result)
    return builder.finalize()


def test_a_kernel_that_pads_is_an_operator() -> None:
    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 5), "float32")):
            with R.dataflow():
                y = R.nn.pad(x, [0, 0, 0, 0, 1, 3, 2, 4], "constant", 0.5)
                R.output(y)
            return y

    after = tvm.transform.Sequential([RaisePads(), relax.transform.DeadCodeElimination()])
    assert_becomes(after, padded([0, 0, 1, 2], [0, 0, 3, 4]), Expected)


def test_other_kernels_stay() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                with T.sblock("y"):
                    v = T.axis.spatial(4, i)
                    y[v] = x[v] * T.float32(2)

        @R.function
        def main(x: R.Tensor((4,), "float32")):
            cls = Before
            with R.dataflow():
                y = R.call_tir(cls.double, (x,), out_ty=R.Tensor((4,), "float32"))
                R.output(y)
            return y

    assert_becomes(RaisePads(), Before, Before)
