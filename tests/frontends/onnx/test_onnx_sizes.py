"""Small files that ask for much: refused by what they would become, before it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from onnx import FunctionProto, NodeProto, TensorProto, helper
from onnx_models import make_model, node

from hios_tvm.errors import MemoryLimitError, ModelError
from hios_tvm.frontends.onnx import from_onnx, importer
from hios_tvm.runtime.memory_limit import memory_limit

HUGE = np.array([10**12])

GROWING = {
    "ConstantOfShape": ([node("ConstantOfShape", "n", "t")], {"n": HUGE}),
    "Expand": ([node("Expand", "x n", "t")], {"n": HUGE}),
    "Tile": ([node("Tile", "x n", "t")], {"n": HUGE}),
    "Pad": ([node("Pad", "x n", "t")], {"n": np.array([0, 10**12])}),
    "Range": (
        [node("Range", "zero n one", "t")],
        {"zero": np.float32(0), "n": np.float32(1e12), "one": np.float32(1)},
    ),
    "Resize": ([helper.make_node("Resize", ["x", "", "", "n"], ["t"])], {"n": HUGE}),
    "OneHot": (
        [node("OneHot", "i n v", "t")],
        {"i": np.zeros(1, int), "n": HUGE, "v": np.eye(2)[0]},
    ),
    "Einsum": ([node("Einsum", "w w w", "t", equation="i,j,k->ijk")], {"w": np.ones(10**4, "f")}),
    "Gather": (
        [node("Gather", "r i", "t")],
        {"r": np.ones((1, 10**6), "f"), "i": np.zeros(10**6, int)},
    ),
    "Add": ([node("Add", "a b", "t")], {"a": np.ones((10**6, 1), "f"), "b": np.ones(10**6, "f")}),
    "Mul of known shapes": (
        [node("Mul", "k k", "n"), node("Expand", "one n", "t")],
        {"k": np.array([10**6]), "one": np.ones(1, "f")},
    ),
}


def concatenations(first: str, count: int) -> list[NodeProto]:
    names = [first, *(f"c{i}" for i in range(count))]
    return [node("Concat", f"{a} {a}", b, axis=0) for a, b in pairwise(names)]


@pytest.mark.parametrize("operator", GROWING)
def test_results_that_fit_into_no_memory_are_refused(operator: str) -> None:
    nodes, weights = GROWING[operator]
    model = make_model([*nodes, node("Identity", "t", "y")], {"x": (1,)}, ["y"], weights)
    with pytest.raises(MemoryLimitError, match=f"{nodes[-1].op_type} 't' needs .* GiB of memory"):
        from_onnx(model)


@pytest.mark.parametrize("first", ["x", "w"])
def test_concatenations_that_double_are_refused_within_a_limit(first: str) -> None:
    model = make_model(concatenations(first, 60), {"x": (1,)}, ["c59"], {"w": np.ones(1, "f")})
    with memory_limit(1 << 28), pytest.raises(MemoryLimitError, match="of the limit of"):
        from_onnx(model)


def function(name: str, *calls: str) -> FunctionProto:
    names = ["p", *(f"t{i}" for i in range(len(calls) - 1)), "q"]
    body = [
        helper.make_node(call, [a], [b], domain="" if call == "Neg" else "own")
        for call, a, b in zip(calls, names, names[1:], strict=False)
    ]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["p"], ["q"], body, imports)


DOUBLING = [function("f0", "Neg"), *(function(f"f{i}", *[f"f{i - 1}"] * 2) for i in range(1, 31))]


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([function("f", "f")], "the function 'f' calls itself"),
        ([function("f", "g"), function("g", "f")], "the function 'f' calls itself"),
        ([*DOUBLING, function("f", "f30")], "its functions expand to 1.07e.09 operators"),
    ],
)
def test_functions_without_bounds_are_refused(
    functions: Sequence[FunctionProto], message: str
) -> None:
    call = helper.make_node("f", ["x"], ["y"], domain="own")
    model = make_model([call], {"x": (1,)}, ["y"], domains=["own"], functions=functions)
    with pytest.raises(ModelError, match=message):
        from_onnx(model)


def test_loops_inside_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "MAX_NODES", 100)

    def scalar(name: str, kind: int = TensorProto.BOOL) -> object:
        return helper.make_tensor_value_info(name, kind, [])

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    body_nodes = [node("Neg", "v0", "w0")]
    for depth in range(3):
        inputs = [scalar(f"i{depth}", TensorProto.INT64), scalar(f"c{depth}")]
        value = helper.make_tensor_value_info(f"v{depth}", TensorProto.FLOAT, [1])
        result = helper.make_tensor_value_info(f"w{depth}", TensorProto.FLOAT, [1])
        passed = helper.make_node("Identity", [f"c{depth}"], [f"d{depth}"])
        graph = helper.make_graph(
            [passed, *body_nodes], f"b{depth}", [*inputs, value], [scalar(f"d{depth}"), result]
        )
        outer = f"v{depth + 1}" if depth < 2 else x.name
        body_nodes = [helper.make_node("Loop", ["n", "", outer], [f"w{depth + 1}"], body=graph)]
    model = make_model(body_nodes, {"x": (1,)}, ["w3"], {"n": np.array(1000)})
    with pytest.raises(ModelError, match="expand to more than 100 operators"):
        from_onnx(model)
