"""Evaluation of operators on constants with NumPy.

`relax.transform.FoldConstant` compiles and runs a kernel for every fold, which takes most of a
minute on a network with large weights; NumPy needs no compilation. Operators that are not in the
table stay in the program and run as kernels.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main
from hios_tvm.runtime.memory_limit import check_memory
from hios_tvm.schema.dtypes import element_type


def _shape(value: relax.Expr) -> list[int]:
    return [int(extent) for extent in value]


def _axes(values: Any) -> tuple[int, ...] | None:
    return None if values is None else tuple(int(value) for value in values)


def _concat(call: Call, *arrays: np.ndarray) -> np.ndarray:
    axis = call.attrs.axis
    if axis is None:
        return np.concatenate([array.ravel() for array in arrays])
    return np.concatenate(arrays, int(axis))


_EVALUATORS: dict[str, Callable[..., np.ndarray]] = {
    "relax.add": lambda _, a, b: a + b,
    "relax.subtract": lambda _, a, b: a - b,
    "relax.multiply": lambda _, a, b: a * b,
    "relax.maximum": lambda _, a, b: np.maximum(a, b),
    "relax.minimum": lambda _, a, b: np.minimum(a, b),
    "relax.negative": lambda _, a: -a,
    "relax.sqrt": lambda _, a: np.sqrt(a),
    "relax.rsqrt": lambda _, a: (1 / np.sqrt(a)).astype(a.dtype),
    "relax.astype": lambda call, a: a.astype(str(call.attrs.dtype)),
    "relax.broadcast_to": lambda call, a: np.broadcast_to(a, _shape(call.args[1])),
    "relax.reshape": lambda call, a: a.reshape(_shape(call.args[1])),
    "relax.flatten": lambda _, a: a.ravel(),
    "relax.squeeze": lambda call, a: np.squeeze(a, _axes(call.attrs.axis)),
    "relax.concat": _concat,
    "relax.expand_dims": lambda call, a: np.expand_dims(a, tuple(map(int, call.attrs.axis))),
    "relax.permute_dims": lambda call, a: np.transpose(a, _axes(call.attrs.axes)),
}

_FLOAT_DIVIDE = "relax.divide"


def evaluate(value: relax.Expr) -> np.ndarray | None:
    """Return the value of a call on constants, or None if it has other operands or no evaluator."""
    name = operator_name(value)
    if name not in _EVALUATORS and name != _FLOAT_DIVIDE:
        return None
    operands: list[Any] = []
    for arg in value.args:
        fields = arg.fields if isinstance(arg, relax.Tuple) else [arg]
        for field in fields:
            if isinstance(field, relax.ShapeExpr):
                continue
            operand = constant_value(field)
            if operand is None:
                return None
            operands.append(operand)
    if name == _FLOAT_DIVIDE:
        floating = all(operand.dtype.kind == "f" for operand in operands)
        return operands[0] / operands[1] if floating else None
    return np.asarray(_EVALUATORS[name](value, *operands))


def _nbytes(ty: tvm.ir.Type) -> int:
    """Bytes of a tensor; operators with several results are not evaluated."""
    if not isinstance(ty, relax.TensorType):
        return 0
    return math.prod(map(int, ty.shape)) * element_type(str(ty.dtype)).nbytes


@tvm.transform.module_pass(opt_level=0, name="FoldConstants")
class FoldConstants:
    """Replace operators on constants by their values."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, fold)


def fold(_rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    """Return the constant that `value` is, or `value` itself."""
    if operator_name(value):
        check_memory(_nbytes(value.ty), f"a result of {operator_name(value)}")
    result = evaluate(value)
    return value if result is None else relax.const(np.ascontiguousarray(result), result.dtype.name)
