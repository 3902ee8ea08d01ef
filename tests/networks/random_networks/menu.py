"""The menu: every pattern that a network can grow by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from random_networks.builder import Builder

Grow = Callable[[Builder], object]


@dataclass(frozen=True)
class Pattern:
    """`grow` appends one pattern to a network of opset `since` to `until`.

    A pattern of weight 2 is drawn twice as often as one of weight 1.
    """

    name: str
    grow: Grow
    weight: float
    since: int
    until: int


MENU: list[Pattern] = []


def pattern(*, weight: float = 1.0, since: int = 7, until: int = 99) -> Callable[[Grow], Grow]:
    """Put a function on the menu."""

    def register(grow: Grow) -> Grow:
        MENU.append(Pattern(grow.__name__, grow, weight, since, until))
        return grow

    return register
