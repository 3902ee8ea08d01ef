"""Arithmetic on small constants, so that conditions and scales computed from them are constants."""

from collections.abc import Mapping

import numpy as np
from tvm.ir import GenericConst

from hios_tvm.frontends.relay import syntax
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import array_of, constant_of

MAX_ELEMENTS = 1 << 16

# Operators that NumPy has by the same name and with the same meaning.
_OPERATORS = """
    add equal greater greater_equal less less_equal logical_and logical_not logical_or logical_xor
    maximum minimum multiply negative not_equal subtract
"""


def fold(
    name: str, arguments: tuple[Value, ...], attributes: Mapping[str, syntax.AttributeValue]
) -> GenericConst | None:
    """Return the result of an operator on constants; None where it must be compiled."""
    function: np.ufunc | None = getattr(np, name) if name in _OPERATORS.split() else None
    arrays = [array_of(argument) for argument in arguments]
    if function is None or attributes or len(arrays) != function.nin:
        return None
    small = [array for array in arrays if array is not None and array.size <= MAX_ELEMENTS]
    if len(small) != len(arrays) or len({array.dtype for array in small}) != 1:
        return None
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(function(*small))
    except (TypeError, ValueError):  # the negative of a bool, or shapes that do not broadcast
        return None
    return constant_of(result) if result.size <= MAX_ELEMENTS else None
