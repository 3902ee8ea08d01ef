"""A pass that lets a run find values that an operator cannot use, such as indices out of range.

Frontends note on kernels which values of their arguments are valid
(`hios_tvm.schema.value_checks`). Where that is not proven, a small kernel computes the extremes of
the values::

    lv = R.call_tir(cls.gather, (table, ids))        the kernel clips indices
    lv1 = R.call_tir(cls.extremes, (ids,))           int64 (2, 1): complement of the least, largest
    gv = lv, lv1

The extremes are results of `main` behind the model's outputs, so that no later pass can drop them,
and the runtime compares them after each run, on whatever device they were computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx, topi
from tvm.ir import GenericConst, IRModule, TupleType

from hios_tvm.passes.dataflow import bindings, operator_name, substitute
from hios_tvm.passes.value_ranges import Range, value_ranges
from hios_tvm.schema.value_checks import (
    CHECKS,
    INTEGER_DIVISION,
    OPERATOR,
    RESULT_RANGE,
    VALID_VALUES,
    ValidValues,
    valid_values,
)

Check = tuple[ValidValues, str]
"""What is valid, and the operator."""


@dataclass(frozen=True)
class _Found:
    """Values that may be invalid: of one operand, or those of a division by their two.

    With more than one column, each element of the last dimension has a range of its own.
    """

    operands: tuple[relax.Expr, ...]
    checks: tuple[Check, ...]
    columns: int = 1
    is_quotient: bool | None = None


@tvm.transform.module_pass(opt_level=0, name="CheckValues")
class CheckValues:
    """Append the extremes of values that may be invalid to the results of `main`.

    The attribute `CHECKS` of `main` says, result by result, what is valid. The notes of frontends
    are dropped, so that kernels that differ in nothing else are equal.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        found = list(_unproven(mod))
        mod = _without_notes(mod)
        return _with_extremes(mod, found) if found else mod


def _unproven(mod: IRModule) -> Iterator[_Found]:
    ranges = value_ranges(mod)
    for binding in bindings(mod["main"]):
        call = binding.value
        if operator_name(call) != "relax.call_tir" or 0 in _shape(call):
            continue
        attrs, arguments = mod[call.args[0]].attrs, call.args[1].fields
        operator = str(attrs.get(OPERATOR, ""))
        noted = valid_values(attrs)
        for argument in dict.fromkeys(valid.argument for valid in noted):
            each = [valid for valid in noted if valid.argument == argument]
            range_ = ranges(arguments[argument])
            checks = tuple(
                (v, operator) for v in each if v.kind != "class" and not _holds(range_, v)
            )
            if checks:
                yield _Found((arguments[argument],), checks, columns=len(each))
        if INTEGER_DIVISION in attrs and not _divides(ranges(arguments[1])):
            check = ValidValues(1, "division", 0, 0), operator
            yield _Found(tuple(arguments), (check,), is_quotient=bool(attrs[INTEGER_DIVISION]))


def _shape(value: relax.Expr) -> list[int]:
    return [int(size) for size in getattr(value.ty, "shape", ())]


def _holds(range_: Range | None, valid: ValidValues) -> bool:
    return range_ is not None and -valid.below <= range_.low and range_.high <= valid.high


def _divides(divisor: Range | None) -> bool:
    return divisor is not None and (divisor.low > 0 or divisor.high < -1)


