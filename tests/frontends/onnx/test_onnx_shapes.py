"""Operators that change shapes and move elements, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import (
    NodeCase,
    assert_cases_agree,
    assert_same_outputs,
    case,
    joined_model,
    make_model,
    node,
    noise,
)

from hios_tvm.errors import DynamicShapeError, ModelError
from hios_tvm.frontends.onnx import from_onnx

X = noise(2, 3, 4)
INT64_MAX, INT64_MIN = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def of_x(op: str, *weights: Any, x: np.ndarray = X, **attributes: Any) -> NodeCase:
    """A node on `x`, and on weights that are known."""
    known = {f"w{i}": np.asarray(weight) for i, weight in enumerate(weights) if weight is not None}
    order = ["x", *("" if weight is None else f"w{i}" for i, weight in enumerate(weights))]
    return case(op, {"x": x}, known, order=order, **attributes)


def outputs(count: int) -> list[str]:
    return [f"y{i}" for i in range(count)]


SHAPES = {
    "shape": of_x("Shape"),
    "shape from": of_x("Shape", start=1),
    "shape part": of_x("Shape", start=-2, end=-1),
    "shape beyond": of_x("Shape", start=-10, end=10),
    "shape of nothing": of_x("Shape", start=2, end=1),
    "shape of a scalar": of_x("Shape", x=noise()),
    "size": of_x("Size"),
    "size of a scalar": of_x("Size", x=noise()),
    "size of an empty one": of_x("Size", x=noise(2, 0, 3)),
    "reshape": of_x("Reshape", ints(4, 6)),
    "reshape inferred": of_x("Reshape", ints(2, -1)),
    "reshape copied": of_x("Reshape", ints(0, -1)),
    "reshape to a scalar": of_x("Reshape", ints(), x=noise(1, 1)),
    "reshape empty": of_x("Reshape", ints(0, 5, 3), x=noise(0, 3, 5)),
    "reshape empty inferred": of_x("Reshape", ints(3, -1), x=noise(0, 3)),
    "reshape allowing zero": of_x("Reshape", ints(3, 0, 2), x=noise(0, 3), allowzero=1),
    "flatten": of_x("Flatten"),
    "flatten at 0": of_x("Flatten", axis=0),
    "flatten at the rank": of_x("Flatten", axis=3),
    "flatten negative": of_x("Flatten", axis=-1),
    "flatten an empty one": of_x("Flatten", x=noise(0, 3, 2)),
    "squeeze": of_x("Squeeze", x=noise(1, 3, 1)),
    "squeeze axes": of_x("Squeeze", ints(-1), x=noise(1, 3, 1)),
    "squeeze to a scalar": of_x("Squeeze", x=noise(1)),
    "unsqueeze": of_x("Unsqueeze", ints(0, -1)),
    "unsqueeze unordered": of_x("Unsqueeze", ints(3, 0, 1)),
    "unsqueeze a scalar": of_x("Unsqueeze", ints(0), x=noise()),
    "transpose": of_x("Transpose"),
    "transpose order": of_x("Transpose", perm=[1, 2, 0]),
    "transpose a scalar": of_x("Transpose", x=noise()),
    "transpose a vector": of_x("Transpose", x=noise(3)),
    "transpose bools": of_x("Transpose", x=X > 0),
    "transpose an empty one": of_x("Transpose", x=noise(2, 0, 3)),
    "tile": of_x("Tile", ints(2, 1, 3)),
    "tile a vector": of_x("Tile", ints(3), x=noise(4)),
    "tile rows": of_x("Tile", ints(3, 1), x=noise(1, 4)),
    "tile nothing": of_x("Tile", ints(2, 0, 3)),
    "tile integers": of_x("Tile", ints(2, 2, 1), x=np.arange(24).reshape(2, 3, 4)),
    "expand": of_x("Expand", ints(2, 3, 5), x=noise(3, 1)),
    "expand keeps": of_x("Expand", ints(1, 1), x=noise(2, 3)),
    "expand a scalar": of_x("Expand", ints(2, 3), x=noise()),
    "expand to nothing": of_x("Expand", ints(0, 3), x=noise(1, 3)),
    "expand bools": of_x("Expand", ints(4, 2, 3, 4), x=X > 0),
    "concat": case("Concat", {"a": noise(2, 3), "b": noise(2, 1), "c": noise(2, 0)}, axis=-1),
    "concat with a weight": case("Concat", {"a": noise(2, 3)}, {"b": noise(1, 3)}, axis=0),
    "concat one": case("Concat", {"a": noise(2, 3)}, axis=0),
    "concat nothing": case("Concat", {"a": noise(0, 3), "b": noise(0, 3)}, axis=0),
    "concat bools": case("Concat", {"a": noise(2) > 0, "b": noise(3) > 0}, axis=0),
    "split": of_x("Split", axis=2, outputs=outputs(2)),
    "split unequal": of_x("Split", ints(1, 3), axis=-1, outputs=outputs(2)),
    "split with nothing": of_x("Split", ints(0, 4, 0), axis=2, outputs=outputs(3)),
    "split in one": of_x("Split", axis=1, outputs=outputs(1)),
    "split integers": of_x("Split", x=np.arange(6), outputs=outputs(3)),
}

SLICES = {
    "slice": of_x("Slice", ints(1, 0), ints(2, 3), ints(1, 2)),
    "slice without axes": of_x("Slice", ints(0, 1), ints(1, INT64_MAX)),
    "slice from the end": of_x("Slice", ints(-3), ints(-1), ints(-1)),
    "slice with steps": of_x("Slice", ints(0, 3), ints(100, 0), ints(1, 2), ints(2, -1)),
    "slice reversed": of_x("Slice", ints(-1), ints(INT64_MIN), ints(2), ints(-1)),
    "slice reversed far": of_x("Slice", ints(100), ints(-100), ints(2), ints(-3)),
    "slice reversed, start before": of_x("Slice", ints(-100), ints(-101), ints(2), ints(-1)),
    "slice to a large end": of_x("Slice", ints(0), ints(2**31 - 1), ints(0)),
    "slice of 32 bits": of_x("Slice", np.array([1], np.int32), np.array([9], np.int32)),
    "slice nothing": of_x("Slice", ints(2), ints(1), ints(2)),
    "slice beyond": of_x("Slice", ints(10), ints(20), ints(2)),
    "slice nothing of nothing": of_x("Slice", ints(0), ints(1), ints(0), x=noise(0, 2)),
    "slice bools": of_x("Slice", ints(3), ints(0), ints(2), ints(-2), x=X > 0),
}


@pytest.mark.parametrize("opset", [17, 23])
def test_shapes(opset: int) -> None:
    cases = {label: entry for label, entry in SHAPES.items() if opset < 18 or "split" not in label}
    if opset >= 18:
        cases |= {
            "split": of_x("Split", axis=2, num_outputs=2, outputs=outputs(2)),
            "split uneven": of_x("Split", axis=1, num_outputs=2, outputs=outputs(2)),
            "split unequal": of_x("Split", ints(1, 3), axis=-1, outputs=outputs(2)),
        }
    assert_cases_agree(cases, opset=opset)


def test_slices() -> None:
    assert_cases_agree(SLICES)


def test_attributes_of_old_versions() -> None:
    cases = {
        "reshape": of_x("Reshape", ints(4, 0, 2)),
        "flatten": of_x("Flatten", axis=2),
        "squeeze": of_x("Squeeze", x=noise(1, 3, 1), axes=[2]),
        "unsqueeze": of_x("Unsqueeze", axes=[0, 2]),
        "split": of_x("Split", axis=1, split=[1, 2], outputs=outputs(2)),
        "split equally": of_x("Split", x=noise(4, 2), outputs=outputs(2)),
        "slice": of_x("Slice", axes=[2, 1], starts=[1, -2], ends=[-1, 100]),
        "slice without axes": of_x("Slice", starts=[1, 0], ends=[2, -1]),
        "pad": of_x("Pad", pads=[0, 1, 2, 0, 0, 1], value=1.5),
        "pad by reflection": of_x("Pad", pads=[0, 1, 2, 0, 0, 1], mode="reflect"),
        "concat": case("Concat", {"a": noise(2, 3), "b": noise(2, 1)}, axis=1),
        "tile": of_x("Tile", ints(2, 1, 3)),
    }
    assert_cases_agree(cases, opset=9)


def test_the_first_versions() -> None:
    """ONNX Runtime lacks these: the numbers follow from NumPy."""
    cases = {
        "reshape": of_x("Reshape", shape=[0, -1]),
        "concat": case("Concat", {"a": noise(2, 3), "b": noise(2, 1)}),
        "tile": of_x("Tile", np.array(3, np.float32), np.array(1, np.float32)),
        "split": of_x("Split", axis=1, split=[1, 2], outputs=outputs(2)),
    }
    module = from_onnx(joined_model(cases, opset=1))
    shapes = [tuple(map(int, field.shape)) for field in module["main"].ret_ty.fields]
    assert shapes == [(2, 12), (2, 4), (2, 9, 4), (2, 1, 4), (2, 2, 4)]


def pads(dtype: Any) -> dict[str, NodeCase]:
    x = np.arange(-6, 18).reshape(2, 3, 4).astype(dtype)
    value = np.array(3, dtype)
    return {
        f"pad {dtype.__name__}": of_x("Pad", ints(0, 1, 2, 1, 0, 1), x=x),
        f"pad with {dtype.__name__}": of_x("Pad", ints(0, 1, 2, 1, 0, 1), value, x=x),
        f"pad edge {dtype.__name__}": of_x("Pad", ints(0, 2, 1, 1, 0, 3), x=x, mode="edge"),
        f"reflect {dtype.__name__}": of_x("Pad", ints(0, 2, 1, 1, 0, 3), x=x, mode="reflect"),
    }


PADS = {
    "pad cut": of_x("Pad", ints(0, -1, 2, 0, 0, -1)),
    "pad cut to nothing": of_x("Pad", ints(0, -1, 0, 0, -2, 0)),
    "pad with infinity": of_x("Pad", ints(0, 0, 2, 0, 0, 1), np.array(-np.inf, np.float32)),
    "pad with nan": of_x("Pad", ints(0, 0, 2, 0, 0, 1), np.array(np.nan, np.float32)),
    "pad nothing": of_x("Pad", ints(0, 0, 0, 0, 0, 0)),
    "pad an empty one": of_x("Pad", ints(1, 0, 1, 0), np.array(2, np.float32), x=noise(0, 2)),
    "pad a large integer": of_x(
        "Pad", ints(1, 1), np.array(2**53 + 1), x=np.array([2**60 + 1, -5])
    ),
    "pad with an input": case(
        "Pad", {"x": X, "v": noise()}, {"p": ints(0, 0, 1, 2, 0, 1)}, order=["x", "p", "v"]
    ),
    "reflect a single element": of_x("Pad", ints(0, 0), x=noise(1), mode="reflect"),
    "image": of_x("Pad", ints(0, 0, 1, 2, 0, 0, 3, 1), x=noise(1, 2, 4, 5), mode="reflect"),
    **pads(np.int32),
    **pads(np.int64),
    **pads(np.uint8),
    **pads(np.float64),
}


def test_pads() -> None:
    assert_cases_agree(PADS, opset=13)


def test_pads_along_axes() -> None:
    cases = {
        "axes": of_x("Pad", ints(1, 2, 0, 1), None, ints(-1, 0)),
        "axes and value": of_x("Pad", ints(2, 1), np.array(2, np.float32), ints(1)),
        "wrap": of_x("Pad", ints(1, 3), None, ints(2), mode="wrap"),
        "no axes": of_x("Pad", ints(), None, ints()),
        "bools": of_x("Pad", ints(1, 2), np.array(True), ints(0), x=X > 0),
    }
    assert_cases_agree(cases, opset=19)


def test_reflection_and_wrapping_more_than_once() -> None:
    """As NumPy does it, and ONNX's reference after it."""
    cases = {
        "reflect": of_x("Pad", ints(7, 9), x=noise(4), mode="reflect"),
        "reflect one": of_x("Pad", ints(3, 2), x=noise(1), mode="reflect"),
        "wrap": of_x("Pad", ints(9, 10), x=noise(4), mode="wrap"),
        "half": of_x("Pad", ints(1, 2), x=noise(4).astype(np.float16), mode="wrap"),
        "brain": of_x("Pad", ints(1, 2), x=noise(4).astype(ml_dtypes.bfloat16)),
    }
    assert_cases_agree(cases, opset=21, reference=True)


