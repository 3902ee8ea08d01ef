"""Truth values: comparisons, connectives, choices; and what changes nothing at inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from tvm import relax

from hios_tvm.frontends.onnx.operators.arithmetic import binary, operands, unary
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.precision import widened
from hios_tvm.frontends.tensors import array_of, constant, constant_of, dtype_of, shape_of


def comparison(function: Callable[..., relax.Expr]) -> Converter:
    def convert(call: OperatorCall) -> Value:
        left, right = operands(call)
        return function(_comparable(call, left), _comparable(call, right))

    return convert


def _comparable(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    """TVM compares bools as signed numbers of one bit, of which true is less than false."""
    return call.cast(x, "uint8") if dtype_of(x) == "bool" else widened(call, x)


def is_inf(call: OperatorCall) -> Value:
    x = widened(call, call.tensor(0))
    both = constant_of(np.zeros(shape_of(x), bool))
    for name, sign in (("detect_negative", -1), ("detect_positive", 1)):
        if call.attributes.flag(name, True):
            found = call.emit(relax.op.equal(x, constant(sign * np.inf, dtype_of(x))))
            both = found if array_of(both) is not None else relax.op.logical_or(both, found)
    return both


def dropout(call: OperatorCall) -> Value | list[Value]:
    """The input as it is, and a mask that keeps everything."""
    call.attributes.ignore("ratio", "seed")
    x = call.tensor(0)
    if _is_training(call):
        raise call.unsupported("it is in training mode; export the model for inference")
    mask = np.ones(shape_of(x), bool)
    kept = constant_of(mask) if call.version >= 10 else constant(mask, dtype_of(x))
    return [x, kept]


def _is_training(call: OperatorCall) -> bool:
    if call.version < 7:
        return not call.attributes.flag("is_test")
    training = call.argument(2)
    if training is None or _is_zero(training):
        return False
    return not _is_zero(call.argument(1))


def _is_zero(value: Value) -> bool:
    array = array_of(value)
    return array is not None and not array.any()


OPERATORS: Mapping[str, Converter] = {
    "And": binary(relax.op.logical_and),
    "Dropout": dropout,
    "Equal": comparison(relax.op.equal),
    "Greater": comparison(relax.op.greater),
    "GreaterOrEqual": comparison(relax.op.greater_equal),
    "Identity": lambda call: call.argument(0),
    "IsInf": is_inf,
    "IsNaN": lambda call: relax.op.isnan(widened(call, call.tensor(0))),
    "Less": comparison(relax.op.less),
    "LessOrEqual": comparison(relax.op.less_equal),
    "Not": unary(relax.op.logical_not),
    "Or": binary(relax.op.logical_or),
    "Where": lambda call: relax.op.where(*call.tensors()),
    "Xor": binary(relax.op.logical_xor),
}
