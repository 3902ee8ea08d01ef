"""Numbers as people read them."""

from __future__ import annotations

import math


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits; what noise decides is left out.

    >>> [significant(value) for value in (3807.79, 12.3456, 1.5, 0.0123456, 0.0, -2.71828)]
    ['3808', '12.3', '1.50', '0.0123', '0', '-2.72']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def milliseconds(value: float) -> str:
    """Write a time.

    >>> milliseconds(12.3456)
    '12.3 ms'
    """
    return f"{significant(value)} ms"
