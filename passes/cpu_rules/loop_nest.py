"""Building blocks of kernels that are written out loop by loop.

TVM's schedule primitives cannot give the first, inner and last tiles of a row different code, which
is what makes padding free; the rules of this package therefore build their loop nests directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from tvm import s_tir, sym, tirx
from tvm.tirx import Broadcast, For, ForKind, Ramp, SeqStmt, Stmt

__all__ = [
    "INDEX_DTYPE",
    "Index",
    "as_index",
    "broadcast",
    "coefficients_of",
    "even_chunk",
    "loop",
    "parallel_loop",
    "rebuilt",
    "sequence",
    "vector_index",
    "vector_loops",
]

Index: TypeAlias = int | tirx.Expr

INDEX_DTYPE = "int64"
"""The type of Relax shapes, and so of the indices in kernels; TVM narrows it where it can."""

_PARALLEL_WORK = 32768

_FEW_TASKS = 16
"""Below this many tasks, an odd number leaves one of two threads idle for long."""


def as_index(value: Index) -> tirx.Expr:
    """Return `value` as an expression."""
    return tirx.const(value, INDEX_DTYPE) if isinstance(value, int) else value


def coefficients_of(
    buffer: tirx.Var, indices: Sequence[tirx.Expr], axes: Sequence[tirx.Var]
) -> list[int] | None:
    """Return the place of an element in memory as factors of `axes` and a constant.

    None if the place is not such a sum.
    """
    place: Index = 0
    for extent, index in zip(map(int, buffer.shape), indices, strict=True):
        place = place * extent + index
    linear = sym.detect_linear_equation(as_index(place), list(axes))
    if len(linear) != len(axes) + 1 or not all(isinstance(c, tirx.IntImm) for c in linear):
        return None
    return [int(coefficient) for coefficient in linear]


def even_chunk(total: int, most: int, blocks: int) -> int:
    """Return how many of `total` tiles or rows, at most `most`, make a chunk.

    Threads share the chunks times the `blocks` of channels, so chunks are about equal, and an even
    number of tasks where there are few.
    """
    chunks = max(1, -(-total // max(1, most)))
    if chunks * blocks % 2 and chunks * blocks < _FEW_TASKS and chunks < total:
        chunks += 1
    return max(1, -(-total // chunks))


def rebuilt(func: tirx.PrimFunc, body: Stmt) -> tirx.PrimFunc:
    """Return `func` with another body, inside the root block that Relax expects of kernels."""
    root = s_tir.SBlock([], [], [], "root", body)
    return func.with_body(s_tir.SBlockRealize([], True, root))


def sequence(statements: Sequence[Stmt]) -> Stmt:
    """Return the statements one after another; none is a statement that does nothing."""
    if not statements:
        return tirx.Evaluate(0)
    return statements[0] if len(statements) == 1 else SeqStmt(list(statements))


def loop(
    name: str, start: Index, extent: Index, body: Callable[[Index], Stmt], *, unroll: bool = False
) -> Stmt:
    """Return a serial loop; one iteration needs no loop, and `unroll` writes all of them out."""
    if isinstance(extent, int) and (extent == 1 or unroll):
        return sequence([body(start + i) for i in range(extent)])
    return _loop(name, start, extent, ForKind.SERIAL, body)


def parallel_loop(name: str, extent: int, body: Callable[[Index], Stmt], *, work: int) -> Stmt:
    """Return a loop whose iterations the threads of a device share.

    Where all iterations together are less than some `work` (multiply-adds or elements), waking
    other threads would take longer, and the loop is serial.
    """
    if extent == 1 or work < _PARALLEL_WORK:
        return loop(name, 0, extent, body)
    return _loop(name, 0, extent, ForKind.PARALLEL, body)


def vector_index(start: Index, lanes: int) -> Index:
    """Return the index of `lanes` neighbours; of one, it is no vector."""
    return start if lanes == 1 else Ramp(start, 1, lanes)


def broadcast(value: tirx.Expr, lanes: int) -> tirx.Expr:
    """Return a vector of equal elements; of one, it is no vector."""
    return value if lanes == 1 else Broadcast(value, lanes)


def vector_loops(
    name: str, start: Index, extent: int, lanes: int, body: Callable[[Index], Stmt]
) -> Stmt:
    """Return `body` over a range, as vectors of `lanes` and one shorter vector for the rest."""
    vectors, rest = divmod(extent, lanes)
    statements = []
    if vectors:
        statements.append(
            loop(
                name,
                0,
                vectors,
                lambda i: _loop(
                    "lane", 0, lanes, ForKind.VECTORIZED, _shifted(body, start, i * lanes)
                ),
            )
        )
    if rest == 1:
        statements.append(body(start + vectors * lanes))
    elif rest:
        offset = vectors * lanes
        statements.append(_loop("lane", 0, rest, ForKind.VECTORIZED, _shifted(body, start, offset)))
    return sequence(statements)


def _shifted(body: Callable[[Index], Stmt], start: Index, offset: Index) -> Callable[[Index], Stmt]:
    return lambda lane: body(start + offset + lane)


def _loop(
    name: str, start: Index, extent: Index, kind: ForKind, body: Callable[[Index], Stmt]
) -> Stmt:
    var = tirx.Var(name, INDEX_DTYPE)
    return For(var, start, extent, kind, body(var))
