"""Convolutions and products as one product of matrices, for all rules of GPUs that do them.

A convolution is the product of a matrix with a row for each output pixel and a column for each
element of the window, and the matrix of weights (implicit GEMM: the first is never written).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.ir import Expr, TensorLoad
from tvm.s_tir.dlight.gpu.matmul import auto_inline_consumer_chain, auto_inline_producers
from tvm.s_tir.schedule import LoopRV, SBlockRV

from hios_tvm.passes.gpu_rules.blocks import main_block
from hios_tvm.passes.gpu_rules.tiles import ProductSizes, Slicing
from hios_tvm.passes.tir_trees import is_choice
from hios_tvm.schema.dtypes import element_type
from hios_tvm.schema.kernel_shapes import (
    CONVOLUTION,
    PRODUCT,
    ConvolutionShape,
    ProductShape,
)

VECTOR = 4
"""Values of single precision that a thread loads at a time, where they are neighbours."""

_ADDING_THREADS = 256  # of a block


@dataclass(frozen=True)
class MatrixProduct:
    """``results[b, row, column] += data[b, k, row] * weight[b, k, column]``, for all `k`.

    That is what `block` of `sch` does. `batch` is how many axes of the results are the index `b`,
    `window_axes` how many of the reduced ones are those of a window.
    """

    sch: s_tir.Schedule
    block: SBlockRV
    sizes: ProductSizes
    batch: int
    window_axes: int


@dataclass(frozen=True)
class TileLoops:
    """Loops of a product that is padded to whole tiles.

    `row` and `column` are over all results; `slice` is over slices of the reduced axis, and
    `inner` inside of one. `block` is what multiplies, `adds` what adds up the sums of parts, where
    there are several.
    """

    block: SBlockRV
    row: LoopRV
    column: LoopRV
    slice: LoopRV
    inner: LoopRV
    adds: SBlockRV | None


def matrix_product(func: tirx.PrimFunc) -> MatrixProduct | None:
    """Return `func` as a product; None if it is neither that nor a convolution of one group."""
    sch = s_tir.Schedule(func)
    block = main_block(sch, CONVOLUTION, PRODUCT)
    if block is None:
        return None
    annotations = sch.get(block).annotations
    if CONVOLUTION in annotations:
        shape = ConvolutionShape.from_annotation(annotations[CONVOLUTION])
        if shape.groups > 1:
            return None
        sch.unannotate(block, CONVOLUTION)
        rows, windows = shape.batch * math.prod(shape.out_size), math.prod(shape.kernel)
        weight = sch.get(block).reads[-1].source
        nbytes = element_type(str(weight.dtype)).nbytes
        sizes = ProductSizes(rows, shape.out_channels, shape.in_channels, windows, nbytes)
        return MatrixProduct(sch, block, sizes, 0, len(shape.kernel))
    product = ProductShape.from_annotation(annotations[PRODUCT])
    sch.unannotate(block, PRODUCT)
    sizes = ProductSizes(product.rows * math.prod(product.batch), product.columns, product.inner)
    return MatrixProduct(sch, block, sizes, len(product.batch), 0)


def pad_to_tiles(product: MatrixProduct, rows: int, columns: int, slicing: Slicing) -> TileLoops:
    """Pad the product to whole tiles of `rows` x `columns` results, and to whole slices.

    The products of a batch and the parts of the reduced axis are put on blocks of threads. A
    window's elements get an index of their own where that takes little padding.
    """
    sch, block = product.sch, product.block
    keeps_windows = product.sizes.keeps_windows(slicing.depth)
    _make_product(sch, block, product.batch, product.window_axes if keeps_windows else 0)
    first = [1] if product.batch else []
    padded = [1, slicing.depth] if keeps_windows else [slicing.parts * slicing.depth]
    sch.pad_einsum(block, [*first, rows, columns, *padded])
    *_, last = loops = sch.get_loops(block)
    outer, _ = sch.split(last, [None, slicing.depth])
    slices = sch.fuse(*loops[len(first) + 2 : -1], outer)
    adds = None
    if slicing.parts > 1:
        part, _ = sch.split(slices, [slicing.parts, None])
        block, adds = sch.rfactor(part, 0), block
    *batch, row, column = sch.get_loops(block)[: len(first) + 2]
    *parts, slices, inner = sch.get_loops(block)[len(first) + 2 :]
    for loops_outside, axis in ((batch, "blockIdx.y"), (parts, "blockIdx.z")):
        for loop in loops_outside:
            sch.bind(loop, axis)
    sch.reorder(*batch, *parts, row, column, slices, inner)
    return TileLoops(block, row, column, slices, inner, adds)


def add_parts(product: MatrixProduct, adds: SBlockRV) -> SBlockRV:
    """Let a kernel of its own add up the sums of parts, each thread those of one result.

    They are added in one order, so that results are the same in every run. Returns the block that
    writes the results.
    """
    sch = product.sch
    result = sch.cache_write(adds, 0, "local")
    auto_inline_consumer_chain(sch, result)
    place, thread = sch.split(sch.fuse(*sch.get_loops(result)), [None, _ADDING_THREADS])
    sch.bind(place, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    sch.compute_at(adds, thread, preserve_unit_loops=True)
    sch.decompose_reduction(adds, sch.get_loops(adds)[2])  # the first behind the threads
    return result


def fetch_slice(
    product: MatrixProduct,
    copy: SBlockRV,
    loop: LoopRV,
    threads: Mapping[str, int],
    slicing: Slicing,
) -> None:
    """Let all threads of a block copy a slice of an operand to shared memory, side by side.

    `threads` says how many there are along each axis, the innermost last.
    """
    sch = product.sch
    sch.compute_at(copy, loop, preserve_unit_loops=True)
    rank = len(sch.get(copy).iter_vars)
    fused = sch.fuse(*sch.get_loops(copy)[-rank:])
    _, *bound, vector = sch.split(fused, [None, *threads.values(), VECTOR])
    for axis, part in zip(threads, bound, strict=True):
        sch.bind(part, axis)
    sch.vectorize(vector)
    auto_inline_producers(sch, copy)
    if not slicing.asynchronous:
        sch.annotate(copy, "tirx.manifest_shared_memory_local_stage", 1)


def fetch_ahead(product: MatrixProduct, loop: LoopRV, slicing: Slicing) -> None:
    """Fetch the next slices while one is multiplied.

    The body of `loop` is the copies of both operands, and what multiplies them.
    """
    if slicing.asynchronous:
        stage, order = [0, 0, slicing.stages - 1], [0, 1, 2]
        product.sch.annotate(loop, "software_pipeline_async_stages", [0])
    else:
        # Each copy is a load into registers and a store: load, store, load, store, multiply
        stage, order = [0, 0, 0, 0, 1], [0, 3, 1, 4, 2]
    product.sch.annotate(loop, "software_pipeline_stage", stage)
    product.sch.annotate(loop, "software_pipeline_order", order)


def only_copies(product: MatrixProduct) -> bool:
    """Whether both operands lie in memory as they are multiplied, apart from padding with zeros.

    Only such can be copied asynchronously: others are computed on the way to shared memory.
    """
    sch = product.sch
    producers = list(sch.get_producers(product.block))
    for block in producers:
        producers += sch.get_producers(block)
    return all(_copied(sch.get(block).body) for block in producers) and all(
        str(read.source.dtype) == "float32" for read in sch.get(product.block).reads
    )


def factors_in_memory(product: MatrixProduct) -> list[tirx.Var]:
    """Return what lies in memory of both factors: tensors that are multiplied as they are.

    They may be padded with zeros before. A kernel of several products has none.
    """
    sch = product.sch
    if main_block(sch, CONVOLUTION, PRODUCT) is not None:  # one beside that of `product`
        return []
    written = {
        stmt.writes[0].source: stmt
        for stmt in map(sch.get, sch.get_producers(product.block))
        if _copied(stmt.body)
    }
    read = [region.source for region in sch.get(product.block).reads]
    return [written[x].reads[0].source if x in written else x for x in read]


def _copied(body: tirx.Stmt) -> bool:
    """Whether a block stores what it loads, or zero."""
    value = body.value if isinstance(body, tirx.BufferStore) else None
    if is_choice(value):
        _, value, other = value.args
        if not isinstance(other, tirx.FloatImm) or other.value != 0:
            return False
    return isinstance(value, TensorLoad)


def _make_product(sch: s_tir.Schedule, block: SBlockRV, batch: int, window: int) -> None:
    """Turn the block into the form of `MatrixProduct`.

    The first `batch` axes of the results and the first `window` reduced ones become an index each.
    """
    for kind, index in (("read", 0), ("read", 1), ("write", 0)):
        sch.reindex(block, (kind, index))
    stmt = sch.get(block)
    extent = {it.var: int(it.dom.extent) for it in stmt.iter_vars}
    spatial = [it.var for it in stmt.iter_vars if it.iter_type == tirx.IterVar.DataPar]
    reduced = [it.var for it in stmt.iter_vars if it.iter_type == tirx.IterVar.CommReduce]
    first = [spatial[:batch]] if batch else []
    windows = [reduced[:window]] if window else []
    pixel, output, depth = spatial[batch:-1], spatial[-1:], reduced[window:]

    def matrix(region: tirx.BufferRegion, *axes: Sequence[tirx.Var]) -> Callable[..., list]:
        """Return the map of a tensor's indices to one index for each group of block variables."""
        indices = [range_.min for range_ in region.region]
        places = [
            [i for i, index in enumerate(indices) if any(index.same_as(var) for var in group)]
            for group in axes
        ]
        extents = [extent[i] if isinstance(i, tirx.Var) else 1 for i in indices]
        return _fused(extents, places)

    data, weight = stmt.reads
    (result,) = stmt.writes
    sch.transform_layout(block, ("read", 0), matrix(data, *first, *windows, pixel, depth))
    sch.transform_layout(block, ("read", 1), matrix(weight, *first, *windows, depth, output))
    sch.transform_layout(block, ("write", 0), matrix(result, *first, pixel, output))
    variables = [it.var for it in stmt.iter_vars]
    places = [
        [i for i, var in enumerate(variables) if any(var.same_as(other) for other in group)]
        for group in (*first, pixel, output, *windows, depth)
    ]
    extents = [extent[var] for var in variables]
    index_map = tirx.IndexMap.from_func(_fused(extents, places), len(extents))
    sch.transform_block_layout(block, index_map)


def _fused(extents: Sequence[int], places: Sequence[Sequence[int]]) -> Callable[..., list]:
    def fuse(*indices: tirx.Var) -> list[Expr]:
        results = []
        for group in places:
            result: Expr = tirx.const(0, "int64")
            for place in group:
                result = result * extents[place] + indices[place]
            results.append(result)
        return results

    return fuse
