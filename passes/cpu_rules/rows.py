"""The rule for kernels that reduce rows: softmax, normalisations, means over the last axes.

All blocks of such a kernel walk the same rows, and each computes a number of the row (a maximum, a
sum) or its elements. One row after another goes through all of them, while it lies in the cache:

    parallel for chunk of rows
        for row
            maximum = of the row, in vectors
            exponentials = ...
            sum = ...
            output row = ...

Numbers are reduced in several vectors, which become one and then a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, Stmt

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

__all__ = ["Rows"]

_ACCUMULATORS = 4
"""Vectors that a reduction sums into: enough to hide the latency of an addition."""

_CHUNK = 4096
"""Elements that an iteration of the parallel loop should cover at least."""

_LARGEST_ROW = 1 << 16
"""Elements of a row whose intermediate values are kept."""

_COMBINERS = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)


class Rows:
    """Write out kernels that reduce the last axes of tensors."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        blocks = _blocks(func)
        if blocks is None:
            return None
        rows = _rows(blocks)
        if rows is None:
            return None
        nest = _Nest(func, rows, blocks, self.lanes)
        is_mine = nest.keeps_to_its_row() and nest.is_contiguous()
        return rebuilt(func, nest.body()) if is_mine else None


@dataclass(frozen=True)
class _Block:
    """``buffer[indices] = value`` for all values of `axes`; a reduction where `start` is given."""

    buffer: tirx.Var
    indices: tuple[tirx.Expr, ...]
    value: tirx.Expr
    start: tirx.Expr | None
    axes: tuple[tirx.Var, ...]
    extents: tuple[int, ...]
    spatial: int

    @property
    def inner(self) -> range:
        """The axes behind those of `spatial` rows that a reduction sums, if it is one."""
        return range(self.spatial, len(self.axes))


def _blocks(func: tirx.PrimFunc) -> list[_Block] | None:
    """Return the blocks in order; None if one has another form, or none reduces."""
    sch = s_tir.Schedule(func)
    blocks = []
    for handle in sch.get_child_blocks(sch.get_sblock("root")):
        block = sch.get(handle)
        kinds = [it.iter_type for it in block.iter_vars]
        spatial = sum(kind == tirx.IterVar.DataPar for kind in kinds)
        reduced = kinds[spatial:]
        if any(kind != tirx.IterVar.CommReduce for kind in reduced):
            return None
        if not isinstance(block.body, BufferStore) or (block.init is not None) != bool(reduced):
            return None
        if reduced and not isinstance(block.init, BufferStore):
            return None
        if str(block.body.buffer.ty.dtype) != "float32":
            return None
        blocks.append(
            _Block(
                block.body.buffer,
                tuple(block.body.indices),
                block.body.value,
                block.init.value if reduced else None,
                tuple(it.var for it in block.iter_vars),
                tuple(int(it.dom.extent) for it in block.iter_vars),
                spatial,
            )
        )
    return blocks if any(block.start is not None for block in blocks) else None


def _rows(blocks: Sequence[_Block]) -> tuple[int, ...] | None:
    """Return the extents of the axes that all blocks have in front, None if they differ.

    What a reduction keeps behind them has one element.
    """
    first = next(block for block in blocks if block.start is not None)
    rows = first.extents[: first.spatial]
    while rows and rows[-1] == 1:
        rows = rows[:-1]
    for block in blocks:
        if block.extents[: len(rows)] != rows or len(rows) > block.spatial:
            return None
        kept = block.extents[len(rows) : block.spatial]
        if block.start is not None and math.prod(kept) != 1:
            return None
        if math.prod(block.extents[len(rows) :]) > _LARGEST_ROW:
            return None
    return rows


