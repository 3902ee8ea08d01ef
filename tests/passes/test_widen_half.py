from __future__ import annotations

import numpy as np
import pytest
import tvm
from lowered_models import run_lowered
from onnx import TensorProto, helper, numpy_helper
from structure import assert_becomes
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.backends.network import lower_network
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.schedule_kernels import NO_RULE
from hios_tvm.passes.widen_half import WidenHalf

WEIGHT = np.full((4, 4), 0.5, "float16")


def before() -> tvm.IRModule:
    weight = R.const(WEIGHT)

    @I.ir_module
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def own(x: T.Buffer((2, 4), "float16"), y: T.Buffer((2, 4), "float16")):
            for i, j in T.grid(2, 4):
                with T.sblock("y"):
                    a, b = T.axis.remap("SS", [i, j])
                    y[a, b] = x[a, b]

        @R.function
        def main(x: R.Tensor((2, 4), "float16"), n: R.Tensor((2, 4), "float32")):
            cls = Before
            with R.dataflow():
                a = R.matmul(x, weight, out_dtype="float16")
                b = R.astype(n, "float16")
                c = R.add(a, b)
                d = R.call_tir(cls.own, (c,), out_ty=R.Tensor((2, 4), "float16"))
                e = R.astype(d, "float32")
                f = R.negative(e)
                R.output(f)
            return f

    return Before


def test_all_but_inputs_outputs_and_own_kernels_is_single() -> None:
    weight = R.const(WEIGHT.astype("float32"))

    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def own(x: T.Buffer((2, 4), "float16"), y: T.Buffer((2, 4), "float16")):
            for i, j in T.grid(2, 4):
                with T.sblock("y"):
                    a, b = T.axis.remap("SS", [i, j])
                    y[a, b] = x[a, b]

        @R.function
        def main(x: R.Tensor((2, 4), "float16"), n: R.Tensor((2, 4), "float32")):
            cls = Expected
            with R.dataflow():
                wide = R.astype(x, "float32")
                a = R.matmul(wide, weight, out_dtype="float32")
                c = R.add(a, n)
                narrow = R.astype(c, "float16")
                d = R.call_tir(cls.own, (narrow,), out_ty=R.Tensor((2, 4), "float16"))
                e = R.astype(d, "float32")
                f = R.negative(e)
                R.output(f)
            return f

    assert_becomes(WidenHalf(), before(), Expected)


def test_several_outputs_keep_their_types() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2,), "float16"), n: R.Tensor((2,), "float32")):
            with R.dataflow():
                a = R.add(x, x)
                both = (a, n)
                R.output(both)
            return both

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2,), "float16"), n: R.Tensor((2,), "float32")):
            with R.dataflow():
                wide = R.astype(x, "float32")
                a = R.add(wide, wide)
                half = R.astype(a, "float16")
                both = (half, n)
                R.output(both)
            return both

    assert_becomes(WidenHalf(), Before, Expected)


def test_modules_of_single_precision_stay_as_they_are() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(builder.emit(relax.op.nn.relu(x)))
        builder.emit_func_output(y)
    mod = builder.finalize()
    assert WidenHalf()(mod).same_as(mod)


@pytest.mark.parametrize("element", ["FLOAT16", "BFLOAT16"])
def test_a_half_network_is_computed_by_the_kernels_of_single_precision(element: str) -> None:
    kind = getattr(TensorProto, element)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 4, 3, 3)), "v": rng.standard_normal((8, 5))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("GlobalAveragePool", ["b"], ["c"]),
            helper.make_node("Flatten", ["c"], ["d"]),
            helper.make_node("Gemm", ["d", "v"], ["y"]),
        ],
        "half",
        [helper.make_tensor_value_info("x", kind, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("y", kind, [1, 5])],
        [numpy_helper.from_array(w.astype(dtype), name) for name, w in weights.items()],
    )
    opset = helper.make_opsetid("", 22)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    x = rng.standard_normal((1, 4, 6, 6)).astype(dtype)
    (found,) = run_lowered(model, {"x": x})
    single = {name: w.astype(dtype).astype("float64") for name, w in weights.items()}
    padded = np.pad(x.astype("float64"), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[0]
    a = np.einsum("chwij,ocij->ohw", windows, single["w"])
    expected = np.maximum(a, 0).mean((1, 2)) @ single["v"]
    assert found.dtype == dtype
    unit = 2.0**-8 if element == "BFLOAT16" else 2.0**-10
    np.testing.assert_allclose(found[0].astype("float64"), expected, rtol=unit, atol=unit)

    form = lower_network(from_onnx(model), "host").lowered["cpu"]
    convolution = next(op for op in form.graph.operators if "conv2d" in op.kernel)
    assert NO_RULE not in form.mod[convolution.kernel].attrs
