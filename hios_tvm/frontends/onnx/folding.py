"""Nodes on constants, computed at import with ONNX's reference implementation.

Without it shapes that exporters compute step by step would not be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator
from tvm.ir import GenericConst

from hios_tvm.frontends.division import Part, why_undefined
from hios_tvm.frontends.onnx.operators.call import Value
from hios_tvm.frontends.tensors import shape_of

MAX_ELEMENTS = 1 << 20
"""Up to this size constants are computed with: shapes, indices, small weights."""

MAX_MOVED_ELEMENTS = 1 << 28
"""The same for operators that only arrange values: weights, however they were written."""

MOVING_OPERATORS = frozenset(
    {"Cast", "CastLike", "Concat", "DequantizeLinear", "Identity", "Reshape", "Split", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)

FOLDED_OPERATORS = MOVING_OPERATORS.union(
    ("Abs", "Add", "Ceil", "Clip", "Cos", "CumSum", "Div", "Erf", "Exp", "Floor", "Log", "MatMul"),
    ("Max", "Mean", "Min", "Mod", "Mul", "Neg", "Pow", "QuantizeLinear", "Reciprocal", "Round"),
    ("Relu", "Sigmoid", "Sign", "Sin", "Sqrt", "Sub", "Sum", "Tan", "Tanh"),
    ("ArgMax", "ArgMin", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
    ("And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Equal", "Greater"),
    ("GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Where", "Xor"),
    ("Constant", "ConstantOfShape", "Expand", "EyeLike", "Flatten", "Pad", "Range", "Shape"),
    ("Size", "Tile", "Trilu", "Gather", "GatherElements", "GatherND", "NonMaxSuppression"),
    ("NonZero", "ScatterElements", "ScatterND", "Unique"),
)
"""Those whose reference implementation gives ONNX Runtime's results.

Not OneHot (which wraps indices), Slice (starts far before a reversed dimension), TopK (order of
NaNs), ReduceSumSquare (type of the result), nor anything random.
"""


def fold(
    node: NodeProto, inputs: Mapping[str, Value], opset: int, elements: int
) -> list[np.ndarray] | None:
    """Compute a node; None where that is not possible, not known to be right, or too large.

    Integers without a quotient are a `ValueError`.

    Parameters
    ----------
    node : NodeProto
        Of the default domain.
    inputs : mapping of input name to value
    opset : int
        Version of the default domain.
    elements : int
        Elements of all results, as far as they are known before.
    """
    constants = [value for value in inputs.values() if isinstance(value, GenericConst)]
    is_known = len(constants) == len(inputs) and (constants or node.op_type == "Constant")
    limit = MAX_MOVED_ELEMENTS if node.op_type in MOVING_OPERATORS else MAX_ELEMENTS
    if (
        node.op_type not in FOLDED_OPERATORS
        or not is_known
        or max(elements, sum(prod(shape_of(value)) for value in constants)) > limit
    ):
        return None
    arrays = [value.value.numpy() for value in constants]
    if node.op_type in ("Div", "Mod") and arrays[0].dtype.kind in "iu":
        values = dict(zip(inputs, arrays, strict=True))
        part: Part = "quotient" if node.op_type == "Div" else "modulus"
        left, right = (values[name] for name in node.input)
        why = why_undefined(left, right, part)
        if why:
            raise ValueError(why)
    version = [helper.make_opsetid("", opset)]
    function = helper.make_function("hios", "fold", [*inputs], node.output, [node], version)
    try:
        with np.errstate(all="ignore"):
            feeds = dict(zip(inputs, arrays, strict=True))
            results = ReferenceEvaluator(function).run(None, feeds, attributes={})
    except Exception:  # what it cannot compute, a converter may still convert
        return None
    return [np.asarray(result) for result in results]
