"""Chains of reshapes and transpositions as one rearrangement of the elements of a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

Part = tuple[int, int]
"""Extent and step of a part of an axis: how many elements it has, and how far they are apart in
the operand's memory."""

Axis = tuple[Part, ...]
"""The parts of an axis that have several elements, outer ones first."""


@dataclass(frozen=True)
class Rearrangement:
    """What reshapes and transpositions make of an operand of the shape `source`.

    Each of the `axes` of the result consists of parts of the operand's axes.

    >>> image = Rearrangement.of((1, 56, 56, 32)).transposed((0, 3, 1, 2))
    >>> rows = image.reshaped((1, 32, 3136))
    >>> rows.axes
    ((), ((32, 1),), ((3136, 32),))
    >>> rows.is_reshape, rows.transposed((0, 2, 1)).is_reshape
    (False, True)
    """

    source: tuple[int, ...]
    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, shape: Sequence[int]) -> Rearrangement:
        """Return what leaves a tensor of this shape as it is."""
        steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        parts = zip(shape, steps, strict=True)
        return cls(tuple(shape), tuple((part,) if part[0] > 1 else () for part in parts))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(math.prod(extent for extent, _ in axis) for axis in self.axes)

    @property
    def is_reshape(self) -> bool:
        """Whether the elements keep their order."""
        return len(_merged(chain.from_iterable(self.axes))) <= 1

    def transposed(self, order: Sequence[int]) -> Rearrangement:
        """Return this rearrangement with a transposition after it."""
        return Rearrangement(self.source, tuple(self.axes[axis] for axis in order))

    def reshaped(self, shape: Sequence[int]) -> Rearrangement | None:
        """Return this rearrangement with a reshape after it.

        None where an axis of the result would begin or end within a part that cannot be divided
        there.
        """
        if 0 in shape:
            return None
        left = _merged(chain.from_iterable(self.axes))
        axes: list[Axis] = []
        for extent in shape:
            parts: list[Part] = []
            while extent > 1:
                size, step = left.pop(0)
                if size % extent and extent % size:
                    return None
                taken = min(size, extent)
                rest = size // taken
                parts.append((taken, step * rest))
                if rest > 1:
                    left.insert(0, (rest, step))
                extent //= taken
            axes.append(tuple(parts))
        return Rearrangement(self.source, tuple(axes))

    def split(self) -> Split:
        """Return the operand with an axis for each part."""
        whole = Rearrangement.of(self.source)
        borders = [step for axis in whole.axes for _, step in axis]
        axes = [_divided(axis, borders) for axis in self.axes]
        sizes = [(extent, math.prod(self.source[i:])) for i, extent in enumerate(self.source)]
        ones = [size for size in sizes if size[0] == 1]  # stay between the parts where they are
        parts = [*chain.from_iterable(axes), *ones]
        parts.sort(key=lambda part: (-part[1], part[0] == 1))
        return Split(
            tuple(extent for extent, _ in parts),
            tuple(tuple(parts.index(part) for part in axis) for axis in axes),
        )


@dataclass(frozen=True)
class Split:
    """An operand in a `shape` whose axes are whole parts of those of the result.

    `axes` has the numbers of the parts of each axis of the result.
    """

    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]

    @property
    def order(self) -> list[int]:
        """The numbers of all axes as a transposition to the order of the result has them."""
        ones = [number for number, extent in enumerate(self.shape) if extent == 1]
        order: list[int] = []
        for axis in self.axes:  # one without parts is one of the operand's of one element, if any
            order += axis or [ones.pop(0) for _ in ones[:1]]
        return [*ones, *order]


def _merged(parts: Iterable[Part]) -> list[Part]:
    """Return the parts with neighbours made one that are one in memory."""
    merged: list[Part] = []
    for extent, step in parts:
        if merged and merged[-1][1] == extent * step:
            merged[-1] = (merged[-1][0] * extent, step)
        else:
            merged.append((extent, step))
    return merged


def _divided(axis: Axis, borders: Iterable[int]) -> Axis:
    """Return the parts of an axis, divided at those steps where this is possible."""
    for border in borders:
        axis = tuple(piece for part in axis for piece in _divided_at(part, border))
    return axis


def _divided_at(part: Part, border: int) -> Axis:
    extent, step = part
    within = step < border < step * extent
    if not within or border % step or step * extent % border:
        return (part,)
    return ((step * extent // border, border), (border // step, step))
