"""A large graph in blocks: runs of operators between places where few tensors are alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LARGE = 150
"""Operators of a graph that is drawn in blocks: as one picture it could not be looked over."""

_OPERATORS = 24  # of a block, about: more where no better place is near
_FEWEST, _MOST = 8, 64


@dataclass(frozen=True)
class Block:
    """Neighbours in topological order; `number` counts from 1."""

    number: int
    operators: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"block {self.number}"


def fold(in_order: Sequence[str], edges: Sequence[tuple[str, str]]) -> tuple[Block, ...]:
    """Cut a graph where it is narrow, as between the cells of a network.

    Parameters
    ----------
    in_order
        Operators in topological order.
    edges
        Pairs of them, a producer and its consumer.

    Notes
    -----
    Shortest path over all places to cut: a block costs the number of producers that are read
    behind it, and the square of how far its size is off, as a factor. O(64 n).
    """
    width = _widths(in_order, edges)
    count = len(in_order)
    cost, came_from = [0.0] + [float("inf")] * count, [0] * (count + 1)
    for end in range(1, count + 1):
        for start in range(max(0, end - _MOST), max(1, end - _FEWEST + 1)):
            off = (end - start) / _OPERATORS
            total = cost[start] + width[end] + max(off, 1 / off) ** 2
            if total < cost[end]:
                cost[end], came_from[end] = total, start
    ends = [count] if count else []
    while ends and came_from[ends[-1]]:
        ends.append(came_from[ends[-1]])
    starts = [*ends[1:], 0]
    pieces = [in_order[start:end] for start, end in zip(starts, ends, strict=False)]
    return tuple(Block(i, tuple(piece)) for i, piece in enumerate(reversed(pieces), start=1))


def _widths(in_order: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[int]:
    """Return for each place between operators how many operators before it are read behind it."""
    index = {name: i for i, name in enumerate(in_order)}
    last_use: dict[int, int] = {}
    for src, dst in edges:
        last_use[index[src]] = max(last_use.get(index[src], 0), index[dst])
    change = [0] * (len(in_order) + 2)
    for first, last in last_use.items():
        change[first + 1] += 1
        change[last + 1] -= 1
    widths = [0]
    for i in range(1, len(in_order) + 1):
        widths.append(widths[-1] + change[i])
    return widths
