"""Transposition of a square of vectors in registers.

Step by step, pairs of vectors exchange halves of each of their pieces, which get shorter. For four
vectors of four lanes, from ``a b c d`` with distance 2 and then 1:

    a0 a1 a2 a3     a0 a1 c0 c1     a0 b0 c0 d0
    b0 b1 b2 b3     b0 b1 d0 d1     a1 b1 c1 d1
    c0 c1 c2 c3     a2 a3 c2 c3     a2 b2 c2 d2
    d0 d1 d2 d3     b2 b3 d2 d3     a3 b3 c3 d3
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import BufferLoad, Ramp, Shuffle

from hios_tvm.passes.cpu_rules.loop_nest import allocate


def transposed(rows: Sequence[tirx.Var]) -> list[tirx.Var]:
    """Emit the transposition of a square of as many rows as lanes, a power of two.

    Parameters
    ----------
    rows : sequence of tirx.Var
        A buffer for each row.

    Returns
    -------
    list of tirx.Var
        A buffer for each column.
    """
    lanes = len(rows)
    result = list(rows)
    distance = lanes // 2
    while distance:
        exchanged = [allocate(f"exchanged{i}", lanes) for i in range(lanes)]
        for i, buffer in enumerate(exchanged):
            pair = [_vector(result[i & ~distance]), _vector(result[i | distance])]
            # Lane n of the second vector has the number n + lanes
            places = [
                (lane & ~distance) + (i & distance) + (lanes if lane & distance else 0)
                for lane in range(lanes)
            ]
            T.buffer_store(buffer, Shuffle(pair, places), [Ramp(0, 1, lanes)])
        result = exchanged
        distance //= 2
    return result


def _vector(buffer: tirx.Var) -> tirx.Expr:
    return BufferLoad(buffer, [Ramp(0, 1, int(buffer.shape[0]))])
