"""Values that an operator can use: indices inside of a dimension, divisors that have a quotient.

Frontends note on a kernel what the values of its arguments may be. Lowering keeps what it cannot
prove: a kernel finds the extremes of those values, and the runtime compares them after a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

OPERATOR = "hios.operator"
"""Attribute of a kernel: the operator and model that messages name."""

VALID_VALUES = "hios.valid_values"
"""Attribute of a kernel: `ValidValues` of its arguments, each as a list."""

INTEGER_DIVISION = "hios.integer_division"
"""Attribute of a kernel: whether it divides its first argument by its second, with a quotient that
may not fit the type, and not only a remainder."""

RESULT_RANGE = "hios.result_range"
"""Attribute of a kernel: the least and largest value that its result may have."""

CHECKS = "hios.checks"
"""Attribute of `main`: what the results behind the model's outputs check, as JSON."""

Kind = Literal["index", "length", "class", "division"]
"""What values are. Those of a class may be any: a one-hot vector of another is all zeros."""


@dataclass(frozen=True)
class ValidValues:
    """What one argument of a kernel may hold.

    Attributes
    ----------
    argument : int
        Its number.
    kind : str
        What its values are.
    below : int
        How far below 0 they may be: indices count from the end there.
    high : int
        The largest one.
    column : int
        Which elements of the last dimension this is about, where there are several ranges.
    """

    argument: int
    kind: Kind
    below: int
    high: int
    column: int = 0

    def to_attribute(self) -> list[Any]:
        """Return plain data that TVM can attach to a kernel."""
        return [self.argument, self.kind, self.below, self.high, self.column]


def indices_of(
    argument: int, extents: Sequence[int], *, from_end: bool = True
) -> tuple[ValidValues, ...]:
    """Return that an argument holds indices, of one dimension or one for each column."""
    return tuple(
        ValidValues(argument, "index", extent if from_end else 0, extent - 1, column)
        for column, extent in enumerate(extents)
    )


def valid_values(attrs: Mapping[str, Any] | None) -> tuple[ValidValues, ...]:
    """Return what the attributes of a kernel say."""
    found = (attrs or {}).get(VALID_VALUES, ())
    return tuple(
        ValidValues(int(argument), str(kind), int(below), int(high), int(column))  # type: ignore[arg-type]
        for argument, kind, below, high, column in found
    )


@dataclass(frozen=True)
class ValueCheck:
    """A comparison after a run, whose failing says that an input has an invalid value.

    Attributes
    ----------
    buffer : str
        Extremes of the values, int64 ``(2, columns)``: in the first row the complement ``-1 - x``
        of the least one, in the second the largest.
    column : int
    operator : str
        Operator and model.
    kind : str
        Of a division the values are 0 where it has a result, 1 for a divisor of 0, and 2 for the
        least number divided by -1.
    below, high : int
        Valid are the numbers from ``-below`` to `high`.
    """

    buffer: str
    column: int
    operator: str
    kind: Kind
    below: int
    high: int

    def violation(self, low: int, high: int) -> str | None:
        """Return what is wrong with values from `low` to `high`, or None."""
        if high > self.high:
            value = high
        elif low < -self.below:
            value = low
        else:
            return None
        if self.kind == "division":
            reason = "by 0" if value == 1 else "of the least number by -1"
            return f"{self.operator} makes an integer division {reason}, which has no result"
        return (
            f"{self.operator} got the {self.kind} {value}; valid are {-self.below} to {self.high}"
        )
