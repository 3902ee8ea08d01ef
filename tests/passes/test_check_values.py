"""Ranges of values, and what of them has to be checked in a run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, te, tirx
from tvm.ir import IRModule

from hios_tvm.passes.check_values import CheckValues
from hios_tvm.passes.value_ranges import Range, value_ranges
from hios_tvm.schema.value_checks import (
    CHECKS,
    INTEGER_DIVISION,
    OPERATOR,
    VALID_VALUES,
    ValidValues,
    ValueCheck,
    indices_of,
)

op = relax.op


def range_of(make: object, dtype: str = "int64") -> Range | None:
    """The range of what `make` computes from an input and the builder."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([4, 3], dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(make(x)))  # type: ignore[operator]
        builder.emit_func_output(result)
    return value_ranges(builder.finalize())(result)


def number(value: int, dtype: str = "int64") -> relax.Expr:
    return relax.const(value, dtype)


@pytest.mark.parametrize(
    ("make", "dtype", "expected"),
    [
        (lambda x: op.add(x, number(1)), "int64", None),
        (lambda x: op.argmax(x, axis=0), "float32", Range(0, 3)),
        (lambda x: op.argsort(x, axis=1, dtype="int64"), "float32", Range(0, 2)),
        (lambda x: op.astype(x, "int64"), "bool", Range(0, 1)),
        (lambda x: op.astype(x, "int32"), "uint8", Range(0, 255)),
        (lambda x: op.astype(x, "int8"), "uint8", Range(-128, 127)),
        (lambda x: op.minimum(op.maximum(x, number(0)), number(9)), "int64", Range(0, 9)),
        (lambda x: op.add(x, number(100, "uint8")), "uint8", Range(0, 255)),
        (lambda x: op.reshape(op.minimum(x, number(0)), [12]), "int64", Range(-(2**63), 0)),
    ],
)
def test_ranges(make: object, dtype: str, expected: Range | None) -> None:
    assert range_of(make, dtype) == expected


@given(st.integers(-128, 127), st.integers(-128, 127))
@settings(max_examples=20, deadline=None)
def test_arithmetic_covers_all_values_or_claims_nothing(low: int, factor: int) -> None:
    def make(x: relax.Var) -> relax.Expr:
        bounded = op.maximum(x, number(low, "int8"))
        wide = op.astype(bounded, "int32")
        return op.multiply(op.subtract(wide, number(3, "int32")), number(factor, "int32"))

    values = (np.maximum(np.arange(-128, 128), low) - 3) * factor
    assert range_of(make, "int8") == Range(int(values.min()), int(values.max()))


def module(attributes: dict[str, object], *, dtype: str = "int64") -> IRModule:
    """A kernel of two inputs, with what a frontend notes on it."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([4, 3], "float32"))
    i = relax.Var("i", relax.TensorType([2, 2], dtype))
    names = {"input_names": ["x", "i"], "output_names": ["y"]}

    def kernel(x: te.Tensor, i: te.Tensor) -> te.Tensor:
        return te.compute((2,), lambda at: x(at, 0) + tirx.Cast("float32", i(at, 1)))

    with builder.function("main", [x, i], names):
        with builder.dataflow():
            result = builder.emit_te(
                kernel, x, i, primfunc_attrs={OPERATOR: "Op 'o'", **attributes}
            )
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    return builder.finalize()


def test_what_is_not_proven_becomes_a_result() -> None:
    noted = {VALID_VALUES: [v.to_attribute() for v in indices_of(1, (4, 3))]}
    checked = CheckValues()(module(noted))
    assert json.loads(str(checked["main"].attrs[CHECKS])) == [
        [[0, "Op 'o'", "index", 4, 3], [1, "Op 'o'", "index", 3, 2]]
    ]
    shapes = [[int(n) for n in field.ty.shape] for field in fields(checked)]
    assert shapes == [[2], [2, 2]]
    for func in checked.functions.values():
        assert OPERATOR not in func.attrs
        assert VALID_VALUES not in func.attrs


def fields(mod: IRModule) -> list[relax.Expr]:
    (binding,) = [
        b for b in mod["main"].body.blocks[-1].bindings if isinstance(b.value, relax.Tuple)
    ]
    return list(binding.value.fields)


@pytest.mark.parametrize(
    ("valid", "dtype"),
    [
        (ValidValues(1, "index", 128, 127), "int8"),
        (ValidValues(1, "class", 3, 2), "int64"),
        (ValidValues(1, "length", 0, 1), "bool"),
    ],
)
def test_what_is_proven_or_free_is_not_checked(valid: ValidValues, dtype: str) -> None:
    checked = CheckValues()(module({VALID_VALUES: [valid.to_attribute()]}, dtype=dtype))
    assert CHECKS not in checked["main"].attrs


def test_a_division_is_checked_by_both_operands() -> None:
    builder = relax.BlockBuilder()
    a, b = (relax.Var(name, relax.TensorType([4], "int32")) for name in "ab")

    def kernel(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        return te.compute((4,), lambda at: a(at) + b(at))

    noted = {OPERATOR: "Div 'd'", INTEGER_DIVISION: True}
    with builder.function("main", [a, b], {"input_names": ["a", "b"], "output_names": ["y"]}):
        with builder.dataflow():
            output = builder.emit_output(builder.emit_te(kernel, a, b, primfunc_attrs=noted))
        builder.emit_func_output(output)
    checked = CheckValues()(builder.finalize())
    assert json.loads(str(checked["main"].attrs[CHECKS])) == [[[0, "Div 'd'", "division", 0, 0]]]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (-4, 3, None),
        (-5, 3, "Op 'o' got the index -5; valid are -4 to 3"),
        (-5, 4, "Op 'o' got the index 4; valid are -4 to 3"),
    ],
)
def test_messages_name_the_value(low: int, high: int, message: str | None) -> None:
    check = ValueCheck("extremes", 0, "Op 'o'", "index", 4, 3)
    assert check.violation(low, high) == message
