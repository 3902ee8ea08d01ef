"""The rule for kernels without reductions: element-wise chains, concatenations, pads, copies.

All blocks are inlined into those that write outputs, and each of these becomes one nest of loops:

- Where a condition compares the innermost axis with a constant, as in a concatenation or a pad, the
  axis is split there, and each part has code without that condition: a concatenation is one copy
  per operand.
- Axes that all operands walk in the same way are one loop, so that an element-wise chain is a
  single loop over all elements whatever their shape.
- The innermost axis is vectorised, unless it is shorter than a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import tvm_ffi
from tvm import s_tir, sym, tirx
from tvm.ir import Range, TensorLoad
from tvm.tirx import BufferLoad, BufferStore, DeclBuffer, Stmt

from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    as_index,
    coefficients_of,
    loop,
    parallel_loop,
    rebuilt,
    sequence,
    vector_loops,
)

__all__ = ["Injective"]

_CHUNK = 2048
"""Elements that an iteration of the parallel loop should cover at least."""

_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)


class Injective:
    """Write out kernels whose elements do not depend on each other."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        stores = _inlined_stores(func)
        if not stores:
            return None
        flat = {
            param: tirx.decl_buffer(
                (math.prod(map(int, param.shape)),),
                param.ty.dtype,
                f"{param.name}_flat",
                data=param.data,
                layout=None,  # as TVMScript reads it back
            )
            for param in func.params
        }
        views = [DeclBuffer(view, data=param.data) for param, view in flat.items()]
        nests = [_nest(store, flat, self.lanes) for store in stores]
        return rebuilt(func, sequence([*views, *nests]))


@dataclass(frozen=True)
class _Store:
    """``buffer[axes] = value`` for all values of `axes` below `extents`."""

    buffer: tirx.Var
    axes: tuple[tirx.Var, ...]
    extents: tuple[int, ...]
    value: tirx.Expr


@dataclass(frozen=True)
class _Part:
    """The values of a store where the innermost axis is between `start` and `end`."""

    start: int
    end: int
    value: tirx.Expr


def _inlined_stores(func: tirx.PrimFunc) -> list[_Store] | None:
    """Inline all blocks into those that write parameters; None if the kernel is not injective."""
    sch = s_tir.Schedule(func)
    outputs = []
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        stmt = sch.get(block)
        if stmt.init is not None or not isinstance(stmt.body, BufferStore):
            return None
        if any(it.iter_type != tirx.IterVar.DataPar for it in stmt.iter_vars):
            return None
        if any(stmt.body.buffer.same_as(param) for param in func.params):
            outputs.append(block)
            continue
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            return None
    stores = []
    for block in outputs:
        stmt = sch.get(block)
        axes = tuple(it.var for it in stmt.iter_vars)
        extents = tuple(int(it.dom.extent) for it in stmt.iter_vars)
        if not axes or not _are_axes(stmt.body.indices, axes):
            return None
        stores.append(_Store(stmt.body.buffer, axes, extents, stmt.body.value))
    return stores


def _are_axes(indices: Sequence[tirx.Expr], axes: Sequence[tirx.Var]) -> bool:
    return len(indices) == len(axes) and all(
        index.same_as(axis) for index, axis in zip(indices, axes, strict=True)
    )


def _nest(store: _Store, flat: Mapping[tirx.Var, tirx.Var], lanes: int) -> Stmt:
    parts = _parts(store)
    accesses = _accesses(store, parts, flat)
    if accesses is None:
        groups = [[axis] for axis in range(len(store.axes))]
        flat = {}
        contiguous = True
    else:
        groups = _affine_groups(store, accesses, split_last=len(parts) > 1)
        contiguous = all(access[len(store.axes) - 1] in (0, 1) for access in accesses)
    extents = [math.prod(store.extents[axis] for axis in group) for group in groups]

    def part(values: _Part, outer: Sequence[Index], start: Index, extent: int) -> Stmt:
        """Compute `extent` elements of the innermost loop from `start`."""

        def element(index: Index) -> Stmt:
            return _element(store, values.value, groups, [*outer, index], flat)

        if extent < lanes:
            return sequence([element(start + i) for i in range(extent)])
        if not contiguous:  # the compiler's shuffles beat gathers
            return loop("i", start, extent, element)
        return vector_loops("vector", start, extent, lanes, element)

    def innermost(outer: Sequence[Index]) -> Stmt:
        if len(parts) == 1:  # the axis may have been merged with others
            return part(parts[0], outer, 0, extents[-1])
        return sequence([part(p, outer, p.start, p.end - p.start) for p in parts])

    if len(groups) > 1:
        return _outer_loops(extents, innermost)
    if len(parts) > 1:
        return innermost([])
    return _chunks(extents[0], lambda start, extent: part(parts[0], [], start, extent))


