"""Shapes that broadcast with each other."""

from __future__ import annotations

from random_networks.builder import EXTENTS, Builder, Tensor

FLOAT_BINARY = ("Add", "Sub", "Mul", "Mul", "Add", "Max", "Min", "Div")


def smaller(b: Builder, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape that broadcasts to `shape`: extents of 1, or fewer axes."""
    kind = b.one_of("one axis", "one left", "any", "lower rank", "scalar", "same")
    rank = len(shape)
    if kind == "scalar" or rank == 0:
        return (1,) * int(b.one_of(0, 1, rank))
    if kind == "same":
        return shape
    if kind == "lower rank":
        shape = shape[b.integer(0, rank - 1) :]
        return tuple(1 if b.chance(0.3) else extent for extent in shape)
    chosen = b.integer(0, rank - 1)
    if kind == "one axis":
        return tuple(1 if i == chosen else extent for i, extent in enumerate(shape))
    if kind == "one left":
        return tuple(extent if i == chosen else 1 for i, extent in enumerate(shape))
    return tuple(1 if b.chance(0.5) else extent for extent in shape)


def upward(b: Builder, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a larger shape that `shape` broadcasts to, where it has an extent of 1 or low rank."""
    larger = tuple(
        b.one_of(*EXTENTS) if extent == 1 and b.chance(0.8) else extent for extent in shape
    )
    if len(shape) < 5 and b.chance(0.2):
        larger = (b.integer(1, 3), *larger)
    return larger


def binary(b: Builder, operator: str, x: Tensor, y: Tensor) -> Tensor:
    """Append ``operator(x, y)`` or ``operator(y, x)``; divisors are kept away from 0."""
    x, y = (x, y) if b.chance(0.5) else (y, x)
    if operator == "Div" and x.dtype.kind == "f":
        y = b.add("Add", b.add("Abs", y), b.constant(0.5, y.dtype))
    return b.add(operator, x, y)
