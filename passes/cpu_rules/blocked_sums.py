"""Long sums in blocks.

The rounding error of a sum grows with the number of additions in a row. A register tile therefore
adds up blocks of at most some hundred terms, and a second buffer adds these sums up. Before:

    sums[tile] = 0
    for term: sums[tile] += left[term] * right[term]

After:

    totals[tile] = 0
    for block of terms
        sums[tile] = 0
        for term of the block: sums[tile] += left[term] * right[term]    # in registers
        totals[tile] += sums[tile]                                       # in memory

Matrix products of other libraries, which go through the inner dimension in blocks, round as often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import BufferLoad

from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    allocate,
    as_index,
    broadcast,
    prefetch,
    serial,
    vector_index,
)

MOST_TERMS = 600
"""Of a block. It takes some ten thousand cycles, and adding it to the totals about a hundred.

With blocks of 256 terms, sums of a 3x3 window of 512 channels differ 4 times less from exact ones.
"""


@dataclass(frozen=True)
class BlockedSums:
    """Accumulators of a register tile.

    Attributes
    ----------
    sums : tuple of tirx.Var
        A buffer for each vector of the tile, which terms are added to. LLVM keeps a small buffer of
        its own in a register, whatever else a loop does; TVM puts large ones on the heap.
    totals : tirx.Var, optional
        The flat buffer of all vectors that holds the results at the end; None where all terms are
        one block, and `sums` are the results.
    starts : tuple of int
        Place of each vector in `totals`.
    """

    sums: tuple[tirx.Var, ...]
    totals: tirx.Var | None
    starts: tuple[int, ...]

    @staticmethod
    def allocate(lengths: Sequence[int], *, is_single: bool) -> BlockedSums:
        """Emit zero vectors of these `lengths`; `is_single` if all terms are one block."""
        sums = tuple(allocate(f"sums{i}", n) for i, n in enumerate(lengths))
        starts = tuple(sum(lengths[:i]) for i in range(len(lengths)))
        totals = None if is_single else allocate("totals", sum(lengths))
        result = BlockedSums(sums, totals, starts)
        for i in range(len(lengths)):
            result._clear(i) if totals is None else result._set_total(i, result._zero(i))
        return result

    @contextmanager
    def block(self, *, is_block: bool = True) -> Iterator[None]:
        """Emit what is inside as one block of terms, unless that is a part of a block."""
        if self.totals is None or not is_block:
            yield
            return
        for i in range(len(self.sums)):
            self._clear(i)
        yield
        _keep_in_memory(self.totals)
        for i in range(len(self.sums)):
            self._set_total(i, self.total(i) + self._sum(i))

    def loop(self, name: str, extent: int) -> Iterator[Index]:
        """Emit a loop over `extent` terms in blocks of about the same length."""
        if self.totals is None:
            yield from serial(name, extent)
            return
        count = -(-extent // MOST_TERMS)
        length = -(-extent // count)
        full, remainder = divmod(extent, length)
        for block in serial("block", full):
            with self.block():
                for i in serial(name, length):
                    yield block * length + i
        if remainder:
            with self.block():
                for i in serial(name, remainder):
                    yield full * length + i

    def add(self, vector: int, term: tirx.Expr) -> None:
        """Add `term`, of as many lanes, to a vector of the current block's sums."""
        T.buffer_store(self.sums[vector], self._sum(vector) + term, [self._lanes(vector)])

    def total(self, vector: int) -> tirx.Expr:
        """Return a vector of the results."""
        if self.totals is None:
            return self._sum(vector)
        return BufferLoad(self.totals, [self._lanes(vector, self.starts[vector])])

    def element(self, vector: int, lane: Index) -> tirx.Expr:
        """Return an element of the results."""
        if self.totals is None:
            return BufferLoad(self.sums[vector], [as_index(lane)])
        return BufferLoad(self.totals, [as_index(self.starts[vector] + lane)])

    def _lanes(self, vector: int, start: int = 0) -> Index:
        return vector_index(start, self._length(vector))

    def _length(self, vector: int) -> int:
        return int(self.sums[vector].shape[0])

    def _sum(self, vector: int) -> tirx.Expr:
        return BufferLoad(self.sums[vector], [self._lanes(vector)])

    def _zero(self, vector: int) -> tirx.Expr:
        return broadcast(tirx.const(0.0, "float32"), self._length(vector))

    def _clear(self, vector: int) -> None:
        T.buffer_store(self.sums[vector], self._zero(vector), [self._lanes(vector)])

    def _set_total(self, vector: int, value: tirx.Expr) -> None:
        assert self.totals is not None
        T.buffer_store(self.totals, value, [self._lanes(vector, self.starts[vector])])


def _keep_in_memory(buffer: tirx.Var) -> None:
    """Emit a statement that keeps LLVM from holding `buffer` in registers.

    It would do so for all of a loop over blocks, and move the accumulators to memory in its place.
    A prefetch may touch the buffer as far as LLVM knows; TVM 0.27 has no volatile buffers on CPUs.
    """
    prefetch(buffer, [0], level=1, for_write=True)
