"""Arithmetic on small constants, so that conditions and scales computed from them are constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm.ir import GenericConst

from hios_tvm.frontends.relay import syntax
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import array_of, constant_of

MAX_ELEMENTS = 1 << 16

_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "equal": np.equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_not": np.logical_not,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "multiply": np.multiply,
    "negative": np.negative,
    "not_equal": np.not_equal,
    "subtract": np.subtract,
}


def fold(
    name: str, arguments: tuple[Value, ...], attributes: Mapping[str, syntax.AttributeValue]
) -> GenericConst | None:
    """Return the result of an operator on constants; None where it must be compiled."""
    function = _OPERATORS.get(name)
    arrays = [array_of(argument) for argument in arguments]
    if function is None or attributes or len(arrays) != getattr(function, "nin", 0):
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
