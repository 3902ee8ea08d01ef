"""The search for the first operator that differs, with compilers that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.passes.dataflow import Rewriter, bindings, operator_name, rewrite_main
from hios_tvm.verification.deviation import Arrays
from hios_tvm.verification.first_difference import Compile, Observation, first_difference
from hios_tvm.verification.onnx_reference import OnnxReference
from hios_tvm.verification.relax_reference import RelaxReference


def model_of(
    nodes: list[onnx.NodeProto], outputs: Sequence[str], shape: Sequence[int] = (4,)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(operators: list[str]) -> onnx.ModelProto:
    names = ["x", *(f"t{i}" for i in range(len(operators)))]
    nodes = [
        helper.make_node(operator, [names[i]], [names[i + 1]])
        for i, operator in enumerate(operators)
    ]
    return model_of(nodes, names[-1:])


DRAWS: tuple[Arrays, ...] = (
    {"x": np.array([0.1, 0.5, 1.0, 1.5], dtype=np.float32)},
    {"x": np.array([0.3, 0.2, 0.9, 0.7], dtype=np.float32)},
)


def operators_of(mod: tvm.IRModule) -> list[str]:
    names = (operator_name(binding.value) for binding in bindings(mod["main"]))
    return [name.removeprefix("relax.").removeprefix("nn.") for name in names if name]


def compiler(*wrong: str) -> Compile:
    """TVM's default executor, which adds 1 behind the last of the operators `wrong`.

    It does so where the module has all of them.
    """

    def spoil(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
        name = operator_name(value).removeprefix("relax.").removeprefix("nn.")
        return relax.op.add(value, relax.const(1.0)) if name == wrong[-1] else value

    def compile_and_run(mod: tvm.IRModule, draws: Sequence[Arrays]) -> Observation:
        operators = operators_of(mod)
        if wrong and set(wrong) <= set(operators):
            mod = rewrite_main(mod, spoil)
        reference = RelaxReference(mod)
        return Observation(tuple(map(reference.run, draws)), tuple(operators))

    return compile_and_run


OPERATORS = ["Sin", "Relu", "Sigmoid", "Tanh", "Exp"]


@pytest.mark.parametrize("wrong", OPERATORS)
def test_bisection_finds_the_first_wrong_operator_and_leaves_it_alone(wrong: str) -> None:
    """Everything behind the wrong operator differs too; the first one is the answer."""
    reference = OnnxReference(chain(OPERATORS))
    found = first_difference(reference, DRAWS, compiler(wrong.lower()))
    assert found is not None
    assert found.step.operator == wrong
    assert found.kernels == (wrong.lower(),)


def test_no_difference_is_none() -> None:
    assert first_difference(OnnxReference(chain(OPERATORS)), DRAWS, compiler()) is None


def test_a_part_grows_backwards_until_it_shows_the_difference() -> None:
    """A fault of two operators that are fused needs both."""
    reference = OnnxReference(chain(OPERATORS))
    found = first_difference(reference, DRAWS, compiler("relu", "tanh"))
    assert found is not None
    assert found.step.operator == "Tanh"
    assert found.kernels == ("relu", "sigmoid", "tanh")


def test_a_wrong_branch_is_not_missed() -> None:
    """The last nodes of a branch that agrees come behind the wrong one of another branch."""
    nodes = [
        helper.make_node("Sin", ["x"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Cos", ["x"], ["c"]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("Add", ["b", "d"], ["y"]),
    ]
    found = first_difference(OnnxReference(model_of(nodes, ["y"])), DRAWS, compiler("exp"))
    assert found is not None
    assert found.step.operator == "Exp"
    assert found.kernels == ("exp",)


def test_shapes_are_computed_again_in_a_part() -> None:
    """A part begins behind a tensor whose shape decides how it is reshaped."""
    nodes = [
        helper.make_node("Sin", ["x"], ["a"]),
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Constant", [], ["sizes"], value_ints=[1, 4]),
        helper.make_node("Expand", ["b", "sizes"], ["c"]),
        helper.make_node("Reshape", ["c", "s"], ["d"]),
        helper.make_node("Tanh", ["d"], ["y"]),
    ]
    found = first_difference(OnnxReference(model_of(nodes, ["y"])), DRAWS, compiler("reshape"))
    assert found is not None
    assert found.step.operator == "Reshape"
    assert found.kernels.count("reshape") == 1 and "sin" not in found.kernels


@I.ir_module
class Program:
    @R.function
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((2,), "float32"):
        R.func_attr({"input_names": ["in"], "output_names": ["out"]})
        with R.dataflow():
            a = R.sin(x)
            parts = R.split(a, 2)
            b = parts[0]
            c = parts[1]
            d = R.exp(b)
            e = R.tanh(c)
            f = R.add(d, e)
            R.output(f)
        return f


@pytest.mark.parametrize("wrong", ["sin", "exp", "tanh", "add"])
def test_relax_programs_are_searched_in_the_same_manner(wrong: str) -> None:
    draws = [{"in": draw["x"]} for draw in DRAWS]
    found = first_difference(RelaxReference(Program), draws, compiler(wrong))
    assert found is not None
    assert found.step.operator == wrong
    assert found.kernels == (wrong,)
