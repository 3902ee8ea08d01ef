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

STEP_CYCLES = 600.0
"""Latency of fetching the next slice of both matrices into shared memory, in cycles."""

_SHARED_BYTES = 128.0
"""What a multiprocessor reads from or writes to shared memory in a cycle."""

_FETCHED_BYTES = 24.0
"""What a multiprocessor reads from the L2 cache in a cycle, while all others do."""

BLOCK_BYTES = 48 << 10
"""Shared memory that a block takes at most; every GPU gives that without being asked."""

_FETCH_REGISTERS = 32
"""Registers of a thread that may hold the next slices until the last ones are multiplied."""

_MOST_SKEW = 8  # elements that a row of a slice begins later than it would

_LAUNCH_CYCLES = 2500.0
"""From the end of a kernel to the start of the next one of a stream, in a CUDA graph."""

_MOST_PARTS = 16

_IDLE_PENALTY = 1.5  # of a tile with fewer blocks than multiprocessors

_MOST_PADDING = 1.15  # of the reduced axis, that is worth an index without divisions

TileT = TypeVar("TileT", "GemmTile", "WarpTile")


@dataclass(frozen=True)
class ProductSizes:
    """Sizes of a product: `rows` x `columns` results, each a sum of `windows` x `depth` products.

    `rows` counts those of all products of a batch, `windows` the elements of a convolution's
    window, `depth` the channels of each. An element of the second factor has `weight_bytes` in
    memory.
    """

    rows: int
    columns: int
    depth: int
    windows: int = 1
    weight_bytes: int = 4

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

    def divides(self, slice_depth: int, parts: int) -> bool:
        """Whether no part begins or ends in the middle of several elements of a window.

        >>> [parts for parts in range(1, 15) if ProductSizes(289, 192, 192, 7).divides(32, parts)]
        [1, 7, 14]
        """
        if not self.keeps_windows(slice_depth):
            return True
        of_window = math.ceil(self.depth / slice_depth)
        whole = parts % self.windows == 0 and of_window % (parts // self.windows) == 0
        return whole or self.windows % parts == 0


@dataclass(frozen=True)
class Slicing:
    """How the reduced axis is worked off.

    Blocks of their own sum each of `parts` parts, which a second kernel adds up. Slices of `depth`
    go through shared memory: while one of `stages` is multiplied, the others are on their way.
    """

    depth: int = 16
    parts: int = 1
    stages: int = 2

    @property
    def asynchronous(self) -> bool:
        """Whether slices go to shared memory past the registers of threads, which hold only one."""
        return self.stages > 2

    @property
    def buffers(self) -> int:
        """How many slices have a place in shared memory."""
        return self.stages if self.asynchronous else 1

    def steps(self, sizes: ProductSizes) -> int:
        """Return how many slices a part has."""
        return math.ceil(sizes.slices(self.depth) / self.parts)


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


GEMM_TILES = (
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


def choose_gemm_tile(sizes: ProductSizes, units: int, most_stages: int = 2) -> GemmTile:
    """Return the tile that should be fastest for a product on `units` multiprocessors.

    `most_stages` is 2 where slices cannot be copied asynchronously.

    >>> choose_gemm_tile(ProductSizes(1024, 4096, 1024), 132).slicing
    Slicing(depth=32, parts=1, stages=2)
    >>> choose_gemm_tile(ProductSizes(8 * 8, 192, 192, 9), 132).slicing
    Slicing(depth=64, parts=9, stages=2)
    """
    tiles = _sliced(GEMM_TILES, sizes, most_stages, _GEMM_DEPTHS, 4)
    return _preferred(tiles, sizes, units, lambda tile: gemm_cycles(tile, sizes, units))


def gemm_cycles(tile: GemmTile, sizes: ProductSizes, units: int) -> float:
    """Return how long the product should take, in cycles.

    Each multiprocessor works off its blocks; what is in flight at once hides latency.
    """
    steps = tile.slicing.steps(sizes)
    per_unit = math.ceil(blocks_of(tile, sizes) / units)
    step = max(step_cycles(tile, per_unit), _fetch_cycles(tile, sizes))
    work = per_unit * steps * step
    latency = _latency(tile.slicing, sizes)
    return max(work, latency) + latency * 0.25 + _adding_cycles(tile.slicing, sizes, units)


def step_cycles(tile: GemmTile, per_unit: int) -> float:
    """Return how long a block multiplies a slice on a multiprocessor that has `per_unit` blocks."""
    products = tile.thread_rows * tile.thread_columns
    loads = (tile.thread_rows + tile.thread_columns) * _LOAD_COST
    hidden = min(1.0, per_unit * tile.threads / _HIDING_THREADS)
    multiplied = tile.rows * tile.columns * tile.slicing.depth
    return multiplied / _ISSUE * (products + loads) / products / hidden


def _sliced(
    tiles: Sequence[TileT],
    sizes: ProductSizes,
    most_stages: int,
    depths: Sequence[int],
    nbytes: int,
) -> Iterator[TileT]:
    """Yield tiles whose slices fit into shared memory, as elements of `nbytes`, and registers."""
    for tile, depth, stages in product(tiles, depths, range(2, most_stages + 1)):
        fetched = (tile.rows + tile.columns) * depth
        stored = fetched + max(tile.rows, depth) * _MOST_SKEW
        slices = sizes.slices(depth)
        for parts in range(1, min(slices, _MOST_PARTS) + 1):
            slicing = Slicing(depth, parts, stages)
            held = 0 if slicing.asynchronous else fetched / tile.threads
            fits = slicing.buffers * stored * nbytes <= BLOCK_BYTES and held <= _FETCH_REGISTERS
            enough = slicing.steps(sizes) >= slicing.buffers
            if fits and enough and sizes.divides(depth, parts):
                yield replace(tile, slicing=slicing)


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


def _latency(slicing: Slicing, sizes: ProductSizes) -> float:
    """Return how long a block waits for slices when it does nothing else."""
    return math.ceil(slicing.steps(sizes) / (slicing.stages - 1)) * STEP_CYCLES


def fetch_cycles(nbytes: float) -> float:
    """Return how long a multiprocessor takes to read from L2, while all others do."""
    return nbytes / _FETCHED_BYTES


def _fetch_cycles(tile: "GemmTile | WarpTile", sizes: ProductSizes) -> float:
    """Return how long a multiprocessor takes to read a slice of both factors."""
    line = 4 * tile.rows + sizes.weight_bytes * tile.columns
    return fetch_cycles(line * tile.slicing.depth)


def _adding_cycles(slicing: Slicing, sizes: ProductSizes, units: int) -> float:
    """Return how long it takes to write the sums of parts, and to add them up in a kernel."""
    if slicing.parts == 1:
        return 0.0
    nbytes = 2 * 4 * sizes.rows * sizes.columns * slicing.parts  # written, and read
    return _LAUNCH_CYCLES + STEP_CYCLES + fetch_cycles(nbytes / units)


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


WARP_TILES = (
    WarpTile(2, 4, 4, 2),
    WarpTile(4, 2, 2, 2),
    WarpTile(2, 2, 2, 2),
    WarpTile(2, 2, 2, 1),
    WarpTile(2, 2, 1, 2),
    WarpTile(2, 2, 1, 1),
    WarpTile(1, 4, 1, 1),
)


def choose_warp_tile(
    sizes: ProductSizes, units: int, form: FragmentFormat, most_stages: int = 2
) -> WarpTile:
    """Return the tile that should be fastest on the tensor cores of `units` multiprocessors.

    `most_stages` is as of single precision.

    >>> from hios_tvm.passes.gpu_rules.fragments import fragment_format
    >>> choose_warp_tile(ProductSizes(17 * 17, 192, 192, 7), 132, fragment_format("fp16")).slicing
    Slicing(depth=32, parts=14, stages=2)
    >>> choose_warp_tile(ProductSizes(1024, 4096, 1024), 132, fragment_format("fp16")).slicing
    Slicing(depth=32, parts=1, stages=2)
    """
    tiles = _sliced(WARP_TILES, sizes, most_stages, form.slices, form.nbytes)
    return _preferred(tiles, sizes, units, lambda tile: warp_cycles(tile, sizes, units, form))


def warp_cycles(tile: WarpTile, sizes: ProductSizes, units: int, form: FragmentFormat) -> float:
    """Model as of single precision; fragments are loaded from shared memory for each product."""
    depth, steps = tile.slicing.depth, tile.slicing.steps(sizes)
    fragments = tile.warps * (tile.row_fragments + tile.column_fragments)
    copied = (tile.rows + tile.columns) * depth * form.nbytes
    loaded = fragments * 16 * depth * form.nbytes
    multiplied = tile.rows * tile.columns * depth / form.rate
    step = max(
        multiplied + (copied + loaded) / _SHARED_BYTES,
        _fetch_cycles(tile, sizes),
    )
    work = math.ceil(blocks_of(tile, sizes) / units) * steps * step
    latency = _latency(tile.slicing, sizes)
    return max(work, latency) + work * 0.25 + _adding_cycles(tile.slicing, sizes, units)
