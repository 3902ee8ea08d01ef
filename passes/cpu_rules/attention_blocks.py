"""What the blocks of a kernel of attention compute, each as a formula of one element.

`hios_tvm.passes.fuse_attention` chooses the operators of such a kernel. `FuseTIR` makes of them,
for each matrix of a batch,

    queries, keys, values: blocks that move and scale elements of the operands
    for m, n, k: product[m, n] += queries[m, k] * keys[k, n]
    scores: element-wise blocks behind the product, such as scales and masks
    softmax of the rows of scores, in four blocks
    weights: element-wise blocks behind the softmax, such as zeros in place of NaN
    for m, k, n: result[m, k] += weights[m, n] * values[n, k]
    output: blocks that move elements of the result

`attention_parts` inlines each of these lines into one formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import s_tir, sym, tirx
from tvm.ir import Range, TensorLoad
from tvm.s_tir.schedule import SBlockRV
from tvm.tirx import BufferLoad, BufferStore

from hios_tvm.passes.cpu_rules.loop_nest import Index, as_index
from hios_tvm.passes.tir_trees import nodes_of, with_values
from hios_tvm.schema.kernel_shapes import PRODUCT, ProductShape


@dataclass(frozen=True)
class Formula:
    """An element of a batch of matrices, or its place in a buffer.

    Attributes
    ----------
    axes : tuple of tirx.Var
        The element's indices: those of the batch, the row and the column.
    extents : tuple of int
        How many values each of them has.
    values : tuple of tirx.Expr
        The element, or the indices of its place, in terms of `axes`.
    """

    axes: tuple[tirx.Var, ...]
    extents: tuple[int, ...]
    values: tuple[tirx.Expr, ...]

    @staticmethod
    def of(axes: Sequence[tirx.IterVar], *values: tirx.Expr) -> Formula:
        """Return a formula of a block's `axes`, with simple indices."""
        analyzer = sym.Analyzer()
        for axis in axes:
            analyzer.bind(axis.var, Range(as_index(0), axis.dom.extent))
        return Formula(
            tuple(axis.var for axis in axes),
            tuple(int(axis.dom.extent) for axis in axes),
            tuple(_with_simple_indices(value, analyzer) for value in values),
        )

    def at(self, matrix: Index, row: Index, column: Index) -> list[tirx.Expr]:
        """Return the values for the matrix of this number."""
        indices = [column, row]
        *batch, _, _ = self.extents
        for i, extent in reversed(list(enumerate(batch))):
            indices.append(matrix % extent if i else matrix)
            matrix = matrix // extent
        at = dict(zip(self.axes, map(as_index, reversed(indices)), strict=True))
        return [with_values(value, at) for value in self.values]

    def element(self, matrix: Index, row: Index, column: Index) -> tirx.Expr:
        """Return the only value for the matrix of this number."""
        (value,) = self.at(matrix, row, column)
        return value


@dataclass(frozen=True)
class AttentionParts:
    """What a kernel computes for each matrix of a batch.

    Attributes
    ----------
    matrices, rows, keys, inner, columns : int
        Extents: the batch has so many matrices.
    query, key, value : Formula
        Elements of ``(rows, inner)``, ``(inner, keys)`` and ``(keys, columns)``.
    score, weight : Formula
        Elements of ``(rows, keys)``; the first reads `product`, the second `softmax`.
    place : Formula
        Where `output` holds the elements of ``(rows, columns)``.
    product, softmax, output : tirx.Var
        Buffers; the kernel to write has the last one only.
    lowest : tirx.Expr
        What the maximum of a row of scores starts with.
    """

    matrices: int
    rows: int
    keys: int
    inner: int
    columns: int
    query: Formula
    key: Formula
    value: Formula
    score: Formula
    weight: Formula
    place: Formula
    product: tirx.Var
    softmax: tirx.Var
    output: tirx.Var
    lowest: tirx.Expr

    @property
    def work(self) -> int:
        """Multiply-adds of the whole kernel."""
        return self.matrices * self.rows * self.keys * (self.inner + self.columns)

    @property
    def has_plain_weights(self) -> bool:
        """Whether the weights are what the softmax computes."""
        return isinstance(self.weight.values[0], TensorLoad)


def attention_parts(func: tirx.PrimFunc) -> AttentionParts | None:
    """Return what `func` computes, or None if it is no attention."""
    sch = s_tir.Schedule(func)
    products = [block for block in _blocks(sch) if PRODUCT in sch.get(block).annotations]
    if len(products) != 2:
        return None
    try:
        return _inlined(sch, *products)
    except s_tir.ScheduleError:
        return None


