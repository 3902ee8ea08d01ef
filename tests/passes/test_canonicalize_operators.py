from __future__ import annotations

import numpy as np
import pytest
import tvm
from lowered_models import model_of
from onnx import helper
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.backends.network import lower_network
from hios_tvm.errors import CompileError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.canonicalize_operators import CanonicalizeOperators, collect_weights
from hios_tvm.passes.extract_operator_graph import extract_operator_graph
from hios_tvm.schema.graph import Operator, Tensor

WEIGHT = np.arange(4, dtype="float32")


def before() -> tvm.IRModule:
    weight = R.const(WEIGHT)

    @I.ir_module
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def add(
            x: T.Buffer((4,), "float32"), w: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")
        ):
            for i in range(4):
                with T.sblock("y"):
                    v = T.axis.spatial(4, i)
                    y[v] = x[v] + w[v]

        @R.function
        def main(x: R.Tensor((4,), "float32")):
            R.func_attr({"input_names": ["x:0"]})
            cls = Before
            with R.dataflow():
                a = R.call_tir(cls.add, (x, weight), out_ty=R.Tensor((4,), "float32"))
                b = R.call_tir(cls.add, (a, weight), out_ty=R.Tensor((4,), "float32"))
                R.output(b)
            return b

    return Before


def test_constants_become_parameters_behind_the_inputs() -> None:
    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def add(
            x: T.Buffer((4,), "float32"), w: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")
        ):
            for i in range(4):
                with T.sblock("y"):
                    v = T.axis.spatial(4, i)
                    y[v] = x[v] + w[v]

        @R.function
        def main(x: R.Tensor((4,), "float32"), weight_0: R.Tensor((4,), "float32")):
            R.func_attr({"input_names": ["x:0"], "num_input": 1})
            cls = Expected
            with R.dataflow():
                add = R.call_tir(cls.add, (x, weight_0), out_ty=R.Tensor((4,), "float32"))
                add1 = R.call_tir(cls.add, (add, weight_0), out_ty=R.Tensor((4,), "float32"))
                output = add1
                R.output(output)
            return output

    tvm.ir.assert_structural_equal(CanonicalizeOperators()(before()), Expected)
    np.testing.assert_array_equal(collect_weights(before())["weight_0"], WEIGHT)


def test_operators_are_named_after_their_nodes() -> None:
    """A convolution comes before what is fused to it; what has no node's name has its output's."""
    random = np.random.default_rng(0).standard_normal
    w = random((3, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="/layer.1/conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="7", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], name="act"),
        helper.make_node("Softmax", ["d"], ["y"], name="x"),
    ]
    model = model_of(nodes, {"x": (1, 3, 8, 8)}, {"w": w, "w2": w + 1})
    graph = lower_network(from_onnx(model), "host").graph
    nodes_of = {operator.name: operator.nodes for operator in graph.operators}
    assert nodes_of["node_7"] == ("7", "act")  # an identifier does not begin with a digit
    assert nodes_of["layer_1_conv_conv2d_relu"] == ("/layer.1/conv", "b")
    others = nodes_of.keys() - {"node_7", "layer_1_conv_conv2d_relu"}
    assert any(nodes_of[name] == ("x",) and name != "x" for name in others)  # the input is x
    assert all(nodes_of[name] for name in others)
    kernels = {operator.kernel for operator in graph.operators if "conv2d" in operator.kernel}
    assert len(kernels) == 1  # other nodes do not make another kernel


def test_operators_without_nodes_are_named_after_their_kernels() -> None:
    graph = extract_operator_graph(CanonicalizeOperators()(before()))
    assert graph.operators == (
        Operator("add", "add", ("x", "weight_0"), ("add",)),
        Operator("add1", "add", ("add", "weight_0"), ("add1",)),
    )
    assert (graph.inputs, graph.constants, graph.outputs) == (("x",), ("weight_0",), ("add1",))
    assert graph.tensors[0] == Tensor("x", (4,), "float32")


def test_operators_without_a_kernel_are_refused() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4,), "float32")):
            with R.dataflow():
                y = R.nn.relu(x)
                R.output(y)
            return y

    with pytest.raises(CompileError, match=r"R\.nn\.relu"):
        CanonicalizeOperators()(Before)


def test_names_that_are_no_identifiers_are_replaced() -> None:
    weight = relax.const(np.arange(4, dtype="float32"))
    builder = relax.BlockBuilder()
    x = relax.Var("x.1", relax.TensorType((4,), "float32"))
    with builder.function("main", [x], attrs={"input_names": ["x.1"], "output_names": ["y"]}):
        with builder.dataflow():
            first = builder.emit(relax.op.add(x, weight))
            second = builder.emit(relax.op.add(first, weight))
            output = builder.emit_output(second)
        builder.emit_func_output(output)
    lowered = relax.transform.LegalizeOps()(builder.get())

    np.testing.assert_equal(collect_weights(lowered), {"weight_0": weight.value.numpy()})
    canonical = CanonicalizeOperators()(lowered)
    assert [param.name for param in canonical["main"].params] == ["input_0", "weight_0"]
    graph = extract_operator_graph(canonical)
    assert [op.inputs for op in graph.operators] == [("input_0", "weight_0"), ("add", "weight_0")]
