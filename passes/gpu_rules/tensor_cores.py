"""The rule for convolutions and products on tensor cores: fragments that a warp multiplies.

As in the rule for single precision a block of threads computes one tile of the results from slices
in shared memory. Values are rounded on the way to fragments, to half precision on their way to
shared memory and to TF32 behind it, and summed in single precision; the results pass through shared
memory to the epilogue, one fragment of each warp at a time:

    block (tile of pixels, tile of outputs), warp (fragments of the tile)
        accumulators = 0
        for slice of the window
            shared pixels, shared weights = slice           (all threads of the block)
            accumulators += shared pixels * shared weights  (fragments of 16x16)
        for fragment
            output = epilogue(fragment)
"""

from collections import Counter

from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.s_tir.dlight.gpu.matmul import auto_inline_consumer_chain
from tvm.s_tir.schedule import LoopRV, SBlockRV

from hios_tvm.passes.gpu_rules.blocks import inline_all
from hios_tvm.passes.gpu_rules.fragments import (
    SHARED,
    SIDE,
    WARP,
    FragmentFormat,
    fragment_format,
)
from hios_tvm.passes.gpu_rules.half_weights import with_half_weights
from hios_tvm.passes.gpu_rules.matrix_product import (
    VECTOR,
    MatrixProduct,
    add_parts,
    factors_in_memory,
    fetch_ahead,
    fetch_slice,
    matrix_product,
    only_copies,
    pad_to_tiles,
)
from hios_tvm.passes.gpu_rules.tiles import WarpTile, choose_warp_tile
from hios_tvm.passes.schedule_kernels import Scheduled
from hios_tvm.passes.tir_trees import nodes_of
from hios_tvm.schema.precisions import Precision

_LEAST = 8  # rows, columns, products of a sum: fewer leave most of a fragment empty


class TensorCores:
    """Schedule kernels whose main block carries `CONVOLUTION` (of one group) or `PRODUCT`.

    `units` and `most_stages` are as of `ImplicitGemm`, `precision` is what factors are rounded to.
    """

    def __init__(self, units: int, most_stages: int, precision: Precision) -> None:
        self.units = units
        self.most_stages = most_stages
        self.format = fragment_format(precision)

    def apply(self, func: tirx.PrimFunc) -> Scheduled | None:
        narrowed = self.narrowed(func)
        product = matrix_product(narrowed.func)
        if product is None:
            return None
        tile = self.tile_for(product)
        if tile is None:
            return None
        _schedule_product(product, tile, self.format)
        body = product.sch.mod["main"].body
        return Scheduled(narrowed.func.with_body(body), narrowed.packings)

    def narrowed(self, func: tirx.PrimFunc) -> Scheduled:
        """Return `func` with weights in memory as shared memory has them, if it is a product."""
        return with_half_weights(func) if self.format.nbytes == 2 else Scheduled(func)

    def rounded_inputs(self, func: tirx.PrimFunc) -> list[int]:
        """Return which parameters of a kernel are factors alone, of half precision when read."""
        product = matrix_product(func)
        if product is None or self.format.nbytes != 2 or self.tile_for(product) is None:
            return []
        loads = Counter(load.source for load in nodes_of(func.body, TensorLoad))
        factors = factors_in_memory(product)
        return [i for i, x in enumerate(func.params) if x in factors and loads[x] == 1]

    def tile_for(self, product: MatrixProduct) -> WarpTile | None:
        """Return the tile that `product` gets; None if it would leave most of a fragment empty."""
        sizes = product.sizes
        if min(sizes.rows, sizes.columns, sizes.reduced) < _LEAST:
            return None
        copied = only_copies(product) and self.format.shared_dtype == "float32"
        stages = self.most_stages if copied else 2
        return choose_warp_tile(sizes, self.units, self.format, stages)


