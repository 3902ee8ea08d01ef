"""Operators whose inputs hold indices, lengths or divisors, with the values that are valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx_models import make_model, node, noise

import hios_tvm

Array = np.ndarray[Any, Any]
X = noise(4, 3, 5)
INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class Case:
    """An operator whose input `name` of `shape` may hold the numbers from `low` to `high`.

    Of several ranges, each is that of one element of the last dimension.
    """

    node: onnx.NodeProto
    others: Mapping[str, Array]
    shape: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    name: str = "i"
    dtype: type[np.generic] = np.int64
    opset: int = 18


def index(op: str, shape: tuple[int, ...], *extents: int, **options: Any) -> Case:
    """Indices that may count from the end; the data is `X`."""
    opset, dtype = options.pop("opset", 18), options.pop("dtype", np.int64)
    others = {"x": X, **options.pop("others", {})}
    inputs = " ".join(["x", "i", *list(others)[1:]])
    low, high = tuple(-extent for extent in extents), tuple(extent - 1 for extent in extents)
    made = node(op, inputs, "y", **options)
    return Case(made, others, shape, low, high, dtype=dtype, opset=opset)


U = {"u": noise(2, 3, 5, seed=1)}
CASES = {
    "Gather": index("Gather", (2, 2), 3, axis=1),
    "Gather of 32 bits": index("Gather", (3,), 4, dtype=np.int32),
    "GatherElements": index("GatherElements", (4, 3, 2), 5, axis=2),
    "GatherND": index("GatherND", (2, 2), 4, 3),
    "GatherND of one": index("GatherND", (4, 1), 3, batch_dims=1),
    "ScatterND": index("ScatterND", (2, 1), 4, others=U),
    "ScatterND of elements": index("ScatterND", (2, 3), 4, 3, 5, others={"u": noise(2)}),
    "ScatterND add": index("ScatterND", (2, 1), 4, others=U, reduction="add"),
    "ScatterElements": index("ScatterElements", (1, 3, 5), 4, others={"u": noise(1, 3, 5)}),
    "Scatter": index("Scatter", (1, 3, 5), 4, others={"u": noise(1, 3, 5)}, opset=10),
    "ReverseSequence": Case(
        node("ReverseSequence", "x i", "y", time_axis=0, batch_axis=1), {"x": X}, (3,), (0,), (4,)
    ),
    "MaxUnpool": Case(
        node("MaxUnpool", "x i", "y", kernel_shape=[2, 2], strides=[2, 2]),
        {"x": noise(1, 1, 2, 2)},
        (1, 1, 2, 2),
        (0,),
        (15,),
    ),
    "RoiAlign": Case(
        node("RoiAlign", "x r i", "y", output_height=2, output_width=2, sampling_ratio=1),
        {"x": noise(3, 1, 6, 6), "r": np.array([[0, 0, 4, 4], [1, 1, 5, 5]], np.float32)},
        (2,),
        (0,),
        (2,),
    ),
    "LSTM": Case(
        node("LSTM", "x w r b i", "y", hidden_size=2),
        {
            "x": noise(3, 2, 4),
            "w": noise(1, 8, 4),
            "r": noise(1, 8, 2),
            "b": noise(1, 16),
        },
        (2,),
        (0,),
        (3,),
        dtype=np.int32,
    ),
    "OneHot": Case(
        node("OneHot", "i d v", "y"),
        {"v": np.array([0, 1], np.float32)},
        (5,),
        (INT64.min,),
        (INT64.max,),
    ),
}
CONSTANTS = {"d": np.array(6)}


def model_of(case: Case) -> onnx.ModelProto:
    arrays = {**case.others, case.name: np.zeros(case.shape, case.dtype)}
    element = onnx.helper.np_dtype_to_tensor_dtype
    inputs = [
        onnx.helper.make_tensor_value_info(name, element(arrays[name].dtype), arrays[name].shape)
        for name in case.node.input
        if name in arrays
    ]
    constants = [
        onnx.numpy_helper.from_array(array, name)
        for name, array in CONSTANTS.items()
        if name in case.node.input
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in case.node.output]
    graph = onnx.helper.make_graph([case.node], "values", inputs, outputs, constants)
    opset = onnx.helper.make_opsetid("", case.opset)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)


def compiled(module: Any, path: Path, reference: Any = None) -> hios_tvm.Session:
    options = hios_tvm.CompileOptions(devices=("cpu@0",), scheduler="sequential", cache_dir=None)
    hios_tvm.compile_model(module, path, options, reference=reference)
    return hios_tvm.load(path)


def is_ambiguous(case: Case, values: Array) -> bool:
    """Whether two updates have one target: which of them stays is not defined."""
    if "catter" not in case.node.op_type or any(a.name == "reduction" for a in case.node.attribute):
        return False
    extents = np.array(case.high) + 1
    rows = (values % extents).reshape(-1, len(extents))
    if case.node.op_type == "ScatterND":
        return len(np.unique(rows, axis=0)) < len(rows)
    return False  # one update for each place along the other axes


def is_valid(case: Case, values: Array) -> bool:
    """Whether all of `values` are in their ranges."""
    rows = values.reshape(-1, len(case.low)).astype(object)
    return bool(((rows >= np.array(case.low)) & (rows <= np.array(case.high))).all())


DIVISIONS = {
    "Div": node("Div", "a i", "y"),
    "Mod": node("Mod", "a i", "y"),
    "Mod fmod": node("Mod", "a i", "y", fmod=1),
}


def division_model(made: onnx.NodeProto, dtype: type[np.generic]) -> onnx.ModelProto:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return make_model([made], {"a": [3], "i": [3]}, ["y"], opset=18, element=element)
