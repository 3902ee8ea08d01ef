"""Long sums in blocks.

The rounding error of a sum grows with the number of additions in a row. A register tile therefore
adds up blocks of at most some hundred terms, and a second buffer adds these sums up:

    totals = 0
    for block of terms
        sums = 0
        for term of the block: sums += term    # in registers
        totals += sums                         # in memory

Matrix products of other libraries, which go through the inner dimension in blocks, round as often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, Stmt

from hios_tvm.passes.cpu_rules.loop_nest import Index, broadcast, loop, sequence, vector_index

__all__ = ["MOST_TERMS", "BlockedSums"]

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
        The buffer that terms are added to.
    totals : tirx.Var
        The buffer that holds the results at the end; `sums` itself where there is one block.
    vectors : tuple of (int, int)
        First element and length of each vector.
    """

    sums: tirx.Var
    totals: tirx.Var
    vectors: tuple[tuple[int, int], ...]

    @staticmethod
    def of(vectors: Sequence[tuple[int, int]], *, is_single: bool) -> BlockedSums:
        """Declare accumulators for all `vectors`; `is_single` if all terms are one block."""
        size = sum(length for _, length in vectors)
        sums = tirx.decl_buffer((size,), "float32", "sums", scope="local", layout=None)
        totals = sums
        if not is_single:
            totals = tirx.decl_buffer((size,), "float32", "totals", scope="local", layout=None)
        return BlockedSums(sums, totals, tuple(vectors))

    @property
    def _is_single(self) -> bool:
        return bool(self.totals.same_as(self.sums))

    def around(self, terms: Stmt) -> Stmt:
        """Return the statements that allocate the buffers, clear them, and run `terms`."""
        if self._is_single:
            return sequence([AllocBuffer(self.sums), self._clear(self.sums), terms])
        buffers: list[Stmt] = [AllocBuffer(self.sums), AllocBuffer(self.totals)]
        return sequence([*buffers, self._clear(self.totals), terms])

    def block(self, terms: Stmt) -> Stmt:
        """Return `terms` as one block."""
        if self._is_single:
            return terms
        return sequence([self._clear(self.sums), terms, self._add_to_totals()])

    def loop(self, name: str, extent: int, body: Callable[[Index], Stmt]) -> Stmt:
        """Return a loop over `extent` terms in blocks of about the same length."""
        if self._is_single:
            return loop(name, 0, extent, body)
        count = -(-extent // MOST_TERMS)
        length = -(-extent // count)
        full, rest = divmod(extent, length)

        def nth(block: Index) -> Stmt:
            return self.block(loop(name, 0, length, lambda i: body(block * length + i)))

        statements = [loop("block", 0, full, nth)]
        if rest:
            statements.append(self.block(loop(name, 0, rest, lambda i: body(full * length + i))))
        return sequence(statements)

    def _clear(self, buffer: tirx.Var) -> Stmt:
        zero = tirx.const(0.0, "float32")
        return sequence(
            [
                BufferStore(buffer, broadcast(zero, length), [vector_index(start, length)])
                for start, length in self.vectors
            ]
        )

    def _add_to_totals(self) -> Stmt:
        statements = [_keep_in_memory(self.totals)]
        for start, length in self.vectors:
            at = [vector_index(start, length)]
            total = BufferLoad(self.totals, at) + BufferLoad(self.sums, at)
            statements.append(BufferStore(self.totals, total, at))
        return sequence(statements)


def _keep_in_memory(buffer: tirx.Var) -> Stmt:
    """Return a statement that keeps LLVM from holding `buffer` in registers.

    It would do so for all of a loop over blocks, and move the accumulators to memory in its place.
    A prefetch may touch the buffer as far as LLVM knows; TVM 0.27 has no volatile buffers on CPUs.
    """
    first = tirx.address_of(BufferLoad(buffer, [0]))
    write, most_local, data = 1, 3, 1
    return tirx.Evaluate(tirx.call_intrin("", "tirx.prefetch", first, write, most_local, data))
