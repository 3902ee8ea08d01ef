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

from hios_tvm.passes.cpu_rules.loop_nest import Index, allocate, broadcast, serial, vector_index

MOST_TERMS = 600
"""Of a block. It takes some ten thousand cycles, and adding it to the totals about a hundred.

With blocks of 256 terms, sums of a 3x3 window of 512 channels differ 4 times less from exact ones.
"""


@dataclass(frozen=True)
class BlockedSums:
    """Accumulators of a register tile.

    Attributes
    ----------
    sums : tirx.Var
        The buffer ``(elements of the tile,)`` that terms are added to.
    totals : tirx.Var
        The buffer of the same shape that holds the results at the end; `sums` itself where there is
        one block.
    vectors : tuple of (int, int)
        First element and length of each vector.
    """

    sums: tirx.Var
    totals: tirx.Var
    vectors: tuple[tuple[int, int], ...]

    @staticmethod
    def allocate(vectors: Sequence[tuple[int, int]], *, is_single: bool) -> BlockedSums:
        """Emit accumulators of zeros for all `vectors`; `is_single` if all terms are one block."""
        size = sum(length for _, length in vectors)
        sums = allocate("sums", size, scope="local")
        totals = sums if is_single else allocate("totals", size, scope="local")
        result = BlockedSums(sums, totals, tuple(vectors))
        result._clear(totals)
        return result

    @property
    def _is_single(self) -> bool:
        return bool(self.totals.same_as(self.sums))

    @contextmanager
    def block(self, *, is_block: bool = True) -> Iterator[None]:
        """Emit what is inside as one block of terms, unless that is a part of a block."""
        if self._is_single or not is_block:
            yield
            return
        self._clear(self.sums)
        yield
        self._add_to_totals()

    def loop(self, name: str, extent: int) -> Iterator[Index]:
        """Emit a loop over `extent` terms in blocks of about the same length."""
        if self._is_single:
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
        place = [self._index(vector)]
        T.buffer_store(self.sums, BufferLoad(self.sums, place) + term, place)

    def total(self, vector: int) -> tirx.Expr:
        """Return a vector of the results."""
        return BufferLoad(self.totals, [self._index(vector)])

    def _index(self, vector: int) -> Index:
        return vector_index(*self.vectors[vector])

    def _clear(self, buffer: tirx.Var) -> None:
        zero = tirx.const(0.0, "float32")
        for start, length in self.vectors:
            T.buffer_store(buffer, broadcast(zero, length), [vector_index(start, length)])

    def _add_to_totals(self) -> None:
        _keep_in_memory(self.totals)
        for i in range(len(self.vectors)):
            total = self.total(i) + BufferLoad(self.sums, [self._index(i)])
            T.buffer_store(self.totals, total, [self._index(i)])


def _keep_in_memory(buffer: tirx.Var) -> None:
    """Emit a statement that keeps LLVM from holding `buffer` in registers.

    It would do so for all of a loop over blocks, and move the accumulators to memory in its place.
    A prefetch may touch the buffer as far as LLVM knows; TVM 0.27 has no volatile buffers on CPUs.
    """
    first = tirx.address_of(BufferLoad(buffer, [0]))
    write, most_local, data = 1, 3, 1
    T.evaluate(tirx.call_intrin("", "tirx.prefetch", first, write, most_local, data))
