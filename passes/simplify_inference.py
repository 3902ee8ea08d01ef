"""A pass that removes operators of training and identities.

- `dropout` becomes its operand;
- `batch_norm` becomes a multiplication and an addition per channel, with constants computed here;
- a sum over stacked tensors becomes additions;
- reshapes, casts, broadcasts and transpositions that change nothing become their operands.

Weights must be constants. `FoldBatchNorm` moves the multiplications into convolutions afterwards.
"""

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main
from hios_tvm.passes.fold_constants import fold

_MAY_CHANGE_NOTHING = (
    "relax.reshape",
    "relax.astype",
    "relax.broadcast_to",
    "relax.squeeze",
    "relax.flatten",
)


@tvm.transform.module_pass(opt_level=0, name="SimplifyInference")
class SimplifyInference:
    """Remove training-time operators and identities, and evaluate operators on constants."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, _simplify)


def _simplify(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    if isinstance(value, relax.TupleGetItem):
        return _first_of_training_operator(rewriter, value)
    if _changes_nothing(value):
        return value.args[0]
    if operator_name(value) == "relax.sum":
        return _sum_of_stacked(rewriter, value)
    return fold(rewriter, value)


def _first_of_training_operator(rewriter: Rewriter, item: relax.TupleGetItem) -> relax.Expr:
    producer = rewriter.producer(item.tuple_value, ("relax.nn.dropout", "relax.nn.batch_norm"))
    if item.index != 0 or producer is None:
        return item
    if operator_name(producer) == "relax.nn.dropout":
        return producer.args[0]
    if producer.attrs.training:
        return item
    scaled = _scale_and_shift(rewriter, producer)
    return item if scaled is None else scaled


def _sum_of_stacked(rewriter: Rewriter, total: Call) -> relax.Expr:
    """Return additions for a sum over stacked tensors, as the frontend imports ONNX's Sum."""
    stack = rewriter.producer(total.args[0], ("relax.stack",))
    if stack is None or not isinstance(stack.args[0], relax.Tuple):
        return total
    axes = total.attrs.axis
    first, *rest = stack.args[0].fields
    if axes is None or [int(a) for a in axes] != [int(stack.attrs.axis)] or total.attrs.keepdims:
        return total
    for operand in rest[:-1]:
        first = rewriter.emit(relax.op.add(first, operand))
    return relax.op.add(first, rest[-1]) if rest else first


def _scale_and_shift(rewriter: Rewriter, norm: Call) -> relax.Expr | None:
    """Return ``data * scale + shift``, or None where a statistic is not constant."""
    data, *parameters = norm.args
    arrays = [constant_value(parameter) for parameter in parameters]
    if any(array is None for array in arrays):
        return None
    gamma, beta, mean, variance = (np.asarray(array, "float64") for array in arrays)
    attrs = norm.attrs
    scale = 1 / np.sqrt(variance + attrs.epsilon)
    if attrs.scale:
        scale = scale * gamma
    shift = (beta if attrs.center else 0) - mean * scale
    axis = int(attrs.axis) % data.ty.ndim
    shape = [-1 if i == axis else 1 for i in range(data.ty.ndim)]
    dtype = str(data.ty.dtype.dtype)
    scaled = rewriter.emit(relax.op.multiply(data, relax.const(scale.reshape(shape), dtype)))
    return relax.op.add(scaled, relax.const(shift.reshape(shape), dtype))


def _changes_nothing(value: relax.Expr) -> bool:
    name = operator_name(value)
    if name in _MAY_CHANGE_NOTHING:
        return bool(tvm_ffi.structural_equal(value.ty, value.args[0].ty))
    if name == "relax.permute_dims":
        axes = value.attrs.axes
        return axes is not None and list(axes) == sorted(int(axis) for axis in axes)
    return False