def _with_extremes(mod: IRModule, found: Sequence[_Found]) -> IRModule:
    """Return `mod` whose `main` has further results: the extremes of what was found."""
    main = mod["main"]
    others = {var: func for var, func in mod.functions_items() if var.name_hint != "main"}
    builder = relax.BlockBuilder(IRModule(others, attrs=mod.attrs))
    replaced: dict[relax.Var, relax.Expr] = {}
    extremes: dict[tuple[Any, ...], tuple[relax.Var, list[Check]]] = {}
    with builder.function("main", list(main.params), attrs=_attributes(main)):
        with builder.dataflow():
            for binding in bindings(main):
                value = substitute(binding.value, replaced)
                if not isinstance(value, relax.Var | relax.Tuple | GenericConst):
                    value = builder.emit(value, binding.var.name)
                replaced[binding.var] = value
            for one in found:
                key = one.operands, one.columns, one.is_quotient
                if key not in extremes:
                    operands = [substitute(operand, replaced) for operand in one.operands]
                    extremes[key] = _emit_extremes(builder, one, operands), []
                extremes[key][1].extend(one.checks)
            outputs = _fields(substitute(main.body.body, replaced))
            results = [result for result, _ in extremes.values()]
            output = builder.emit_output(relax.Tuple([*outputs, *results]))
        builder.emit_func_output(output)
    checks = [
        [[valid.column, operator, valid.kind, valid.below, valid.high] for valid, operator in each]
        for _, each in extremes.values()
    ]
    result = builder.finalize()
    result["main"] = result["main"].with_attr(CHECKS, json.dumps(checks))
    return result


def _emit_extremes(
    builder: relax.BlockBuilder, found: _Found, operands: Sequence[relax.Expr]
) -> relax.Var:
    if found.is_quotient is not None:
        compute = partial(_division_extremes, is_quotient=found.is_quotient)
    else:
        compute = partial(_extremes, columns=found.columns)
    return builder.emit_te(compute, *operands, primfunc_name_hint="extremes")


def _extremes(values: te.Tensor, columns: int) -> te.Tensor:
    """The complement ``-1 - x`` of the least value and the largest one, ``(2, columns)``.

    With one column of all values, else for each element of the last dimension.
    """
    shape = [int(size) for size in values.shape]
    reduced = shape if columns == 1 else shape[:-1]
    axes = [te.reduce_axis((0, size), f"k{i}") for i, size in enumerate(reduced)]

    def element(side: tirx.Var, column: tirx.Var) -> tirx.Expr:
        place = [*axes, *([] if columns == 1 else [column])]
        value = values(*place).astype("int64")
        value = tirx.Select(side == 0, ~value, value)
        return te.max(value, axis=axes) if axes else value

    return te.compute((2, columns), element, name="extremes")


def _division_extremes(left: te.Tensor, right: te.Tensor, is_quotient: bool) -> te.Tensor:
    """`_extremes` of a number for each division, as in `ValueCheck`."""
    shape = np.broadcast_shapes(*(tuple(int(n) for n in t.shape) for t in (left, right)))
    left, right = topi.broadcast_to(left, shape), topi.broadcast_to(right, shape)
    dtype = str(right.dtype)

    def fault(*at: tirx.Var) -> tirx.Expr:
        zero, one, two = (tirx.const(i, "int64") for i in range(3))
        is_zero = right(*at) == tirx.const(0, dtype)
        if not is_quotient or dtype.startswith("u"):
            return tirx.Select(is_zero, one, zero)
        is_least = ~left(*at) == te.max_value(
            dtype
        )  # TVM holds `== te.min_value("int32")` for false
        overflows = tirx.all(right(*at) == tirx.const(-1, dtype), is_least)
        return tirx.Select(is_zero, one, tirx.Select(overflows, two, zero))

    return _extremes(te.compute(shape, fault, name="faults"), 1)


def _fields(result: relax.Expr) -> list[relax.Expr]:
    if isinstance(result, relax.Tuple):
        return list(result.fields)
    if isinstance(result.ty, TupleType):
        return [relax.TupleGetItem(result, i) for i in range(len(result.ty.fields))]
    return [result]


def _attributes(main: relax.Function) -> dict[str, object]:
    return {key: value for key, value in dict(main.attrs).items() if key != "global_symbol"}


def _without_notes(mod: IRModule) -> IRModule:
    """Return `mod` without what frontends noted on its kernels for this pass."""
    mod = mod.clone()
    for var, func in list(mod.functions_items()):
        if isinstance(func, tirx.PrimFunc):
            for note in (OPERATOR, VALID_VALUES, INTEGER_DIVISION, RESULT_RANGE):
                func = func.without_attr(note) if note in func.attrs else func
            mod[var] = func
    return mod
