"""The rule for kernels without reductions: element-wise chains, concatenations, pads, copies.

Before, for the concatenation of ``a[N, 20]`` and ``relu(b)[N, 12]``, each operator is a block:

    for n, c: r[n, c] = max(b[n, c], 0)
    for n, c: y[n, c] = r[n, c - 20] if c >= 20 else a[n, c]

After, all blocks are inlined into those that write outputs, and each of these is one loop nest over
flat views of its buffers:

    parallel for chunk of n, for n in chunk
        for c in 0:20, in vectors: y_flat[32 n + c] = a_flat[20 n + c]
        for c in 20:32, in vectors: y_flat[32 n + c] = max(b_flat[12 n + c - 20], 0)

- Where a condition compares the innermost axis with a constant, as in a concatenation or a pad, the
  axis is split there, and each part has code without that condition: a concatenation is one copy
  per operand.
- Neighbouring axes that are one axis in the memory of all operands become one loop, so that an
  element-wise chain is a single loop over all elements whatever their shape.
- The innermost axis is vectorized, unless it is shorter than a vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import tvm_ffi
from tvm import s_tir, sym, tirx
from tvm.ir import Range, TensorLoad
from tvm.script import tirx as T
from tvm.tirx import BufferLoad, BufferStore, DeclBuffer

from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    as_index,
    coefficients_of,
    emitted,
    grid,
    parallel,
    rebuilt,
    serial,
    vectors,
)
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.passes.tir_trees import nodes_of, with_values

_CHUNK = 2048
"""Elements that an iteration of the parallel loop should cover at least."""

_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)


class Injective(VectorRule):
    """Write out kernels whose elements do not depend on each other."""

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        stores = inlined_stores(func)
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

        def write() -> None:
            for param, view in flat.items():
                T.add_to_parent(DeclBuffer(view, data=param.data))
            for store in stores:
                _nest_of(store, flat, self.lanes).write()

        return rebuilt(func, emitted(write))


@dataclass(frozen=True)
class Store:
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


def inlined_stores(func: tirx.PrimFunc) -> list[Store] | None:
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
        stores.append(Store(stmt.body.buffer, axes, extents, stmt.body.value))
    return stores


def _are_axes(indices: Sequence[tirx.Expr], axes: Sequence[tirx.Var]) -> bool:
    return len(indices) == len(axes) and all(
        index.same_as(axis) for index, axis in zip(indices, axes, strict=True)
    )


def _nest_of(store: Store, flat: Mapping[tirx.Var, tirx.Var], lanes: int) -> _Nest:
    """Choose the loops of `store`; `flat` are views of the kernel's buffers."""
    parts = _parts(store)
    accesses = _accesses(store, parts, flat)
    if accesses is None:
        groups = [[axis] for axis in range(len(store.axes))]
        return _Nest(store, parts, groups, {}, lanes, contiguous=True)
    groups = _affine_groups(store, accesses, split_last=len(parts) > 1)
    contiguous = all(access[len(store.axes) - 1] in (0, 1) for access in accesses)
    return _Nest(store, parts, groups, flat, lanes, contiguous)