def larger(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Return the maximum, or `a` if `b` is NaN, whose power makes the row's total NaN."""
    return tirx.Select(a < b, b, a)


def with_element(value: tirx.Expr, source: tirx.Var, element: tirx.Expr) -> tirx.Expr:
    """Return `value` with `element` in place of what it reads of `source`."""

    def load(access: TensorLoad) -> tirx.Expr:
        return element if access.source.same_as(source) else access

    return tvm_ffi.structural_map(value, [(TensorLoad, load)])


def _inlined(sch: s_tir.Schedule, first: SBlockRV, second: SBlockRV) -> AttentionParts | None:
    """Inline all blocks but the products, the softmax, and the last ones before and behind it."""
    reductions = [block for block in _blocks(sch) if sch.get(block).init is not None]
    names = [sch.get(product).name_hint for product in (first, second)]
    reductions = [block for block in reductions if sch.get(block).name_hint not in names]
    if len(reductions) != 2:
        return None
    maximum, total = reductions
    powers, quotients = sch.get_consumers(maximum), sch.get_consumers(total)
    if len(powers) != 1 or len(quotients) != 1:
        return None
    stored = sch.cache_write(second, 0, "global")
    while consumers := sch.get_consumers(stored):
        sch.reverse_compute_inline(consumers[0])
    score = _writer(sch, sch.get(maximum).reads[0].source)
    weight = _writer(sch, sch.get(second).reads[0].source)
    softmax = (maximum, powers[0], total, quotients[0])
    kept = {sch.get(block).name_hint for block in (first, score, *softmax, weight, second, stored)}
    for block in _blocks(sch):
        if sch.get(block).name_hint not in kept:
            sch.compute_inline(block)
    if not _are_softmax(*map(sch.get, softmax)):
        return None
    return _read(*map(sch.get, (first, score, maximum, quotients[0], weight, second, stored)))


def _read(
    first: s_tir.SBlock,
    score: s_tir.SBlock,
    maximum: s_tir.SBlock,
    quotient: s_tir.SBlock,
    weight: s_tir.SBlock,
    second: s_tir.SBlock,
    stored: s_tir.SBlock,
) -> AttentionParts | None:
    shapes = [ProductShape.from_annotation(block.annotations[PRODUCT]) for block in (first, second)]
    product, softmax = (block.writes[0].source for block in (first, quotient))
    *batch, row, key, inner = first.iter_vars
    *others, _, column, term = second.iter_vars
    parts = AttentionParts(
        matrices=math.prod(shapes[0].batch),
        rows=shapes[0].rows,
        keys=shapes[0].columns,
        inner=shapes[0].inner,
        columns=shapes[1].columns,
        query=Formula.of([*batch, row, inner], first.body.value.b.a),
        key=Formula.of([*batch, inner, key], first.body.value.b.b),
        value=Formula.of([*others, term, column], second.body.value.b.b),
        score=_element_wise(score, product),
        weight=_element_wise(weight, softmax),
        place=Formula.of(stored.iter_vars, *stored.body.indices),
        product=product,
        softmax=softmax,
        output=stored.body.buffer,
        lowest=maximum.init.value,
    )
    is_read_in_place = _reads_in_place(parts.score, product) and _reads_in_place(
        parts.weight, softmax
    )
    return parts if is_read_in_place else None


def _element_wise(block: s_tir.SBlock, source: tirx.Var) -> Formula:
    """Return an element of what `block` writes, which may be `source` itself."""
    spatial = [axis for axis in block.iter_vars if axis.iter_type == tirx.IterVar.DataPar]
    if block.writes[0].source.same_as(source):
        return Formula.of(spatial, BufferLoad(source, [axis.var for axis in spatial]))
    return Formula.of(spatial, block.body.value)


def _reads_in_place(formula: Formula, source: tirx.Var) -> bool:
    """Whether an element is computed of that of `source` in the same matrix, row and column."""
    loads = nodes_of(formula.values[0], TensorLoad)
    analyzer = sym.Analyzer()
    for axis, extent in zip(formula.axes, formula.extents, strict=True):
        analyzer.bind(axis, Range(as_index(0), as_index(extent)))
    place = _offset(formula.extents, formula.axes)
    places = [
        _offset(load.source.shape, load.indices) for load in loads if load.source.same_as(source)
    ]
    return bool(places) and all(analyzer.can_prove_equal(place, other) for other in places)


def _offset(shape: Sequence[Index], indices: Sequence[tirx.Expr]) -> tirx.Expr:
    """Return the place of an element in a flat buffer."""
    place: Index = 0
    for extent, index in zip(shape, indices, strict=True):
        place = place * int(extent) + index
    return as_index(place)


def _are_softmax(
    maximum: s_tir.SBlock, power: s_tir.SBlock, total: s_tir.SBlock, quotient: s_tir.SBlock
) -> bool:
    """Whether the blocks are the steps of a softmax along the last axis."""
    scores, highest = maximum.reads[0].source, maximum.writes[0].source
    powers, sums = power.writes[0].source, total.writes[0].source

    def element(block: s_tir.SBlock, buffer: tirx.Var) -> tirx.Expr:
        axes = [axis.var for axis in block.iter_vars]
        return BufferLoad(buffer, axes[: len(buffer.shape)])

    difference = element(power, scores) + element(power, highest) * tirx.const(-1.0, "float32")
    expected = {
        maximum: tirx.Max(element(maximum, highest), element(maximum, scores)),
        power: tirx.exp(difference),
        total: element(total, sums) + element(total, powers),
        quotient: element(quotient, powers) / element(quotient, sums),
    }
    return all(
        isinstance(block.body, BufferStore) and tvm_ffi.structural_equal(block.body.value, value)
        for block, value in expected.items()
    )


def _with_simple_indices(value: tirx.Expr, analyzer: sym.Analyzer) -> tirx.Expr:
    """Return an index, or a value whose buffers are read at them, in their simplest form."""
    if str(value.ty.dtype) == "int64":
        return analyzer.simplify(value)

    def load(access: TensorLoad) -> tirx.Expr:
        indices = [analyzer.simplify(index) for index in access.indices]
        return BufferLoad(access.source, indices)

    return tvm_ffi.structural_map(value, [(TensorLoad, load)])


def _blocks(sch: s_tir.Schedule) -> list[SBlockRV]:
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def _writer(sch: s_tir.Schedule, buffer: tirx.Var) -> SBlockRV:
    """Return the block that writes an intermediate tensor."""
    return next(block for block in _blocks(sch) if sch.get(block).writes[0].source.same_as(buffer))