@dataclass
class _Nest:
    func: tirx.PrimFunc
    rows: tuple[int, ...]
    blocks: list[_Block]
    lanes: int

    def keeps_to_its_row(self) -> bool:
        """Whether each access to an intermediate tensor is to the row that is being computed.

        A convolution, for one, reads the pixels of its padded image across rows.
        """
        return all(
            len(indices) >= len(self.rows)
            and all(
                index.same_as(axis) or (extent == 1 and isinstance(index, tirx.IntImm))
                for index, axis, extent in zip(indices, block.axes, self.rows, strict=False)
            )
            for block in self.blocks
            for buffer, indices in [(block.buffer, block.indices), *_loads(block)]
            if self._is_intermediate(buffer)
        )

    def _is_intermediate(self, buffer: tirx.Var) -> bool:
        return not any(buffer.same_as(param) for param in self.func.params)

    def is_contiguous(self) -> bool:
        """Whether each access to a row lies side by side along its last axis, or is one value."""
        return all(self._is_contiguous(block) for block in self.blocks)

    def _is_contiguous(self, block: _Block) -> bool:
        inner = [i for i in range(len(self.rows), len(block.axes)) if block.extents[i] > 1]
        if not inner:
            return True
        if block.start is not None and _combined(block) is None:
            return False
        accesses = _loads(block)
        if block.start is None:
            accesses.append((block.buffer, block.indices))
        places = [coefficients_of(buffer, indices, block.axes) for buffer, indices in accesses]
        return all(place is not None and place[inner[-1]] in (0, 1) for place in places)

    def body(self) -> Stmt:
        """Return the whole kernel."""
        count = math.prod(self.rows)
        work = sum(math.prod(block.extents) for block in self.blocks)
        chunk = min(count, max(1, -(-_CHUNK * len(self.blocks) * count // work)))
        local = {
            block.buffer: tirx.decl_buffer(
                (max(1, math.prod(map(int, block.buffer.shape[len(self.rows) :]))),),
                "float32",
                f"{block.buffer.name}_row",
                layout=None,
            )
            for block in self.blocks
            if self._is_intermediate(block.buffer)
        }

        def rows(index: Index) -> Stmt:
            first = index * chunk
            many = chunk if count % chunk == 0 else tirx.min(chunk, count - first)
            allocated: list[Stmt] = [AllocBuffer(buffer) for buffer in local.values()]
            one = loop("row", 0, many, lambda row: self._row(first + row, local))
            return sequence([*allocated, one])

        return parallel_loop("chunk", -(-count // chunk), rows, work=work)

    def _row(self, row: Index, local: Mapping[tirx.Var, tirx.Var]) -> Stmt:
        outer: list[Index] = []
        for extent in reversed(self.rows):
            outer.insert(0, row % extent if len(outer) + 1 < len(self.rows) else row)
            row = row // extent
        return sequence([self._block(block, outer, local) for block in self.blocks])

    def _block(
        self, block: _Block, outer: Sequence[Index], local: Mapping[tirx.Var, tirx.Var]
    ) -> Stmt:
        """Compute what a block computes of one row."""
        extents = block.extents[len(self.rows) :]

        def at(inner: Sequence[Index]) -> Callable[[tirx.Expr], tirx.Expr]:
            places = zip(block.axes, [*outer, *inner], strict=True)
            values = {axis: as_index(index) for axis, index in places}
            return lambda expr: self._placed(expr, values, local)

        def store(inner: Sequence[Index], value: tirx.Expr) -> Stmt:
            placed = [at(inner)(index) for index in block.indices]
            if block.buffer not in local:
                return BufferStore(block.buffer, value, placed)
            return BufferStore(local[block.buffer], value, [self._local(block.buffer, placed)])

        if block.start is None:
            *others, last = extents or (1,)

            def elements(inner: Sequence[Index]) -> Stmt:
                def element(index: Index) -> Stmt:
                    place = [*inner, index] if extents else []
                    return store(place, at(place)(block.value))

                return vector_loops("vector", 0, last, self.lanes, element)

            return _loops(others, elements)
        kept = [0] * (block.spatial - len(self.rows))
        return self._reduction(
            block,
            lambda inner: at([*kept, *inner]),
            lambda value: store([*kept, *([0] * len(block.inner))], value),
        )

    def _reduction(
        self,
        block: _Block,
        at: Callable[[Sequence[Index]], Callable[[tirx.Expr], tirx.Expr]],
        store: Callable[[tirx.Expr], Stmt],
    ) -> Stmt:
        """Reduce the inner axes of a row to one number."""
        combined = _combined(block)
        assert combined is not None and block.start is not None  # is_contiguous has looked
        combine, term = combined
        *others, last = [block.extents[i] for i in block.inner]
        lanes = self.lanes if last >= self.lanes else 1
        vectors = min(_ACCUMULATORS, last // lanes)
        sums = tirx.decl_buffer(
            (vectors * lanes,), "float32", "partial", scope="local", layout=None
        )
        start = block.start
        statements: list[Stmt] = [
            AllocBuffer(sums),
            vector_loops(
                "v", 0, vectors * lanes, lanes, lambda i: BufferStore(sums, start, [as_index(i)])
            ),
        ]

        def add(place: Index, inner: Sequence[Index]) -> Stmt:
            partial = BufferLoad(sums, [as_index(place)])
            return BufferStore(sums, combine(partial, at(inner)(term)), [as_index(place)])

        def along(inner: Sequence[Index]) -> Stmt:
            step = vectors * lanes
            parts = []
            if last // step:

                def steps(i: Index) -> Stmt:
                    def vector(u: int) -> Stmt:
                        def element(lane: Index) -> Stmt:
                            return add(lane + u * lanes, [*inner, i * step + u * lanes + lane])

                        return vector_loops("v", 0, lanes, lanes, element)

                    return sequence([vector(u) for u in range(vectors)])

                parts.append(loop("step", 0, last // step, steps))
            start = last // step * step
            parts.append(
                vector_loops(
                    "v", 0, last - start, lanes, lambda i: add(i % lanes, [*inner, start + i])
                )
                if last > start
                else sequence([])
            )
            return sequence(parts)

        statements.append(_loops(others, along))
        width = vectors * lanes
        while width > 1:  # fold the upper half onto the lower one
            half = (width + 1) // 2

            def fold(i: Index, half: int = half) -> Stmt:
                both = combine(
                    BufferLoad(sums, [as_index(i)]), BufferLoad(sums, [as_index(i + half)])
                )
                return BufferStore(sums, both, [as_index(i)])

            statements.append(vector_loops("v", 0, width - half, width - half, fold))
            width = half
        statements.append(store(BufferLoad(sums, [as_index(0)])))
        return sequence(statements)

    def _placed(
        self,
        expr: tirx.Expr,
        values: Mapping[tirx.Var, tirx.Expr],
        local: Mapping[tirx.Var, tirx.Var],
    ) -> tirx.Expr:
        """Put `values` for axes, and the row's own buffers for intermediate ones."""

        def load(access: TensorLoad) -> tirx.Expr:
            if access.source not in local:
                return access
            return BufferLoad(local[access.source], [self._local(access.source, access.indices)])

        moved = tvm_ffi.structural_map(expr, [(TensorLoad, load)])
        return tvm_ffi.structural_map(moved, [(tirx.Var, lambda var: values.get(var, var))])

    def _local(self, buffer: tirx.Var, indices: Sequence[tirx.Expr]) -> tirx.Expr:
        """Return the place in the row's buffer of an element of a whole one."""
        place: Index = 0
        shape = [int(extent) for extent in buffer.shape]
        for extent, index in list(zip(shape, indices, strict=True))[len(self.rows) :]:
            place = place * extent + index
        return as_index(place)


def _loads(block: _Block) -> list[tuple[tirx.Var, tuple[tirx.Expr, ...]]]:
    """Return the buffers that a block reads, and where."""
    found = []

    def visit(load: TensorLoad) -> TensorLoad:
        found.append((load.source, tuple(load.indices)))
        return load

    tvm_ffi.structural_map(block.value, [(TensorLoad, visit)])
    return found


def _combined(
    block: _Block,
) -> tuple[Callable[[tirx.Expr, tirx.Expr], tirx.Expr], tirx.Expr] | None:
    """Return how a reduction combines, and its term; None for any but the usual ones."""
    value = block.value
    if not isinstance(value, _COMBINERS) or not isinstance(value.a, TensorLoad):
        return None
    if not value.a.source.same_as(block.buffer):
        return None
    return type(value), value.b


def _loops(extents: Sequence[int], body: Callable[[Sequence[Index]], Stmt]) -> Stmt:
    """Return nested serial loops."""

    def nested(indices: list[Index], rest: Sequence[int]) -> Stmt:
        if not rest:
            return body(indices)
        return loop("i", 0, rest[0], lambda i: nested([*indices, i], rest[1:]))

    return nested([], extents)