@dataclass(frozen=True)
class _Nest:
    """The loop nest of one store.

    Attributes
    ----------
    store : Store
        What to compute.
    parts : sequence of _Part
        Ranges of the innermost axis with a value for each.
    groups : sequence of sequence of int
        For each loop, outer ones first, the axes of the store that it goes through as one.
    flat : mapping of tirx.Var to tirx.Var
        One-dimensional views of the buffers; without any, each axis is a loop of its own and
        buffers are accessed in their own dimensions.
    lanes : int
        Elements per vector.
    contiguous : bool
        Whether the innermost loop is written in vectors. Where vectors would have to gather, the
        compiler's own shuffles are faster.
    """

    store: Store
    parts: Sequence[_Part]
    groups: Sequence[Sequence[int]]
    flat: Mapping[tirx.Var, tirx.Var]
    lanes: int
    contiguous: bool

    def write(self) -> None:
        """Emit the loops; the outermost is parallel, over chunks of some elements."""
        extents = [math.prod(self.store.extents[axis] for axis in group) for group in self.groups]
        if len(extents) > 1:
            self._write_outer_loops(extents)
        elif len(self.parts) > 1:
            self._write_parts([])
        else:
            self._write_single_loop(extents[0])

    def _write_outer_loops(self, extents: Sequence[int]) -> None:
        first, *middle, last = extents
        work = math.prod(extents)
        chunk = min(first, -(-_CHUNK // math.prod(extents[1:])))
        for index in parallel("chunk", -(-first // chunk), work=work):
            start = index * chunk
            count = chunk if first % chunk == 0 else tirx.min(chunk, first - start)
            for i in serial("i", count):
                for inner in grid(middle):
                    outer = [start + i, *inner]
                    if len(self.parts) > 1:
                        self._write_parts(outer)
                    else:  # the innermost loop may go through several axes
                        self._write_range(self.parts[0].value, outer, 0, last)

    def _write_single_loop(self, extent: int) -> None:
        chunks, remainder = divmod(extent, _CHUNK)
        value = self.parts[0].value
        if chunks:
            for chunk in parallel("chunk", chunks, work=extent):
                self._write_range(value, [], chunk * _CHUNK, _CHUNK)
        if remainder:
            self._write_range(value, [], chunks * _CHUNK, remainder)

    def _write_parts(self, outer: Sequence[Index]) -> None:
        for part in self.parts:
            self._write_range(part.value, outer, part.start, part.end - part.start)

    def _write_range(
        self, value: tirx.Expr, outer: Sequence[Index], start: Index, extent: int
    ) -> None:
        """Compute `extent` elements of the innermost loop from `start`."""
        indices: Iterable[Index]
        if extent < self.lanes:
            indices = (start + i for i in range(extent))
        elif not self.contiguous:
            indices = serial("i", extent, start=start)
        else:
            indices = vectors("vector", start, extent, self.lanes)
        for index in indices:
            self._write_element(value, [*outer, index])

    def _write_element(self, value: tirx.Expr, indices: Sequence[Index]) -> None:
        """Store one element of `value`, at an index for each group of axes."""
        store = self.store
        if not self.flat:
            at = {
                store.axes[group[0]]: as_index(index)
                for group, index in zip(self.groups, indices, strict=True)
            }
            T.buffer_store(store.buffer, with_values(value, at), [at[axis] for axis in store.axes])
            return

        def load(access: TensorLoad) -> tirx.Expr:
            if access.source not in self.flat:
                return access
            place = self._flat_index(access.source, access.indices, indices)
            return BufferLoad(self.flat[access.source], [place])

        value = tvm_ffi.structural_map(value, [(TensorLoad, load)])
        place = self._flat_index(store.buffer, store.axes, indices)
        T.buffer_store(self.flat[store.buffer], value, [place])

    def _flat_index(
        self, buffer: tirx.Var, access: Sequence[tirx.Expr], indices: Sequence[Index]
    ) -> tirx.Expr:
        """Return the place in a flat view of ``buffer[access]``, which is affine in the axes."""
        linear = coefficients_of(buffer, access, self.store.axes)
        assert linear is not None  # _accesses has checked all accesses
        *factors, constant = linear
        terms = [
            index * factors[group[-1]] for group, index in zip(self.groups, indices, strict=True)
        ]
        return as_index(sum(terms, constant))


def _accesses(
    store: Store, parts: Sequence[_Part], flat: Mapping[tirx.Var, tirx.Var]
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
    if any(var in store.axes for value in without_loads for var in nodes_of(value, tirx.Var)):
        return None
    affine = [access for access in accesses if access is not None]
    return affine if len(affine) == len(accesses) else None


def _affine_groups(
    store: Store, accesses: Sequence[Sequence[int]], *, split_last: bool
) -> list[list[int]]:
    """Group neighbouring axes that are one axis in the memory of all accesses."""
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


def _parts(store: Store) -> list[_Part]:
    """Split the innermost axis where a condition on it changes, and drop the conditions."""
    axis, extent = store.axes[-1], store.extents[-1]
    points = sorted({0, extent} | breakpoints(store.value, axis, extent))
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


def breakpoints(value: tirx.Expr, axis: tirx.Var, extent: int) -> set[int]:
    """Return the places within the axis where a comparison in `value` may change."""
    points: set[int] = set()
    for comparison in nodes_of(value, *_COMPARISONS):
        linear = sym.detect_linear_equation(comparison.a - comparison.b, [axis])
        if len(linear) == 2 and all(isinstance(c, tirx.IntImm) for c in linear):
            factor, constant = map(int, linear)
            if factor:
                zero = -constant // factor
                points.update(point for point in (zero, zero + 1) if 0 < point < extent)
    return points
