"""The types in which operators compute."""

from collections.abc import Callable

import numpy as np
from tvm import relax, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.tensors import dtype_of


def is_float(dtype: str) -> bool:
    return "float" in dtype


def is_signed(dtype: str) -> bool:
    return is_float(dtype) or dtype.startswith("int")


def least(dtype: str) -> tirx.Expr:
    """The least value of a type, which no maximum is below."""
    return tirx.const(-np.inf if is_float(dtype) else int(np.iinfo(dtype).min), dtype)


def widened(call: OperatorCall, tensor: relax.Expr) -> relax.Expr:
    """The tensor, floats of 16 bits as float32.

    ONNX Runtime computes so too: rounding after each step adds up, and C libraries have no
    functions of 16 bits.
    """
    return call.cast(tensor, "float32") if dtype_of(tensor).endswith("float16") else tensor


def in_single(function: Callable[[OperatorCall, relax.Expr], relax.Expr]) -> Converter:
    """An operator of one tensor that computes 16-bit floats in single precision.

    Parameters
    ----------
    function : callable
        Of the call and the widened tensor; its result has the widened tensor's type.
    """

    def convert(call: OperatorCall) -> Value:
        x = call.tensor(0)
        return call.cast(call.emit(function(call, widened(call, x))), dtype_of(x))

    return convert


def single(function: Callable[[relax.Expr], relax.Expr]) -> Converter:
    """The same for a function of the tensor alone."""
    return in_single(lambda _, x: function(x))
