"""Tiles of matrix products on a GPU, chosen by a model of its multiprocessors."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hios_tvm.passes.gpu_rules.fragments import FragmentFormat

_ISSUE = 128.0
"""Multiply-adds that a multiprocessor starts in a cycle, in single precision."""

_LOAD_COST = 1.0
"""Cycles of a load from shared memory over those of a multiply-add, for one value of a thread."""

_HIDING_THREADS = 256
"""Threads of a multiprocessor that hide the latency of multiply-adds and loads."""

_STEP_CYCLES = 600.0
"""Latency of fetching the next slice of both matrices into shared memory, in cycles."""

_SHARED_BYTES = 128.0
"""What a multiprocessor reads from or writes to shared memory in a cycle."""

_FETCHED_BYTES = 24.0
"""What a multiprocessor reads from the L2 cache in a cycle, while all others do."""

_BLOCK_BYTES = 48 << 10
"""Shared memory that a block takes at most; every GPU gives that without being asked."""

_FETCH_REGISTERS = 32
"""Registers of a thread that may hold the next slices until the last ones are multiplied."""

_MOST_PADDING = 1.15  # of the reduced axis, that is worth an index without divisions


@dataclass(frozen=True)
class ProductSizes:
    """Sizes of a product: `rows` x `columns` results, each a sum of `windows` x `depth` products.

    `rows` counts those of all products of a batch, `windows` the elements of a convolution's
    window, `depth` the channels of each.
    """

    rows: int
    columns: int
    depth: int
    windows: int = 1

    @property
    def reduced(self) -> int:
        """How many products each result sums."""
        return self.depth * self.windows

    def keeps_windows(self, slice_depth: int) -> bool:
        """Whether channels divide into slices without much padding, so that none has divisions.

        >>> ProductSizes(289, 192, 128, 7).keeps_windows(64)
        True
        >>> ProductSizes(22201, 32, 3, 9).keeps_windows(16)
        False
        """
        padded = math.ceil(self.depth / slice_depth) * slice_depth
        return self.windows > 1 and padded <= _MOST_PADDING * self.depth

    def slices(self, slice_depth: int) -> int:
        """Return how many slices of the reduced axis there are.

        >>> ProductSizes(22201, 32, 3, 9).slices(16), ProductSizes(289, 192, 128, 7).slices(64)
        (2, 14)
        """
        if self.keeps_windows(slice_depth):
            return self.windows * math.ceil(self.depth / slice_depth)
        return math.ceil(self.reduced / slice_depth)


@dataclass(frozen=True)
class GemmTile:
    """A block computes `rows` x `columns` results, each thread `thread_rows` x `thread_columns`.

    `depth` is how much of the reduced axis lies in shared memory at a time.
    """

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int
    depth: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return (self.rows // self.thread_rows) * (self.columns // self.thread_columns)


_GEMM_SHAPES = (
    (128, 128, 8, 8),
    (128, 64, 8, 4),
    (64, 64, 4, 4),
    (64, 32, 4, 4),
    (32, 64, 4, 4),
    (32, 32, 4, 2),
    (16, 64, 2, 4),
    (16, 32, 2, 2),
)

_GEMM_DEPTHS = (16, 32, 64)


def choose_gemm_tile(sizes: ProductSizes, units: int) -> GemmTile:
    """Return the tile that should be fastest for a product on `units` multiprocessors.

    >>> choose_gemm_tile(ProductSizes(112 * 112, 64, 576), 132)
    GemmTile(rows=64, columns=32, thread_rows=4, thread_columns=4, depth=32)
    >>> choose_gemm_tile(ProductSizes(1024, 4096, 1024), 132)
    GemmTile(rows=128, columns=128, thread_rows=8, thread_columns=8, depth=32)
    """
    return min(_gemm_tiles(), key=lambda tile: gemm_cycles(tile, sizes, units))


def _gemm_tiles() -> Iterator[GemmTile]:
    for rows, columns, thread_rows, thread_columns in _GEMM_SHAPES:
        for depth in _GEMM_DEPTHS:
            tile = GemmTile(rows, columns, thread_rows, thread_columns, depth)
            if _is_small(rows + columns, depth, 4, tile.threads):
                yield tile


def _is_small(lines: int, depth: int, nbytes: int, threads: int) -> bool:
    """Whether slices of `lines` rows and columns fit into shared memory and registers."""
    fetched = lines * depth
    return fetched * nbytes <= _BLOCK_BYTES and fetched <= _FETCH_REGISTERS * threads


def gemm_cycles(tile: GemmTile, sizes: ProductSizes, units: int) -> float:
    """Return how long the product should take, in cycles.

    Each multiprocessor works off its blocks; what is in flight at once hides latency.
    """
    steps = sizes.slices(tile.depth)
    per_unit = _blocks_per_unit(tile.rows, tile.columns, sizes, units)
    products = tile.thread_rows * tile.thread_columns
    loads = (tile.thread_rows + tile.thread_columns) * _LOAD_COST
    hidden = min(1.0, per_unit * tile.threads / _HIDING_THREADS)
    step = tile.rows * tile.columns * tile.depth / _ISSUE * (products + loads) / products / hidden
    work = per_unit * steps * max(step, _fetch_cycles(tile.rows + tile.columns, tile.depth))
    latency = steps * _STEP_CYCLES
    return max(work, latency) + latency * 0.25


def _blocks_per_unit(rows: int, columns: int, sizes: ProductSizes, units: int) -> int:
    blocks = math.ceil(sizes.rows / rows) * math.ceil(sizes.columns / columns)
    return math.ceil(blocks / units)


def _fetch_cycles(lines: int, depth: int) -> float:
    """Return how long a multiprocessor takes to read a slice, of single precision, from L2."""
    return lines * depth * 4 / _FETCHED_BYTES


@dataclass(frozen=True)
class WarpTile:
    """A block of warps, each of which computes fragments of 16x16 results.

    `depth` is how much of the reduced axis lies in shared memory at a time.
    """

    row_warps: int
    column_warps: int
    row_fragments: int
    column_fragments: int
    depth: int

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.row_warps * self.column_warps

    @property
    def rows(self) -> int:
        """Rows of results of a block."""
        return 16 * self.row_warps * self.row_fragments

    @property
    def columns(self) -> int:
        """Columns of results of a block."""
        return 16 * self.column_warps * self.column_fragments


_WARP_SHAPES = (
    (2, 4, 4, 2),
    (4, 2, 2, 2),
    (2, 2, 2, 2),
    (2, 2, 2, 1),
    (2, 2, 1, 2),
    (2, 2, 1, 1),
    (1, 4, 1, 1),
)


def choose_warp_tile(sizes: ProductSizes, units: int, form: FragmentFormat) -> WarpTile:
    """Return the tile that should be fastest on the tensor cores of `units` multiprocessors.

    >>> from hios_tvm.passes.gpu_rules.fragments import fragment_format
    >>> choose_warp_tile(ProductSizes(17 * 17, 192, 192, 9), 132, fragment_format("fp16"))
    WarpTile(row_warps=2, column_warps=2, row_fragments=1, column_fragments=1, depth=64)
    >>> choose_warp_tile(ProductSizes(1024, 4096, 1024), 132, fragment_format("fp16"))
    WarpTile(row_warps=2, column_warps=4, row_fragments=4, column_fragments=2, depth=32)
    """
    return min(_warp_tiles(form), key=lambda tile: warp_cycles(tile, sizes, units, form))


def _warp_tiles(form: FragmentFormat) -> Iterator[WarpTile]:
    for shape in _WARP_SHAPES:
        for depth in form.slices:
            tile = WarpTile(*shape, depth)
            if _is_small(tile.rows + tile.columns, depth, form.nbytes, 32 * tile.warps):
                yield tile


def warp_cycles(tile: WarpTile, sizes: ProductSizes, units: int, form: FragmentFormat) -> float:
    """Model as of single precision; fragments are loaded from shared memory for each product."""
    fragments = tile.warps * (tile.row_fragments + tile.column_fragments)
    copied = (tile.rows + tile.columns) * tile.depth * form.nbytes
    loaded = fragments * 16 * tile.depth * form.nbytes
    multiplied = tile.rows * tile.columns * tile.depth / form.rate
    step = max(
        multiplied + (copied + loaded) / _SHARED_BYTES,
        _fetch_cycles(tile.rows + tile.columns, tile.depth),
    )
    work = _blocks_per_unit(tile.rows, tile.columns, sizes, units) * step
    return sizes.slices(tile.depth) * (max(work, _STEP_CYCLES) + 0.25 * work)
