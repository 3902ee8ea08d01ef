"""Operators that enlarge what a heavy kernel computes are kernels of their own."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from lowered_models import (
    Array,
    kernels,
    lowered,
    model_of,
    random,
    run_lowered,
    run_onnx_runtime,
    uses_winograd,
)
from onnx import ModelProto, helper
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.passes import pipeline
from hios_tvm.passes.limit_fusion import LimitFusion

HEAVY, BROADCAST, INJECTIVE = 4, 1, 2  # TVM's patterns


@pytest.fixture(params=["fused", "apart"])
def fusion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the pass, and without it: rules must refuse such kernels, whoever fused them."""
    if request.param == "fused":
        nothing = tvm.transform.module_pass(lambda mod, _: mod, opt_level=0, name="Nothing")
        monkeypatch.setattr(pipeline, "LimitFusion", lambda: nothing)
    return str(request.param)


def gate(
    head: list[object], inputs: dict[str, tuple[int, ...]], weights: dict[str, Array]
) -> ModelProto:
    """``x * sigmoid(head)``, where `head` computes ``h``."""
    nodes = [
        *head,
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["y"]),
    ]
    return model_of(nodes, inputs, weights)


def assert_right(model: ModelProto) -> None:
    feeds = {
        value.name: random(*(d.dim_value for d in value.type.tensor_type.shape.dim), seed=seed)
        for seed, value in enumerate(model.graph.input)
    }
    (expected,) = run_onnx_runtime(model, feeds)
    (actual,) = run_lowered(model, feeds)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


WHOLE = (3, 20, 9, 11)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (3,), (2, 3), (0, 2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("rule", ["convolution", "depthwise", "pool"])
def test_gates_of_images(rule: str, axes: tuple[int, ...], fusion: str) -> None:
    """The result of a convolution or pooling has extent 1 along `axes`, what it scales has not."""
    batch, channels, height, width = (1 if i in axes else n for i, n in enumerate(WHOLE))
    weights: dict[str, Array] = {}
    if rule == "convolution":
        source = (batch, 5, height, width)
        head = helper.make_node("Conv", ["g", "w", "b"], ["h"])
        weights = {"w": random(channels, 5, 1, 1), "b": random(channels)}
    elif rule == "depthwise":
        source = (batch, channels, height + 2, width + 2)
        head = helper.make_node("Conv", ["g", "w"], ["h"], group=channels)
        weights = {"w": random(channels, 1, 3, 3)}
    else:
        source = (batch, channels, height * 2, width * 2)
        head = helper.make_node("AveragePool", ["g"], ["h"], kernel_shape=[2, 2], strides=[2, 2])
    assert_right(gate([head], {"x": WHOLE, "g": source}, weights))


def test_gates_behind_winograd(fusion: str) -> None:
    """Only the batch can have extent 1: other images and windows take the direct way."""
    head = helper.make_node("Conv", ["g", "w"], ["h"], pads=[1, 1, 1, 1])
    inputs = {"x": (2, 32, 40, 40), "g": (1, 64, 40, 40)}
    model = gate([head], inputs, {"w": 0.1 * random(32, 64, 3, 3)})
    assert uses_winograd(lowered(model)) == (fusion == "apart"), "rules refuse what was fused"
    assert_right(model)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("constant", [True, False])
def test_gates_of_products(constant: bool, axes: tuple[int, ...], fusion: str) -> None:
    whole = (2, 7, 33)
    batch, rows, columns = (1 if i in axes else n for i, n in enumerate(whole))
    head = helper.make_node("MatMul", ["g", "w"], ["h"])
    inputs = {"x": whole, "g": (batch, rows, 16)}
    weights: dict[str, Array] = {}
    if constant:
        weights = {"w": random(16, columns)}
    else:
        inputs["w"] = (batch, 16, columns)
    assert_right(gate([head], inputs, weights))


def test_a_bias_of_a_higher_rank(fusion: str) -> None:
    """The same number of elements, in another shape."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    weights = {"w": random(16, 20), "b": random(1, 1, 20)}
    assert_right(model_of(nodes, {"x": (7, 16)}, weights))


def test_the_gate_is_computed_once() -> None:
    head = helper.make_node("Conv", ["g", "w"], ["h"])
    inputs = {"x": (1, 20, 9, 11), "g": (1, 5, 1, 1)}
    names = kernels(lowered(gate([head], inputs, {"w": random(20, 5, 1, 1)})))
    assert any("conv2d" in name and "sigmoid" in name for name in names)
    assert not any("conv2d" in name and "multiply" in name for name in names)


def test_the_pattern_of_what_enlarges_changes() -> None:
    """A bias of the same shape stays behind the heavy kernel; the step that enlarges does not."""

    def module(pattern_of_large: int) -> tvm.IRModule:
        @I.ir_module
        class Module:
            @T.prim_func(private=True, s_tir=True)
            def heavy(x: T.Buffer((1, 4), "float32"), y: T.Buffer((1, 4), "float32")):
                T.func_attr({"op_pattern": HEAVY})
                for i in range(4):
                    with T.sblock("heavy"):
                        vi = T.axis.spatial(4, i)
                        y[0, vi] = x[0, vi]

            @T.prim_func(private=True, s_tir=True)
            def small(
                x: T.Buffer((1, 4), "float32"),
                z: T.Buffer((1, 4), "float32"),
                y: T.Buffer((1, 4), "float32"),
            ):
                T.func_attr({"op_pattern": BROADCAST})
                for i in range(4):
                    with T.sblock("small"):
                        vi = T.axis.spatial(4, i)
                        y[0, vi] = x[0, vi] + z[0, vi]

            @T.prim_func(private=True, s_tir=True)
            def large(
                x: T.Buffer((3, 4), "float32"),
                z: T.Buffer((1, 4), "float32"),
                y: T.Buffer((3, 4), "float32"),
            ):
                T.func_attr({"op_pattern": pattern_of_large})
                for i, j in T.grid(3, 4):
                    with T.sblock("large"):
                        vi, vj = T.axis.remap("SS", [i, j])
                        y[vi, vj] = x[vi, vj] * z[0, vj]

            @R.function
            def main(x: R.Tensor((3, 4), "float32"), z: R.Tensor((1, 4), "float32")) -> R.Tensor(
                (3, 4), "float32"
            ):
                cls = Module
                with R.dataflow():
                    a = R.call_tir(cls.heavy, (z,), out_ty=R.Tensor((1, 4), "float32"))
                    b = R.call_tir(cls.small, (a, z), out_ty=R.Tensor((1, 4), "float32"))
                    c = R.call_tir(cls.large, (x, b), out_ty=R.Tensor((3, 4), "float32"))
                    R.output(c)
                return c

        return Module

    tvm.ir.assert_structural_equal(LimitFusion()(module(BROADCAST)), module(INJECTIVE))


@pytest.mark.parametrize("operator", ["Add", "Mul of Sigmoid"])
def test_results_that_are_read_twice_again_and_again_compile_in_linear_time(operator: str) -> None:
    """Inlined, the last of 30 operators would read the first one 2^30 times."""
    nodes = []
    for i in range(30):
        other = f"t{i}"
        if operator != "Add":
            nodes.append(helper.make_node("Sigmoid", [f"t{i}"], [other := f"s{i}"]))
        nodes.append(helper.make_node(operator.split()[0], [f"t{i}", other], [f"t{i + 1}"]))
    model = model_of(nodes, {"t0": (1, 20)}, {}, outputs=["t30"])
    assert_right(model)
