"""An analysis: between which whole numbers the values of tensors are, whatever the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import Call, GenericConst, IRModule

from hios_tvm.passes.dataflow import bindings, constant_value, operator_name
from hios_tvm.schema.value_checks import RESULT_RANGE


@dataclass(frozen=True)
class Range:
    """The whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    def join(self, other: Range) -> Range:
        """Return the smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


MOVED: Mapping[str, tuple[int, ...]] = {
    "relax.broadcast_to": (0,),
    "relax.concat": (0,),
    "relax.dynamic_strided_slice": (0,),
    "relax.expand_dims": (0,),
    "relax.flatten": (0,),
    "relax.flip": (0,),
    "relax.gather_elements": (0,),
    "relax.gather_nd": (0,),
    "relax.permute_dims": (0,),
    "relax.repeat": (0,),
    "relax.reshape": (0,),
    "relax.split": (0,),
    "relax.squeeze": (0,),
    "relax.strided_slice": (0,),
    "relax.take": (0,),
    "relax.tile": (0,),
    "relax.where": (1, 2),
}
"""Operators that return elements of these arguments, at other places."""

_POSITIONS = ("relax.argmax", "relax.argmin", "relax.argsort")


def value_ranges(mod: IRModule) -> Callable[[relax.Expr], Range | None]:
    """Return a function from the tensors of `main` to the ranges of their values.

    It returns None for floats and where nothing is known but the type; ranges of sums and products
    that do not fit the type are not known either.
    """
    known: dict[relax.Var, Range | None] = {}

    def range_of(value: relax.Expr) -> Range | None:
        if isinstance(value, relax.Var):
            return known.get(value) or _of_type(value)
        return _of_value(mod, value, range_of)

    for binding in bindings(mod["main"]):
        known[binding.var] = range_of(binding.value)
    return range_of


def _of_value(
    mod: IRModule, value: relax.Expr, range_of: Callable[[relax.Expr], Range | None]
) -> Range | None:
    if isinstance(value, GenericConst):
        return _of_array(constant_value(value))
    if isinstance(value, relax.Tuple):
        return _joined(map(range_of, value.fields))
    if isinstance(value, relax.TupleGetItem):
        source = value.tuple_value
        return range_of(source.fields[value.index] if isinstance(source, relax.Tuple) else source)
    if not isinstance(value, Call):
        return None
    return _of_call(mod, value, range_of) or _of_type(value)


def _of_call(
    mod: IRModule, call: Call, range_of: Callable[[relax.Expr], Range | None]
) -> Range | None:
    name = operator_name(call)
    if name == "relax.call_tir":
        attrs = mod[call.args[0]].attrs
        return Range(*map(int, attrs[RESULT_RANGE])) if RESULT_RANGE in attrs else None
    if name in MOVED:
        return _joined(range_of(call.args[i]) for i in MOVED[name])
    if name in _POSITIONS:
        return _positions(call)
    if name == "relax.astype":
        return _fitting(range_of(call.args[0]), call)
    if name in _COMPUTED:
        operands = [range_of(arg) for arg in call.args]
        if all(operand is not None for operand in operands):
            return _fitting(_COMPUTED[name](*operands), call)
    return _bounded(name, call, range_of)


def _bounded(name: str, call: Call, range_of: Callable[[relax.Expr], Range | None]) -> Range | None:
    """Return the range of an extremum with a number, of whose other operand nothing is known."""
    everything = _whole_type(call)
    if everything is None or name not in _EXTREMA:
        return None
    a, b = (range_of(arg) or everything for arg in call.args)
    return _EXTREMA[name](a, b)


def _positions(call: Call) -> Range | None:
    shape = [int(size) for size in call.args[0].ty.shape]
    axis = call.attrs.axis
    size = int(np.prod(shape)) if axis is None else shape[int(axis)]
    return Range(0, size - 1) if size else None


_EXTREMA: Mapping[str, Callable[[Range, Range], Range]] = {
    "relax.maximum": lambda a, b: Range(max(a.low, b.low), max(a.high, b.high)),
    "relax.minimum": lambda a, b: Range(min(a.low, b.low), min(a.high, b.high)),
}

_COMPUTED: Mapping[str, Callable[..., Range]] = {
    "relax.add": lambda a, b: Range(a.low + b.low, a.high + b.high),
    "relax.subtract": lambda a, b: Range(a.low - b.high, a.high - b.low),
    "relax.multiply": lambda a, b: _hull([x * y for x in _ends(a) for y in _ends(b)]),
    "relax.negative": lambda a: Range(-a.high, -a.low),
}


def _ends(range_: Range) -> tuple[int, int]:
    return range_.low, range_.high


def _hull(numbers: Iterable[int]) -> Range:
    found = list(numbers)
    return Range(min(found), max(found))


def _joined(ranges: Iterable[Range | None]) -> Range | None:
    result: Range | None = None
    for range_ in ranges:
        if range_ is None:
            return None
        result = range_ if result is None else result.join(range_)
    return result


def _fitting(range_: Range | None, value: relax.Expr) -> Range | None:
    """Return a range that its type can hold; values wrap around otherwise."""
    limits = _whole_type(value)
    if range_ is None or limits is None:
        return None
    return range_ if limits.low <= range_.low and range_.high <= limits.high else None


def _of_array(array: np.ndarray[Any, Any] | None) -> Range | None:
    if array is None or array.size == 0 or array.dtype.kind not in "iub":
        return None
    return Range(int(array.min()), int(array.max()))


def _of_type(value: relax.Expr) -> Range | None:
    """Return the range of a small type, such as that of truth values."""
    limits = _whole_type(value)
    return limits if limits is not None and limits.high < 2**16 else None


def _whole_type(value: relax.Expr) -> Range | None:
    if not isinstance(value.ty, relax.TensorType):
        return None
    dtype = str(value.ty.dtype)
    if dtype == "bool":
        return Range(0, 1)
    if not dtype.startswith(("int", "uint")):
        return None
    try:
        info = np.iinfo(dtype)
    except (TypeError, ValueError):  # a type of four bits
        return None
    return Range(int(info.min), int(info.max))