def _outer_loops(extents: Sequence[int], innermost: Callable[[Sequence[Index]], Stmt]) -> Stmt:
    """All loops but the innermost; the first is parallel, in chunks of some elements."""
    first, *middle = extents[:-1]
    chunk = min(first, -(-_CHUNK // math.prod(extents[1:])))

    def nested(indices: list[Index], rest: Sequence[int]) -> Stmt:
        if not rest:
            return innermost(indices)
        return loop("i", 0, rest[0], lambda i: nested([*indices, i], rest[1:]))

    def outer(index: Index) -> Stmt:
        start = index * chunk
        count = chunk if first % chunk == 0 else tirx.min(chunk, first - start)
        return loop("i", 0, count, lambda i: nested([start + i], middle))

    return parallel_loop("chunk", -(-first // chunk), outer, work=math.prod(extents))


def _chunks(extent: int, elements: Callable[[Index, int], Stmt]) -> Stmt:
    """One loop over everything, in parallel chunks and a rest."""
    count, rest = divmod(extent, _CHUNK)
    statements = []
    if count:

        def chunk(index: Index) -> Stmt:
            return elements(index * _CHUNK, _CHUNK)

        statements.append(parallel_loop("chunk", count, chunk, work=extent))
    if rest:
        statements.append(elements(count * _CHUNK, rest))
    return sequence(statements)


def _element(
    store: _Store,
    value: tirx.Expr,
    groups: Sequence[Sequence[int]],
    indices: Sequence[Index],
    flat: Mapping[tirx.Var, tirx.Var],
) -> Stmt:
    """Store one element; each group of axes has one index.

    Without views in `flat` groups are single axes, and buffers keep their dimensions.
    """
    if not flat:
        at = {
            store.axes[group[0]]: as_index(index)
            for group, index in zip(groups, indices, strict=True)
        }
        value = tvm_ffi.structural_map(value, [(tirx.Var, lambda var: at.get(var, var))])
        return BufferStore(store.buffer, value, [at[axis] for axis in store.axes])

    def place(buffer: tirx.Var, at: Sequence[tirx.Expr]) -> Index:
        linear = coefficients_of(buffer, at, store.axes)
        assert linear is not None  # _accesses has checked all accesses
        *factors, constant = linear
        terms = [index * factors[group[-1]] for group, index in zip(groups, indices, strict=True)]
        return sum(terms, constant)

    def load(access: TensorLoad) -> tirx.Expr:
        if access.source not in flat:
            return access
        return BufferLoad(flat[access.source], [as_index(place(access.source, access.indices))])

    value = tvm_ffi.structural_map(value, [(TensorLoad, load)])
    return BufferStore(flat[store.buffer], value, [as_index(place(store.buffer, store.axes))])


def _accesses(
    store: _Store, parts: Sequence[_Part], flat: Mapping[tirx.Var, tirx.Var]
) -> list[list[int]] | None:
    """Return the coefficients of all loads and of the store.

    None if an access is not affine, or a value uses an axis other than as an index.
    """
    accesses = [coefficients_of(store.buffer, store.axes, store.axes)]

    def collect(access: TensorLoad) -> tirx.Expr:
        if access.source in flat:
            accesses.append(coefficients_of(access.source, access.indices, store.axes))
            return BufferLoad(flat[access.source], [as_index(0)])
        return access

    without_loads = [tvm_ffi.structural_map(part.value, [(TensorLoad, collect)]) for part in parts]
    if any(_uses(value, store.axes) for value in without_loads):
        return None
    affine = [access for access in accesses if access is not None]
    return affine if len(affine) == len(accesses) else None


def _affine_groups(
    store: _Store, accesses: Sequence[Sequence[int]], *, split_last: bool
) -> list[list[int]]:
    """Group neighbouring axes that all accesses walk as if they were one."""
    groups: list[list[int]] = []
    last = len(store.axes) - 1
    for axis, extent in enumerate(store.extents):
        if extent == 1 and axis != last:
            continue
        mergeable = groups and all(
            access[groups[-1][-1]] == access[axis] * extent for access in accesses
        )
        if mergeable and not (axis == last and split_last):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def _uses(value: tirx.Expr, axes: Sequence[tirx.Var]) -> bool:
    found = []

    def visit(var: tirx.Var) -> tirx.Var:
        if var in axes:
            found.append(var)
        return var

    tvm_ffi.structural_map(value, [(tirx.Var, visit)])
    return bool(found)


def _parts(store: _Store) -> list[_Part]:
    """Split the innermost axis where a condition on it changes, and drop the conditions."""
    axis, extent = store.axes[-1], store.extents[-1]
    points = sorted({0, extent} | _breakpoints(store.value, axis, extent))
    parts: list[_Part] = []
    for start, end in pairwise(points):
        analyzer = sym.Analyzer()
        for other, size in zip(store.axes[:-1], store.extents[:-1], strict=True):
            analyzer.bind(other, Range(as_index(0), as_index(size)))
        analyzer.bind(axis, Range(as_index(start), as_index(end)))
        value = analyzer.simplify(store.value)
        if parts and tvm_ffi.structural_equal(value, parts[-1].value):
            parts[-1] = _Part(parts[-1].start, end, value)
        else:
            parts.append(_Part(start, end, value))
    return parts


def _breakpoints(value: tirx.Expr, axis: tirx.Var, extent: int) -> set[int]:
    """Return the places within the axis where a comparison in `value` may change."""
    points: set[int] = set()

    def visit(comparison: tirx.Expr) -> tirx.Expr:
        linear = sym.detect_linear_equation(comparison.a - comparison.b, [axis])
        if len(linear) == 2 and all(isinstance(c, tirx.IntImm) for c in linear):
            factor, constant = map(int, linear)
            if factor:
                zero = -constant // factor
                points.update(point for point in (zero, zero + 1) if 0 < point < extent)
        return comparison

    tvm_ffi.structural_map(value, [(kind, visit) for kind in _COMPARISONS])
    return points