def test_center_crop_and_pad() -> None:
    cases = {
        "both": of_x("CenterCropPad", ints(3, 2, 7)),
        "odd": of_x("CenterCropPad", ints(1, 1, 1)),
        "axes": of_x("CenterCropPad", ints(9, 1), axes=[-1, 0]),
        "nothing": of_x("CenterCropPad", ints(0), axes=[1]),
        "integers": of_x("CenterCropPad", ints(4), x=np.arange(3), axes=[0]),
    }
    assert_cases_agree(cases, opset=18, reference=True)


def test_filled_tensors() -> None:
    value = helper.make_tensor("v", TensorProto.INT32, [1], [7])
    half = numpy_helper.from_array(np.array([0.5], np.float16))
    upper, lower = {"upper": 1}, {"upper": 0}
    cases = {
        "eye": of_x("EyeLike", x=noise(3, 4)),
        "eye above": of_x("EyeLike", x=noise(3, 4), k=1, dtype=TensorProto.INT64),
        "eye below": of_x("EyeLike", x=noise(3, 4), k=-5),
        "upper": of_x("Trilu", x=noise(2, 3, 4), **upper),
        "upper k": of_x("Trilu", np.array(1), x=noise(3, 4), **upper),
        "lower k": of_x("Trilu", np.array(-1), x=noise(3, 4), **lower),
        "lower far": of_x("Trilu", np.array(-9), x=noise(3, 4), **lower),
        "of integers": of_x("Trilu", np.array(0), x=np.arange(12).reshape(3, 4), **lower),
        "k at run time": case("Trilu", {"x": noise(3, 4), "k": np.array(2)}),
        "nan": of_x("Trilu", x=np.full((3, 3), np.nan, np.float32)),
        "constant": case("ConstantOfShape", {}, {"s": ints(2, 3)}, value=value),
        "constant half": case("ConstantOfShape", {}, {"s": ints()}, value=half),
        "constant of nothing": case("ConstantOfShape", {}, {"s": ints(2, 0)}),
        "range": case("Range", {}, {"a": np.array(1), "b": np.array(10), "c": np.array(3)}),
        "range down": case("Range", {}, {"a": np.array(1), "b": np.array(-4), "c": np.array(-2)}),
        "range of nothing": case("Range", {}, {"a": ints(3)[0], "b": ints(1)[0], "c": ints(1)[0]}),
    }
    assert_cases_agree(cases)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (of_x("Reshape", ints(5, -1)), r"shape \[2, 3, 4\] cannot take the shape \[5, -1\]"),
        (of_x("Reshape", ints(-1, -1)), "is not a shape"),
        (of_x("Reshape", ints(2, 3, 4, 0)), "copies more dimensions"),
        (of_x("Flatten", axis=4), "axis 4 is not an axis of 3 dimensions"),
        (of_x("Squeeze", ints(0)), "dimension 0 of shape .* is not 1"),
        (of_x("Unsqueeze", ints(0, 0)), "names an axis twice"),
        (of_x("Transpose", perm=[0, 0, 1]), "is not an order of 3 axes"),
        (
            case("Concat", {"a": noise(2, 3), "b": noise(3, 3)}, axis=1),
            "differ in more than axis 1",
        ),
        (of_x("Split", ints(1, 1), axis=2, outputs=outputs(2)), r"cannot be split into parts"),
        (of_x("Split", axis=1, outputs=outputs(2)), "of 3 has no 2 equal parts"),
        (of_x("Slice", ints(1), ints(2), ints(0), ints(0)), "a step is 0"),
        (of_x("Slice", ints(1), ints(2), ints(0, 1)), "different lengths"),
        (of_x("Tile", ints(1, 2)), "do not fit the shape"),
        (of_x("Expand", ints(2, 2, 4)), "could not be broadcast|shape mismatch"),
        (of_x("Pad", ints(1, 2)), "2 pads do not fit 3 axes"),
        (of_x("Pad", ints(0, 0, -3, 0, 0, -2)), "cut more than the extent 4"),
        (of_x("Trilu", x=noise(3)), "at least two dimensions"),
    ],
)
def test_nodes_that_break_a_rule(entry: NodeCase, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_onnx(joined_model({"bad": entry}, opset=13 if entry.node.op_type == "Split" else 17))


@pytest.mark.parametrize("op", ["Reshape", "Expand", "Tile", "Unsqueeze"])
def test_shapes_that_depend_on_data(op: str) -> None:
    entry = case(op, {"x": X, "s": ints(1, 2, 3)})
    with pytest.raises(DynamicShapeError, match=r"bad.* are not known before the model runs"):
        from_onnx(joined_model({"bad": entry}))


CHAINS = {
    "constant of integers": [
        node("Constant", "", "s", value_ints=[3, 2]),
        node("Reshape", "x s", "y"),
    ],
    "constant of a float": [node("Constant", "", "s", value_float=0.5), node("Mul", "x s", "y")],
    "shape as output": [node("Shape", "x", "y")],
    "wide integers": [node("Shape", "x", "s"), node("Add", "s big", "y")],
    "copies along axes": [
        node("Constant", "", "repeats", value_ints=[3, 2]),
        node("Tile", "x repeats", "y"),
    ],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_shape_operators_that_tvm_lacks_or_converts_wrongly(chain: str) -> None:
    weights = {"big": np.array([2**40, -(2**33)])}
    model = make_model(CHAINS[chain], {"x": (2, 3)}, ["y"], weights)
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 3)})
