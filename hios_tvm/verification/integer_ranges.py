"""Which whole numbers the inputs of a model may be: an analysis of what they index and divide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import bindings, constant_value, operator_name
from hios_tvm.schema.value_checks import INTEGER_DIVISION, valid_values
from hios_tvm.verification.inputs import IntegerRange

# What returns the elements of these arguments, in another place or type
_FIRST = """
    astype reshape flatten concat split strided_slice dynamic_strided_slice broadcast_to expand_dims
    squeeze permute_dims repeat tile flip take gather_elements gather_nd stop_lift_params
"""
_MOVES: Mapping[str, tuple[int, ...]] = {**dict.fromkeys(_FIRST.split(), (0,)), "where": (1, 2)}
_DIVISIONS = ("relax.divide", "relax.floor_divide", "relax.mod", "relax.floor_mod")


def integer_ranges(mod: IRModule) -> dict[str, IntegerRange]:
    """Return the valid values of the inputs of `main` that index tables, or divide.

    An input indexes where it reaches the indices of a `take`, gather, scatter or `one_hot` through
    casts, changes of shape, slices, concatenations, or sums with a constant; the smallest table
    counts. What reaches them through other arithmetic is not found, and inputs that are not named
    here are masks, flags or numbers to compute with.
    """
    main = mod["main"]
    wanted: dict[relax.Var, IntegerRange] = {}
    for binding in reversed(list(bindings(main))):
        own = wanted.get(binding.var)
        for value, values in _constraints(mod, binding.value, own):
            for var in _variables(value):
                both = wanted.get(var, IntegerRange()) & values
                if not both.is_empty:
                    wanted[var] = both
    names = [str(name) for name in main.attrs["input_names"]]
    return {
        name: wanted[param]
        for name, param in zip(names, main.params, strict=True)
        if param in wanted and str(param.ty.dtype).startswith(("int", "uint"))
    }


def _constraints(
    mod: IRModule, value: relax.Expr, own: IntegerRange | None
) -> Iterator[tuple[relax.Expr, IntegerRange]]:
    """Yield the operands of `value` that have to lie in a range; `own` is that of the result."""
    if isinstance(value, relax.TupleGetItem | relax.Var | relax.Tuple) and own is not None:
        yield value, own
    if not isinstance(value, Call):
        return
    yield from _limits(mod, value)
    name = operator_name(value)
    if own is None:
        return
    for i in _MOVES.get(name.removeprefix("relax."), ()):
        yield value.args[i], own
    if name in ("relax.add", "relax.subtract"):
        yield from _shifts(value, name, own)


def _limits(mod: IRModule, call: Call) -> Iterator[tuple[relax.Expr, IntegerRange]]:
    """Yield what `call` itself indexes or divides by."""
    name = operator_name(call)
    if name == "relax.call_tir":
        attrs, arguments = mod[call.args[0]].attrs, call.args[1].fields
        for valid in valid_values(attrs):
            yield arguments[valid.argument], IntegerRange(0, valid.high)
        if INTEGER_DIVISION in attrs:
            yield arguments[1], IntegerRange(low=1)
    elif name in _DIVISIONS:
        yield call.args[1], IntegerRange(low=1)
    elif name == "relax.one_hot":
        yield call.args[0], _below(int(call.attrs.depth))
    elif name == "relax.take":
        shape = _shape(call.args[0])
        axis = call.attrs.axis
        yield call.args[1], _below(math.prod(shape) if axis is None else shape[int(axis)])
    elif name in ("relax.gather_elements", "relax.scatter_elements"):
        yield call.args[1], _below(_shape(call.args[0])[int(call.attrs.axis)])
    elif name in ("relax.gather_nd", "relax.scatter_nd"):
        first = int(call.attrs.batch_dims) if name == "relax.gather_nd" else 0
        count = _shape(call.args[1])[-1]
        yield call.args[1], _below(min(_shape(call.args[0])[first : first + count], default=1))


def _shifts(call: Call, name: str, own: IntegerRange) -> Iterator[tuple[relax.Expr, IntegerRange]]:
    """Yield the operand of a sum with a constant, in the range that the constant shifts."""
    for operand, other in (call.args, reversed(call.args)):
        constant = constant_value(other)
        if constant is None or constant.dtype.kind not in "iu" or constant.size == 0:
            continue
        if name == "relax.subtract" and other is call.args[0]:
            continue  # a constant minus an index: a reversal
        sign = 1 if name == "relax.add" else -1
        for by in {int(np.min(constant)), int(np.max(constant))}:
            yield operand, own.shifted(sign * by)


def _variables(value: relax.Expr) -> Iterator[relax.Var]:
    if isinstance(value, relax.Var):
        yield value
    elif isinstance(value, relax.Tuple):
        for field in value.fields:
            yield from _variables(field)
    elif isinstance(value, relax.TupleGetItem):
        yield from _variables(value.tuple_value)


def _below(count: int) -> IntegerRange:
    return IntegerRange(0, count - 1)


def _shape(value: relax.Expr) -> list[int]:
    return [int(size) for size in value.ty.shape]
