"""Input shapes as users write them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from hios_tvm.errors import UsageError
from hios_tvm.schema.manifest import MAX_SHAPES

Size: TypeAlias = int | range | Sequence[int]
"""A number; a range of sizes of a batch; or a list of all sizes that there are."""

Shape: TypeAlias = Mapping[str, tuple[int, ...]]

_MOST_OF_ITS_OWN = 4  # sizes of a range that all get a program
_DIMENSION = r"([0-9]+(?:\.\.[0-9]+)?|\{[0-9]+(?:,[0-9]+)*\})"


def parse_shape(text: str) -> tuple[str, tuple[Size, ...]]:
    """Read ``name:1,3,224,224`` or ``name:1x3x224x224``.

    A dimension may be a range of sizes, ``1..8``, or a list, ``{32,64}``. The name may hold colons
    itself: the last one counts.

    Raises
    ------
    UsageError
        If there is no name, or a dimension is not a positive number.

    Examples
    --------
    >>> parse_shape("input:0:1x3x224x224")
    ('input:0', (1, 3, 224, 224))
    >>> parse_shape("ids:1..8,{32,64}")
    ('ids', (range(1, 9), (32, 64)))
    """
    name, colon, dimensions = text.rpartition(":")
    if not (colon and name and re.fullmatch(f"{_DIMENSION}([,x]{_DIMENSION})*", dimensions)):
        raise UsageError(
            f"shape {text!r} is not of the form name:1,3,224,224, in which a dimension may also be "
            "a range 1..8 or a list {32,64}"
        )
    shape = tuple(_size(word) for word in re.findall(_DIMENSION, dimensions))
    if 0 in (size for dimension in shape for size in _sizes(dimension)):
        raise UsageError(f"shape {text!r} has a dimension of 0")
    if any(len(_sizes(dimension)) == 0 for dimension in shape):
        raise UsageError(f"shape {text!r} has a range that ends before it begins")
    return name, shape


@dataclass(frozen=True)
class SeveralShapes:
    """The shapes of a model's inputs that an artifact shall have programs for.

    Attributes
    ----------
    shapes
        Each by input, the largest first.
    batch : mapping of str to int
        Axis of the dimension that was given as a range, by input; empty where there is none.
    rows : range
        All sizes of that dimension.
    """

    shapes: tuple[dict[str, tuple[int, ...]], ...]
    batch: Mapping[str, int]
    rows: range

    def rows_of(self, shape: Shape) -> int:
        """Return the rows of `shape`."""
        name, axis = next(iter(self.batch.items()))
        return shape[name][axis]

    def next_program(self, shape: Shape, rows: int) -> Shape:
        """Return the smallest of the `shapes` with at least `rows` that else is as `shape`."""
        alike = [
            own for own in self.shapes if self.with_rows(own, rows) == self.with_rows(shape, rows)
        ]
        return min((own for own in alike if self.rows_of(own) >= rows), key=self.rows_of)

    def without_program(self, shape: Shape) -> int | None:
        """Return the most rows that run on the program of `shape` and have none, if any."""
        fewer = [rows for rows in self.rows if rows < self.rows_of(shape)]
        return fewer[-1] if fewer and self.next_program(shape, fewer[-1]) == shape else None

    def with_rows(self, shape: Shape, rows: int) -> dict[str, tuple[int, ...]]:
        """Return `shape` with `rows` along the batch."""
        return {
            name: tuple(rows if self.batch.get(name) == i else size for i, size in enumerate(own))
            for name, own in shape.items()
        }


def one_shape(shapes: Mapping[str, Sequence[Size]]) -> dict[str, tuple[int, ...]]:
    """Return `shapes`, whose dimensions must have one size each.

    Raises
    ------
    UsageError
        If one has several.
    """
    for name, dimensions in shapes.items():
        if any(not isinstance(size, int) for size in dimensions):
            raise UsageError(f"this takes one shape of {name!r}: only compile takes several sizes")
    return {n: tuple(s for s in sizes if isinstance(s, int)) for n, sizes in shapes.items()}


def several_shapes(
    shapes: Mapping[str, Sequence[Size]], programs: Sequence[int] = ()
) -> SeveralShapes:
    """Return all shapes that `shapes` stand for.

    Equal ranges and equal lists are one dimension of the model, and have one size at a time;
    different lists are combined. A range of up to four sizes has a program for each, a longer one
    for its ends and the powers of two between them, or for the sizes `programs`.

    Raises
    ------
    UsageError
        If there are different ranges, two in one input, or too many shapes; or if `programs` are
        not sizes of a range up to its end.

    Examples
    --------
    >>> [shape["x"][0] for shape in several_shapes({"x": (range(1, 9), 3)}).shapes]
    [8, 4, 2, 1]
    >>> given = {"ids": (1, [32, 64]), "mask": (1, [32, 64])}
    >>> several_shapes(given).shapes
    ({'ids': (1, 64), 'mask': (1, 64)}, {'ids': (1, 32), 'mask': (1, 32)})
    """
    ranges: dict[range, dict[str, int]] = {}
    lists: dict[tuple[int, ...], None] = {}
    for name, dimensions in shapes.items():
        for axis, size in enumerate(dimensions):
            if isinstance(size, range):
                if name in ranges.get(size, {}):
                    raise UsageError(f"input {name!r} has two ranges: a batch is one dimension")
                ranges.setdefault(size, {})[name] = axis
            elif not isinstance(size, int):
                lists.setdefault(tuple(size))
    if len(ranges) > 1:
        words = " and ".join(f"{found[0]}..{found[-1]}" for found in ranges)
        raise UsageError(f"shapes have the ranges {words}: a batch is one dimension of one range")
    rows, batch = next(iter(ranges.items()), (range(0), {}))
    own = _own_programs(rows, programs)
    choices: dict[object, Sequence[int]] = {given: sorted(set(given)) for given in lists}
    if batch:
        choices = {rows: own, **choices}
    count = prod(map(len, choices.values()))
    if count > MAX_SHAPES:
        raise UsageError(f"the shapes are {count} in all, an artifact holds {MAX_SHAPES} at most")
    found = []
    for sizes in itertools.product(*choices.values()):
        chosen = dict(zip(choices, sizes, strict=True))
        found.append(
            {n: tuple(_chosen(size, chosen) for size in dims) for n, dims in shapes.items()}
        )
    found.sort(key=lambda shape: sum(map(prod, shape.values())), reverse=True)
    return SeveralShapes(tuple(found), batch, rows)


def _own_programs(rows: range, programs: Sequence[int]) -> list[int]:
    if programs:
        if not rows or not set(programs) <= set(rows) or max(programs) != rows[-1]:
            raise UsageError(
                f"programs for {', '.join(map(str, programs))}: give sizes of the range of a "
                "batch, such as --shape input:1..8,3,224,224, up to its largest"
            )
        return sorted(set(programs))
    if len(rows) <= _MOST_OF_ITS_OWN:
        return list(rows)
    powers = (1 << exponent for exponent in range(rows[-1].bit_length()))
    return sorted({rows[0], *(power for power in powers if power in rows), rows[-1]})


def _chosen(size: Size, chosen: Mapping[object, int]) -> int:
    if isinstance(size, int):
        return size
    return chosen[size if isinstance(size, range) else tuple(size)]


def _size(word: str) -> Size:
    if word.startswith("{"):
        return tuple(map(int, word[1:-1].split(",")))
    if ".." in word:
        first, last = map(int, word.split(".."))
        return range(first, last + 1)
    return int(word)


def _sizes(dimension: Size) -> Sequence[int]:
    return (dimension,) if isinstance(dimension, int) else dimension