def _schedule_product(product: MatrixProduct, tile: WarpTile, form: FragmentFormat) -> None:
    sch = product.sch
    loops = pad_to_tiles(product, tile.rows, tile.columns, tile.slicing)
    copies = _read_as(sch, loops.block, form.shared_dtype, SHARED, SHARED)
    loads = _read_as(sch, loops.block, form.fragment_dtype, "wmma.matrix_a", "wmma.matrix_b")

    block_row, warp_row, row, inner_row = sch.split(
        loops.row, [None, tile.row_warps, tile.row_fragments, SIDE]
    )
    block_column, warp_column, column, inner_column = sch.split(
        loops.column, [None, tile.column_warps, tile.column_fragments, SIDE]
    )
    step, inner = sch.split(loops.inner, [None, form.depth])
    sch.reorder(
        *(block_row, block_column, warp_row, warp_column),
        *(loops.slice, step, row, column),
        *(inner_row, inner_column, inner),
    )
    fragment = sch.blockize(inner_row)
    place = sch.fuse(block_row, block_column)
    warp = sch.fuse(warp_row, warp_column)
    sch.bind(place, "blockIdx.x")
    sch.bind(warp, "threadIdx.y")

    for load, copy, name in zip(loads, copies, "ab", strict=True):
        sch.compute_at(load, step, preserve_unit_loops=True)
        threads = {"threadIdx.y": tile.warps, "threadIdx.x": WARP}
        fetch_slice(product, copy, loops.slice, threads, tile.slicing)
        sch.storage_align(copy, 0, axis=-2, factor=2 * form.skew, offset=form.skew)
        sides = (SIDE, form.depth) if name == "a" else (form.depth, SIDE)
        _, inside = _split_last(sch, load, *sides)
        sch.tensorize(inside, form.intrinsic(f"load_{name}"))

    result = sch.cache_write(fragment, 0, SHARED)
    store = sch.cache_write(fragment, 0, "wmma.accumulator")
    sch.reverse_compute_at(store, warp, preserve_unit_loops=True)
    one, inside = _split_last(sch, store, SIDE, SIDE)
    sch.reverse_compute_at(result, one, preserve_unit_loops=True)
    sch.tensorize(inside, form.intrinsic("store"))
    kept = [fragment, result, *copies]
    if loops.adds is None:
        auto_inline_consumer_chain(sch, result)
    else:
        kept += [loops.adds, add_parts(product, loops.adds)]
    _, thread, vector = sch.split(sch.fuse(*sch.get_loops(result)[-2:]), [None, WARP, VECTOR])
    sch.bind(thread, "threadIdx.x")
    sch.vectorize(vector)
    inline_all(sch, *kept)

    zero = sch.decompose_reduction(fragment, loops.slice)
    for outside, loops_inside, name in ((zero, 2, "fill"), (fragment, 3, "multiply")):
        (inside,) = sch.get_child_blocks(outside)
        sch.tensorize(sch.get_loops(inside)[-loops_inside], form.intrinsic(name))
    fetch_ahead(product, loops.slice, tile.slicing)


def _read_as(sch: s_tir.Schedule, block: SBlockRV, dtype: str, *scopes: str) -> list[SBlockRV]:
    """Let the product read each of its operands from a copy of another type."""
    copies = [sch.cache_read(block, operand, scope) for operand, scope in enumerate(scopes)]
    for copy in copies:
        if str(sch.get(copy).reads[0].source.dtype) != dtype:
            sch.unsafe_set_dtype(copy, 0, dtype)
    return copies


def _split_last(
    sch: s_tir.Schedule, block: SBlockRV, rows: int, columns: int
) -> tuple[LoopRV, LoopRV]:
    """Split the last two loops in parts of `rows` x `columns`; return those around and inside."""
    *_, row, column = sch.get_loops(block)
    row, inner_row = sch.split(row, [None, rows])
    column, inner_column = sch.split(column, [None, columns])
    sch.reorder(row, column, inner_row, inner_column)
    return column, inner_row
