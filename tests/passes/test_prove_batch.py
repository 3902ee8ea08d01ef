"""Rows of a batch: which models compute them apart, and which do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.prove_batch import NotProven, prove_batch

Weights = dict[str, np.ndarray]
RNG = np.random.default_rng(0)


def model(
    nodes: Sequence[NodeProto], weights: Weights, shape: Sequence[int | str], dtype: str = "FLOAT"
) -> onnx.ModelProto:
    """A model of the input x and the output y."""
    return make_model(
        make_graph(
            nodes,
            "model",
            [make_tensor_value_info("x", getattr(TensorProto, dtype), shape)],
            [make_tensor_value_info("y", TensorProto.UNDEFINED, None)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[make_opsetid("", 17)],
    )


def prove(proto: onnx.ModelProto, rows: Sequence[int] = (3, 4), axis: int = 0) -> dict[str, int]:
    dims = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    shapes = [tuple(n if i == axis else dim for i, dim in enumerate(dims)) for n in rows]
    modules = [from_onnx(proto, shapes={"x": shape}) for shape in shapes]
    return prove_batch(*modules, {"x": axis})


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


APART: dict[str, tuple[list[NodeProto], Weights, list[int | str]]] = {
    "convolution": (
        [
            make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            make_node("BatchNormalization", ["c", "b", "b", "b", "v"], ["n"]),
            make_node("Relu", ["n"], ["r"]),
            make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            make_node("GlobalAveragePool", ["p"], ["g"]),
            make_node("Flatten", ["g"], ["f"]),
            make_node("Softmax", ["f"], ["y"]),
        ],
        {"w": floats(4, 3, 3, 3), "b": floats(4), "v": np.ones(4, np.float32)},
        ["N", 3, 6, 6],
    ),
    "rows that are merged with others": (
        [
            make_node("Reshape", ["x", "flat"], ["f"]),
            make_node("MatMul", ["f", "w"], ["m"]),
            make_node("Reshape", ["m", "heads"], ["h"]),
            make_node("Transpose", ["h"], ["q"], perm=[0, 2, 1, 3]),
            make_node("Transpose", ["h"], ["k"], perm=[0, 2, 3, 1]),
            make_node("MatMul", ["q", "k"], ["s"]),
            make_node("Softmax", ["s"], ["a"]),
            make_node("MatMul", ["a", "q"], ["y"]),
        ],
        {"w": floats(6, 8), "flat": ints(-1, 6), "heads": ints(-1, 5, 2, 4)},
        ["N", 5, 6],
    ),
    "shapes that are computed": (
        [
            make_node("Shape", ["x"], ["s"], end=1),
            make_node("Concat", ["s", "rest"], ["t"], axis=0),
            make_node("ConstantOfShape", ["t"], ["zeros"]),
            make_node("Concat", ["zeros", "x"], ["y"], axis=1),
        ],
        {"rest": ints(1, 6)},
        ["N", 5, 6],
    ),
}


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("rows", [(1, 2), (3, 4), (5, 8)])
def test_rows_that_are_computed_apart(name: str, rows: tuple[int, int]) -> None:
    assert prove(model(*APART[name]), rows) == {"y": 0}


def test_rows_along_another_axis() -> None:
    nodes = [make_node("MatMul", ["x", "w"], ["m"]), make_node("Tanh", ["m"], ["y"])]
    assert prove(model(nodes, {"w": floats(4, 2)}, [7, "N", 4]), axis=1) == {"y": 1}


def test_tokens_are_looked_up_by_row() -> None:
    nodes = [make_node("Gather", ["table", "x"], ["e"]), make_node("Add", ["e", "p"], ["y"])]
    weights = {"table": floats(50, 4), "p": floats(1, 6, 4)}
    assert prove(model(nodes, weights, ["N", 6], "INT64")) == {"y": 0}


TOGETHER: dict[str, tuple[list[NodeProto], Weights, list[int | str]]] = {
    "mean of all rows": ([make_node("ReduceMean", ["x"], ["y"], axes=[0])], {}, ["N", 4]),
    "difference from the mean of all rows": (
        [
            make_node("ReduceMean", ["x"], ["m"], axes=[0]),
            make_node("Sub", ["x", "m"], ["y"]),
        ],
        {},
        ["N", 4],
    ),
    "softmax over the batch": ([make_node("Softmax", ["x"], ["y"], axis=0)], {}, ["N", 4]),
    "sum of everything": ([make_node("ReduceSum", ["x"], ["y"])], {}, ["N", 4]),
    "products of rows": (
        [make_node("Transpose", ["x"], ["t"], perm=[1, 0]), make_node("MatMul", ["x", "t"], ["y"])],
        {},
        ["N", 4],
    ),
    "sums along the batch": (
        [make_node("CumSum", ["x", "zero"], ["y"])],
        {"zero": ints(0)[0]},
        ["N", 4],
    ),
    "the first row for all": (
        [make_node("Gather", ["x", "first"], ["f"]), make_node("Add", ["x", "f"], ["y"])],
        {"first": ints(0)},
        ["N", 4],
    ),
    "rows from the last to the first": (
        [make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])],
        {"start": ints(-1), "end": ints(-100), "axis": ints(0), "step": ints(-1)},
        ["N", 4],
    ),
    "the number of rows": (
        [
            make_node("Shape", ["x"], ["s"], end=1),
            make_node("Cast", ["s"], ["n"], to=TensorProto.FLOAT),
            make_node("Div", ["x", "n"], ["y"]),
        ],
        {},
        ["N", 4],
    ),
    "the number of each row": (
        [
            make_node("Shape", ["x"], ["s"], end=1),
            make_node("Squeeze", ["s"], ["n"]),
            make_node("Range", ["zero", "n", "one"], ["r"]),
            make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
            make_node("Unsqueeze", ["f", "last"], ["c"]),
            make_node("Add", ["x", "c"], ["y"]),
        ],
        {"zero": ints(0)[0], "one": ints(1)[0], "last": ints(1)},
        ["N", 4],
    ),
    "rows among others": (
        [make_node("Concat", ["w", "x"], ["y"], axis=0)],
        {"w": floats(1, 4)},
        ["N", 4],
    ),
    "rows next to each other": (
        [
            make_node("Reshape", ["x", "pairs"], ["p"]),
            make_node("ReduceMax", ["p"], ["y"], axes=[1]),
        ],
        {"pairs": ints(2, -1, 4)},
        ["N", 4],
    ),
    "rows inside of the other dimension": (
        [
            make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
            make_node("Reshape", ["t", "flat"], ["f"]),
            make_node("Reshape", ["f", "rows"], ["y"]),
        ],
        {"flat": ints(-1), "rows": ints(-1, 4)},
        ["N", 4],
    ),
    "a position in the batch": ([make_node("ArgMax", ["x"], ["y"], axis=0)], {}, ["N", 4]),
    "sorted rows": ([make_node("TopK", ["x", "k"], ["y", "i"], axis=0)], {"k": ints(2)}, ["N", 4]),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_rows_that_influence_each_other(name: str) -> None:
    with pytest.raises(NotProven, match=r"^as "):
        prove(model(*TOGETHER[name]), (4, 6))
