"""The rule for convolutions and products on a GPU: products of matrices in shared memory.

A convolution is the product of a matrix with a row for each output pixel and a column for each
element of the window, and the matrix of weights (implicit GEMM: the first is never written). A
block of threads computes one tile of the results; for each slice of the reduced axis all its
threads copy both tiles of that slice to shared memory, padding included, and each thread then
multiplies into registers:

    block (tile of pixels, tile of outputs), thread (pixels, outputs of the tile)
        accumulators = 0
        for slice of the window
            shared pixels, shared weights = slice       (all threads of the block)
            accumulators[pixels][outputs] += shared pixels * shared weights
        output = epilogue(accumulators)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.gpu.matmul import auto_inline_consumer_chain, auto_inline_producers
from tvm.s_tir.schedule import LoopRV, SBlockRV

from hios_tvm.gpu_models import gpu_model
from hios_tvm.passes.gpu_rules.blocks import inline_all, main_block
from hios_tvm.passes.gpu_rules.tiles import GemmTile, choose_gemm_tile
from hios_tvm.passes.kernel_shapes import (
    CONVOLUTION,
    PRODUCT,
    ConvolutionShape,
    ProductShape,
)
from hios_tvm.passes.targets import arch_of

__all__ = ["ImplicitGemm"]

_UNROLLED_STEPS = 512


class ImplicitGemm:
    """Schedule kernels whose main block carries `CONVOLUTION` (of one group) or `PRODUCT`."""

    def __init__(self, target: tvm.target.Target) -> None:
        self.units = gpu_model(arch_of(target)).multiprocessors

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        sch = s_tir.Schedule(func)
        block = main_block(sch, CONVOLUTION, PRODUCT)
        if block is None:
            return None
        annotations = sch.get(block).annotations
        batch = 0  # axes of the results that tell products apart
        if CONVOLUTION in annotations:
            shape = ConvolutionShape.from_annotation(annotations[CONVOLUTION])
            if shape.groups > 1:
                return None
            sizes = (
                shape.batch * math.prod(shape.out_size),
                shape.out_channels,
                math.prod(shape.kernel) * shape.in_channels,
            )
            sch.unannotate(block, CONVOLUTION)
        else:
            product = ProductShape.from_annotation(annotations[PRODUCT])
            batch = len(product.batch)
            sizes = (product.rows * math.prod(product.batch), product.columns, product.inner)
            sch.unannotate(block, PRODUCT)
        _make_product(sch, block, batch)
        _schedule_product(sch, block, choose_gemm_tile(*sizes, self.units), is_batched=batch > 0)
        return func.with_body(sch.mod["main"].body)


def _make_product(sch: s_tir.Schedule, block: SBlockRV, batch: int) -> None:
    """Turn the block into ``results[pixel, output] += data[pixel, k] * weight[k, output]``.

    With `batch`, the first axes of the results become a first index of all three.
    """
    for kind, index in (("read", 0), ("read", 1), ("write", 0)):
        sch.reindex(block, (kind, index))
    stmt = sch.get(block)
    extent = {it.var: int(it.dom.extent) for it in stmt.iter_vars}
    spatial = [it.var for it in stmt.iter_vars if it.iter_type == tirx.IterVar.DataPar]
    reduced = [it.var for it in stmt.iter_vars if it.iter_type == tirx.IterVar.CommReduce]
    first = [spatial[:batch]] if batch else []
    pixel, output = spatial[batch:-1], spatial[-1:]

    def matrix(region: tirx.BufferRegion, *axes: Sequence[tirx.Var]) -> Callable[..., list]:
        """Return the map of a tensor's indices to one index for each group of block variables."""
        indices = [range_.min for range_ in region.region]
        places = [
            [i for i, index in enumerate(indices) if any(index.same_as(var) for var in group)]
            for group in axes
        ]
        extents = [extent[i] if isinstance(i, tirx.Var) else 1 for i in indices]
        return _fused(extents, places)

    reads, writes = stmt.reads, stmt.writes
    sch.transform_layout(block, ("read", 0), matrix(reads[0], *first, pixel, reduced))
    sch.transform_layout(block, ("read", 1), matrix(reads[1], *first, reduced, output))
    sch.transform_layout(block, ("write", 0), matrix(writes[0], *first, pixel, output))
    kinds = [it.iter_type for it in stmt.iter_vars]
    axes = [i for i, kind in enumerate(kinds) if kind == tirx.IterVar.DataPar]
    places = [
        *([axes[:batch]] if batch else []),
        axes[batch:-1],
        axes[-1:],
        [i for i, kind in enumerate(kinds) if kind == tirx.IterVar.CommReduce],
    ]
    extents = [int(it.dom.extent) for it in stmt.iter_vars]
    index_map = tirx.IndexMap.from_func(_fused(extents, places), len(extents))
    sch.transform_block_layout(block, index_map)


def _fused(extents: Sequence[int], places: Sequence[Sequence[int]]) -> Callable[..., list]:
    def fuse(*indices: tirx.Var) -> list[tirx.PrimExpr]:
        results = []
        for group in places:
            result: tirx.PrimExpr = tirx.const(0, "int64")
            for place in group:
                result = result * extents[place] + indices[place]
            results.append(result)
        return results

    return fuse


def _schedule_product(
    sch: s_tir.Schedule, block: SBlockRV, tile: GemmTile, *, is_batched: bool
) -> None:
    first = [1] if is_batched else []
    sch.pad_einsum(block, [*first, tile.rows, tile.columns, tile.depth])
    *products, row, column, k = sch.get_loops(block)
    for product in products:
        sch.bind(product, "blockIdx.y")
    block_row, thread_row, row = sch.split(
        row, [None, tile.rows // tile.thread_rows, tile.thread_rows]
    )
    block_column, thread_column, column = sch.split(
        column, [None, tile.columns // tile.thread_columns, tile.thread_columns]
    )
    outer, inner = sch.split(k, [None, tile.depth])
    sch.reorder(block_row, block_column, thread_row, thread_column, outer, inner, row, column)
    place = sch.fuse(block_row, block_column)
    thread = sch.fuse(thread_row, thread_column)
    sch.bind(place, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    sch.annotate(thread, "pragma_auto_unroll_max_step", _UNROLLED_STEPS)
    sch.annotate(thread, "pragma_unroll_explicit", 0)

    result = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(result, thread, preserve_unit_loops=True)
    copies = [_fetch_together(sch, block, operand, outer, tile) for operand in (0, 1)]
    auto_inline_consumer_chain(sch, result)
    inline_all(sch, block, *copies)
    sch.decompose_reduction(block, outer)


def _fetch_together(
    sch: s_tir.Schedule, block: SBlockRV, operand: int, outer: LoopRV, tile: GemmTile
) -> SBlockRV:
    """Let all threads of a block copy a slice of an operand to shared memory, side by side."""
    copy = sch.cache_read(block, operand, "shared")
    sch.compute_at(copy, outer, preserve_unit_loops=True)
    fused = sch.fuse(*sch.get_loops(copy)[-2:])
    _, thread = sch.split(fused, [None, tile.threads])
    sch.bind(thread, "threadIdx.x")
    if operand == 0:
        # Threads read neighbouring rows of the tile, which would lie in one bank
        sch.storage_align(copy, 0, axis=-2, factor=4, offset=1)
    auto_inline_producers(sch, copy)
    return copy
