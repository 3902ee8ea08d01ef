"""Loops for kernels that are written statement by statement.

TVM's schedule primitives cannot give the first, inner and last tiles of a row different code, which
is what makes padding free; the rules of this package therefore write their loop nests directly,
with TVM's `IRBuilder`. A loop of the kernel is a loop of Python that runs once, and whatever its
body emits becomes the body of the kernel's loop::

    for row in parallel("row", rows, work=rows * columns):
        for column in vectors("column", 0, columns, lanes):
            T.buffer_store(y, x[row, column] * 2.0, [row, column])

writes, for 20 columns and vectors of 8 lanes,

    for row in T.parallel(rows):
        for i in range(2):
            for lane in T.vectorized(8):
                y[row, i * 8 + lane] = x[row, i * 8 + lane] * 2.0
        for lane in T.vectorized(4):
            y[row, 16 + lane] = x[row, 16 + lane] * 2.0

No `break` or `return` may leave such a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from tvm import s_tir, sym, tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import AllocBuffer, Broadcast, BufferLoad, Ramp, Stmt

Index: TypeAlias = int | tirx.Expr

Combiner: TypeAlias = Callable[[tirx.Expr, tirx.Expr], tirx.Expr]
"""Makes one value of two, such as their sum or maximum."""

INDEX_DTYPE = "int64"
"""The type of Relax shapes, and so of the indices in kernels; TVM narrows it where it can."""

_PARALLEL_WORK = 32768
"""Multiply-adds or elements that are worth waking other threads for."""

FEW_TASKS = 16
"""With fewer tasks, an odd number leaves one of two threads idle for long."""

_FEWEST_PARTS, _MOST_PARTS = 8, 64
"""Powers of two, as the numbers of tasks are on most machines: four for each core of a device."""


def as_index(value: Index) -> tirx.Expr:
    """Return `value` as an expression."""
    return tirx.const(value, INDEX_DTYPE) if isinstance(value, int) else value


def coefficients_of(
    buffer: tirx.Var, indices: Sequence[tirx.Expr], axes: Sequence[tirx.Var]
) -> list[int] | None:
    """Return the offset of an element in a buffer as its strides along `axes`, and a constant.

    None if the offset is not affine in the axes.
    """
    place: Index = 0
    for extent, index in zip(map(int, buffer.shape), indices, strict=True):
        place = place * extent + index
    linear = sym.detect_linear_equation(as_index(place), list(axes))
    if len(linear) != len(axes) + 1 or not all(isinstance(c, tirx.IntImm) for c in linear):
        return None
    return [int(coefficient) for coefficient in linear]


def even_chunk(total: int, most: int, blocks: int) -> int:
    """Return how many of `total` tiles or rows to put into a chunk, `most` or fewer.

    Each chunk of each of the `blocks` of channels is a task for a thread. Chunks are about equal,
    and tasks even in number where there are few.
    """
    chunks = max(1, -(-total // max(1, most)))
    if chunks * blocks % 2 and chunks * blocks < FEW_TASKS and chunks < total:
        chunks += 1
    return max(1, -(-total // chunks))


def rebuilt(func: tirx.PrimFunc, body: Stmt) -> tirx.PrimFunc:
    """Return `func` with `body` inside the root block that Relax expects of kernels."""
    root = s_tir.SBlock([], [], [], "root", body)
    return func.with_body(s_tir.SBlockRealize([], True, root))


def emitted(write: Callable[[], None]) -> Stmt:
    """Return the statements that `write` emits."""
    with IRBuilder() as builder, T.sblock("root"):
        write()
    return builder.get().block.body


def allocate(name: str, *shape: int, dtype: str = "float32") -> tirx.Var:
    """Emit the allocation of a buffer.

    TVM 0.27 puts up to 255 elements of the default scope on the stack, where LLVM keeps them in
    registers if it can. It takes larger ones, and all of scope ``"local"``, from the heap.
    """
    buffer = tirx.decl_buffer(shape, dtype, name, layout=None)
    T.add_to_parent(AllocBuffer(buffer))
    return buffer


def serial(name: str, extent: Index, *, start: Index = 0) -> Iterator[Index]:
    """Emit a serial loop from `start`; a single iteration needs no loop."""
    if isinstance(extent, int) and extent == 1:
        yield start
    else:
        yield from _in_frame(name, T.serial(as_index(start), as_index(start + extent)))


def parallel(name: str, extent: int, *, work: int) -> Iterator[Index]:
    """Emit a loop whose iterations the threads of a device share.

    `work` is the number of multiply-adds or elements of all iterations together. Where it is small,
    waking other threads would take longer than the work itself, and the loop is serial.

    TVM gives each of n tasks ``ceil(extent / n)`` iterations while there are any: of 10, five of
    8 tasks get two, and one of two threads computes 6. So 10 become 8 parts of one or two.
    """
    if extent <= 1 or work < _PARALLEL_WORK:
        yield from serial(name, extent)
        return
    parts = min(1 << extent.bit_length() - 1, _MOST_PARTS)  # a power of two
    if extent < _FEWEST_PARTS or extent % parts == 0:
        yield from _in_frame(name, T.parallel(as_index(0), as_index(extent)))
    else:
        for part in _in_frame("part", T.parallel(as_index(0), as_index(parts))):
            first, end = part * extent // parts, (part + 1) * extent // parts
            # From 0: TVM 0.27 drops loops inside of one whose first iteration varies
            for i in _in_frame(name, T.serial(as_index(0), end - first)):
                yield first + i


def vectors(name: str, start: Index, extent: int, lanes: int) -> Iterator[Index]:
    """Emit a loop over a range as vectors of `lanes`, and a shorter vector for the remainder.

    The body is emitted twice where there are both. A remainder of one element is no vector.
    """
    count, remainder = divmod(extent, lanes)
    if count:
        for i in serial(name, count):
            for lane in _in_frame("lane", T.vectorized(as_index(0), as_index(lanes))):
                yield start + i * lanes + lane
    first = start + count * lanes
    if remainder == 1:
        yield first
    elif remainder:
        for lane in _in_frame("lane", T.vectorized(as_index(0), as_index(remainder))):
            yield first + lane


def fold(partial: tirx.Var, width: int, combine: Combiner) -> None:
    """Emit what combines `width` elements into the first, the upper half onto the lower."""
    while width > 1:
        half = (width + 1) // 2
        for i in vectors("v", 0, width - half, width - half):
            both = combine(partial[as_index(i)], partial[as_index(i + half)])
            T.buffer_store(partial, both, [as_index(i)])
        width = half


def grid(extents: Sequence[int]) -> Iterator[list[Index]]:
    """Emit nested serial loops; without any extent, the body stands in no loop."""
    if not extents:
        yield []
        return
    for i in serial("i", extents[0]):
        for inner in grid(extents[1:]):
            yield [i, *inner]


@contextmanager
def when(condition: tirx.Expr | bool) -> Iterator[None]:
    """Emit what is inside under `condition`, or without one if it is known to hold."""
    if condition is True:
        yield
    else:
        with T.If(condition), T.Then():
            yield


def prefetch(
    buffer: tirx.Var, indices: Sequence[Index], *, level: int = 2, for_write: bool = False
) -> None:
    """Emit that the cache line of an element should be brought into a level of the cache, 1 to 3.

    This is LLVM's function, since TVM 0.27 cannot read its own (`T.prefetch`) from TVMScript.
    """
    element = tirx.address_of(BufferLoad(buffer, [as_index(index) for index in indices]))
    locality, is_data = 4 - level, 1
    numbers = (tirx.const(number, "int32") for number in (int(for_write), locality, is_data))
    T.evaluate(tirx.call_llvm_intrin("", "llvm.prefetch", element, *numbers))


def vector_index(start: Index, lanes: int) -> Index:
    """Return the index of `lanes` neighbours, which is a scalar for a single one."""
    return start if lanes == 1 else Ramp(start, 1, lanes)


def broadcast(value: tirx.Expr, lanes: int) -> tirx.Expr:
    """Return `lanes` times `value`, which stays a scalar for a single lane."""
    return value if lanes == 1 else Broadcast(value, lanes)


def widened(value: tirx.Expr, lanes: int) -> tirx.Expr:
    """Return floats of single or half precision in single precision."""
    if str(value.ty.dtype).startswith("float32"):
        return value
    return tirx.Cast("float32" if lanes == 1 else f"float32x{lanes}", value)


def _in_frame(name: str, frame: AbstractContextManager[tirx.Var]) -> Iterator[tirx.Var]:
    with frame as var:
        yield IRBuilder.name(name, var)
