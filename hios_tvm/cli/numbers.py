"""Numbers on command lines."""

from __future__ import annotations

import math
from typing import Any

import click

from hios_tvm.errors import UsageError


class FiniteRange(click.FloatRange):
    """A range of numbers, without NaN (which no comparison refuses) and infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no number that can be used.", param, ctx)
        return number


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Read ``LOW,HIGH``.

    Raises
    ------
    UsageError
        If these are no two numbers, or no range.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--range {text}: write two numbers, for example -1,1") from None
    if low > high:
        raise UsageError(f"--range {text}: the first number is larger than the second")
    if not math.isfinite(high - low):
        raise UsageError(f"--range {text}: the difference has to be a finite number")
    return low, high
