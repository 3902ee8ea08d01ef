"""The rule for convolutions and products on a GPU: products of matrices in shared memory.

A block of threads computes one tile of the results; for each slice of the reduced axis all its
threads copy both tiles of that slice to shared memory, padding included, and each thread then
multiplies into registers:

    block (tile of pixels, tile of outputs), thread (pixels, outputs of the tile)
        accumulators = 0
        for slice of the window
            shared pixels, shared weights = slice       (all threads of the block)
            accumulators[pixels][outputs] += shared pixels * shared weights
        output = epilogue(accumulators)

The next slices are on their way meanwhile: copied asynchronously in several stages, or one in
registers, on GPUs before sm_80 and where an operand is computed on the way. Few results are summed
in parts by blocks of their own, which a second kernel adds up.
"""

from tvm import tirx
from tvm.s_tir.dlight.gpu.matmul import auto_inline_consumer_chain

from hios_tvm.passes.gpu_rules.blocks import inline_all
from hios_tvm.passes.gpu_rules.matrix_product import (
    VECTOR,
    MatrixProduct,
    add_parts,
    fetch_ahead,
    fetch_slice,
    matrix_product,
    only_copies,
    pad_to_tiles,
)
from hios_tvm.passes.gpu_rules.tiles import GemmTile, choose_gemm_tile

_UNROLLED_STEPS = 512


class ImplicitGemm:
    """Schedule kernels whose main block carries `CONVOLUTION` (of one group) or `PRODUCT`.

    `units` is how many multiprocessors the GPU has, `most_stages` how many slices of a block may be
    in shared memory.
    """

    def __init__(self, units: int, most_stages: int) -> None:
        self.units = units
        self.most_stages = most_stages

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        product = matrix_product(func)
        if product is None:
            return None
        _schedule_product(product, self.tile_for(product))
        return func.with_body(product.sch.mod["main"].body)

    def tile_for(self, product: MatrixProduct) -> GemmTile:
        """Return the tile that `product` gets."""
        stages = self.most_stages if only_copies(product) else 2
        return choose_gemm_tile(product.sizes, self.units, stages)


def _schedule_product(product: MatrixProduct, tile: GemmTile) -> None:
    sch = product.sch
    loops = pad_to_tiles(product, tile.rows, tile.columns, tile.slicing)
    block = loops.block
    block_row, thread_row, row = sch.split(
        loops.row, [None, tile.rows // tile.thread_rows, tile.thread_rows]
    )
    block_column, thread_column, column = sch.split(
        loops.column, [None, tile.columns // tile.thread_columns, tile.thread_columns]
    )
    sch.reorder(
        *(block_row, block_column, thread_row, thread_column),
        *(loops.slice, loops.inner, row, column),
    )
    place = sch.fuse(block_row, block_column)
    thread = sch.fuse(thread_row, thread_column)
    sch.bind(place, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    unrolled = loops.inner if tile.slicing.asynchronous else thread
    sch.annotate(unrolled, "pragma_auto_unroll_max_step", _UNROLLED_STEPS)
    sch.annotate(unrolled, "pragma_unroll_explicit", 0)

    kept = [block]
    if loops.adds is not None:
        kept += [loops.adds, add_parts(product, loops.adds)]
    result = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(result, thread, preserve_unit_loops=True)
    copies = [sch.cache_read(block, operand, "shared") for operand in (0, 1)]
    for copy in copies:
        fetch_slice(product, copy, loops.slice, {"threadIdx.x": tile.threads}, tile.slicing)
    # Threads read neighbouring rows of the tile, which would lie in one bank
    sch.storage_align(copies[0], 0, axis=-2, factor=2 * VECTOR, offset=VECTOR)
    if loops.adds is None:
        auto_inline_consumer_chain(sch, result)
    inline_all(sch, *kept, result, *copies)
    sch.decompose_reduction(block, loops.slice)
    fetch_ahead(product, loops.slice, tile.slicing)
