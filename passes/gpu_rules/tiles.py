"""Tiles of matrix products on a GPU, chosen by a model of its multiprocessors."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

from hios_tvm.passes.gpu_rules.fragments import WARP, FragmentFormat

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

_LAUNCH_CYCLES = 2500.0
"""From the end of a kernel to the start of the next one of a stream, in a CUDA graph."""

_MOST_PARTS = 16

_IDLE_PENALTY = 1.15  # of a tile with fewer blocks than multiprocessors

_MOST_PADDING = 1.15  # of the reduced axis, that is worth an index without divisions

TileT = TypeVar("TileT", "GemmTile", "WarpTile")


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
class Slicing:
    """How the reduced axis is worked off.

    Blocks of their own sum each of `parts` parts, which a second kernel adds up; `depth` of a part
    lies in shared memory at a time.
    """

    depth: int = 16
    parts: int = 1


@dataclass(frozen=True)
class GemmTile:
    """A block computes `rows` x `columns` results, each thread `thread_rows` x `thread_columns`."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int
    slicing: Slicing = Slicing()

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return (self.rows // self.thread_rows) * (self.columns // self.thread_columns)


_GEMM_TILES = (
    GemmTile(128, 128, 8, 8),
    GemmTile(128, 64, 8, 4),
    GemmTile(64, 64, 4, 4),
    GemmTile(64, 32, 4, 4),
    GemmTile(32, 64, 4, 4),
    GemmTile(32, 32, 4, 2),
    GemmTile(16, 64, 2, 4),
    GemmTile(16, 32, 2, 2),
)

_GEMM_DEPTHS = (16, 32, 64)


def choose_gemm_tile(sizes: ProductSizes, units: int) -> GemmTile:
    """Return the tile that should be fastest for a product on `units` multiprocessors.

    >>> choose_gemm_tile(ProductSizes(1024, 4096, 1024), 132).slicing
    Slicing(depth=32, parts=1)
    >>> choose_gemm_tile(ProductSizes(8 * 8, 192, 192, 9), 132).slicing
    Slicing(depth=64, parts=9)
    """
    tiles = _sliced(_GEMM_TILES, sizes, _GEMM_DEPTHS, 4)
    return _preferred(tiles, sizes, units, lambda tile: gemm_cycles(tile, sizes, units))


def gemm_cycles(tile: GemmTile, sizes: ProductSizes, units: int) -> float:
    """Return how long the product should take, in cycles.

    Each multiprocessor works off its blocks; what is in flight at once hides latency.
    """
    depth, parts = tile.slicing.depth, tile.slicing.parts
    per_unit = math.ceil(blocks_of(tile, sizes) / units)
    products = tile.thread_rows * tile.thread_columns
    loads = (tile.thread_rows + tile.thread_columns) * _LOAD_COST
    hidden = min(1.0, per_unit * tile.threads / _HIDING_THREADS)
    step = tile.rows * tile.columns * depth / _ISSUE * (products + loads) / products / hidden
    steps = math.ceil(sizes.slices(depth) / parts)
    work = per_unit * steps * max(step, _fetch_cycles(tile.rows + tile.columns, depth))
    latency = steps * _STEP_CYCLES
    return max(work, latency) + latency * 0.25 + _adding_cycles(tile.slicing, sizes, units)


def _sliced(
    tiles: Sequence[TileT], sizes: ProductSizes, depths: Sequence[int], nbytes: int
) -> Iterator[TileT]:
    """Yield tiles whose slices fit into shared memory, as elements of `nbytes`, and registers."""
    for tile, depth in product(tiles, depths):
        fetched = (tile.rows + tile.columns) * depth
        if fetched * nbytes > _BLOCK_BYTES or fetched > _FETCH_REGISTERS * tile.threads:
            continue
        slices = sizes.slices(depth)
        for parts in range(1, min(slices, _MOST_PARTS) + 1):
            if slices % parts == 0 or not sizes.keeps_windows(depth):
                yield replace(tile, slicing=Slicing(depth, parts))


def _preferred(
    tiles: Iterable[TileT], sizes: ProductSizes, units: int, cycles: Callable[[TileT], float]
) -> TileT:
    """Return the fastest tile; one that leaves multiprocessors idle has to be so by far."""
    penalty = {True: _IDLE_PENALTY, False: 1.0}
    return min(tiles, key=lambda tile: cycles(tile) * penalty[blocks_of(tile, sizes) < units])


def blocks_of(tile: "GemmTile | WarpTile", sizes: ProductSizes) -> int:
    """Return how many blocks multiply."""
    tiles = math.ceil(sizes.rows / tile.rows) * math.ceil(sizes.columns / tile.columns)
    return tiles * tile.slicing.parts


def _fetch_cycles(lines: int, depth: int) -> float:
    """Return how long a multiprocessor takes to read a slice, of single precision, from L2."""
    return lines * depth * 4 / _FETCHED_BYTES


def _adding_cycles(slicing: Slicing, sizes: ProductSizes, units: int) -> float:
    """Return how long it takes to write the sums of parts, and to add them up in a kernel."""
    if slicing.parts == 1:
        return 0.0
    nbytes = 2 * 4 * sizes.rows * sizes.columns * slicing.parts  # written, and read
    return _LAUNCH_CYCLES + _STEP_CYCLES + nbytes / units / _FETCHED_BYTES


@dataclass(frozen=True)
class WarpTile:
    """A block of warps, each of which computes fragments of 16x16 results."""

    row_warps: int
    column_warps: int
    row_fragments: int
    column_fragments: int
    slicing: Slicing = Slicing()

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.row_warps * self.column_warps

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.warps

    @property
    def rows(self) -> int:
        """Rows of results of a block."""
        return 16 * self.row_warps * self.row_fragments

    @property
    def columns(self) -> int:
        """Columns of results of a block."""
        return 16 * self.column_warps * self.column_fragments


_WARP_TILES = (
    WarpTile(2, 4, 4, 2),
    WarpTile(4, 2, 2, 2),
    WarpTile(2, 2, 2, 2),
    WarpTile(2, 2, 2, 1),
    WarpTile(2, 2, 1, 2),
    WarpTile(2, 2, 1, 1),
    WarpTile(1, 4, 1, 1),
)


def choose_warp_tile(sizes: ProductSizes, units: int, form: FragmentFormat) -> WarpTile:
    """Return the tile that should be fastest on the tensor cores of `units` multiprocessors.

    >>> from hios_tvm.passes.gpu_rules.fragments import fragment_format
    >>> choose_warp_tile(ProductSizes(17 * 17, 192, 192, 7), 132, fragment_format("fp16")).slicing
    Slicing(depth=32, parts=14)
    >>> choose_warp_tile(ProductSizes(1024, 4096, 1024), 132, fragment_format("fp16")).slicing
    Slicing(depth=32, parts=1)
    """
    tiles = _sliced(_WARP_TILES, sizes, form.slices, form.nbytes)
    return _preferred(tiles, sizes, units, lambda tile: warp_cycles(tile, sizes, units, form))


def warp_cycles(tile: WarpTile, sizes: ProductSizes, units: int, form: FragmentFormat) -> float:
    """Model as of single precision; fragments are loaded from shared memory for each product."""
    depth, parts = tile.slicing.depth, tile.slicing.parts
    fragments = tile.warps * (tile.row_fragments + tile.column_fragments)
    copied = (tile.rows + tile.columns) * depth * form.nbytes
    loaded = fragments * 16 * depth * form.nbytes
    multiplied = tile.rows * tile.columns * depth / form.rate
    step = max(
        multiplied + (copied + loaded) / _SHARED_BYTES,
        _fetch_cycles(tile.rows + tile.columns, depth),
    )
    work = math.ceil(blocks_of(tile, sizes) / units) * step
    steps = math.ceil(sizes.slices(depth) / parts)
    adding = _adding_cycles(tile.slicing, sizes, units)
    return steps * (max(work, _STEP_CYCLES) + 0.25 * work) + adding
