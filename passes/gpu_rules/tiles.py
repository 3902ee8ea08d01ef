"""Tiles of matrix products on a GPU, chosen by a model of its multiprocessors."""

import math
from dataclasses import dataclass

from hios_tvm.passes.gpu_rules.fragments import FragmentFormat

SLICE_DEPTH = 16
"""How much of the reduced axis lies in shared memory at a time, in single precision."""

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


@dataclass(frozen=True)
class GemmTile:
    """A block computes `rows` x `columns` results, each thread `thread_rows` x `thread_columns`."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return (self.rows // self.thread_rows) * (self.columns // self.thread_columns)


_TILES = (
    GemmTile(128, 128, 8, 8),
    GemmTile(128, 64, 8, 4),
    GemmTile(64, 64, 4, 4),
    GemmTile(64, 32, 4, 4),
    GemmTile(32, 64, 4, 4),
    GemmTile(32, 32, 4, 2),
    GemmTile(16, 64, 2, 4),
    GemmTile(16, 32, 2, 2),
)


def choose_gemm_tile(rows: int, columns: int, depth: int, units: int) -> GemmTile:
    """Return the tile that should be fastest for a product on `units` multiprocessors.

    `rows` x `columns` results, each a sum of `depth` products.

    >>> choose_gemm_tile(112 * 112, 64, 576, 132)
    GemmTile(rows=64, columns=32, thread_rows=4, thread_columns=4)
    >>> choose_gemm_tile(1024, 4096, 1024, 132)
    GemmTile(rows=128, columns=128, thread_rows=8, thread_columns=8)
    """
    return min(_TILES, key=lambda tile: _cycles(tile, rows, columns, depth, units))


def _cycles(tile: GemmTile, rows: int, columns: int, depth: int, units: int) -> float:
    """Model: each multiprocessor works off its blocks; what is in flight at once hides latency."""
    blocks = math.ceil(rows / tile.rows) * math.ceil(columns / tile.columns)
    per_unit = math.ceil(blocks / units)
    products = tile.thread_rows * tile.thread_columns
    loads = (tile.thread_rows + tile.thread_columns) * _LOAD_COST
    hidden = min(1.0, per_unit * tile.threads / _HIDING_THREADS)
    work = tile.rows * tile.columns * depth / _ISSUE * (products + loads) / products / hidden
    latency = math.ceil(depth / SLICE_DEPTH) * _STEP_CYCLES
    return max(per_unit * work, latency) + latency * 0.25


@dataclass(frozen=True)
class WarpTile:
    """A block of warps, each of which computes fragments of 16x16 results."""

    row_warps: int
    column_warps: int
    row_fragments: int
    column_fragments: int

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


_WARP_TILES = (
    WarpTile(2, 4, 4, 2),
    WarpTile(4, 2, 2, 2),
    WarpTile(2, 2, 2, 2),
    WarpTile(2, 2, 2, 1),
    WarpTile(2, 2, 1, 2),
    WarpTile(2, 2, 1, 1),
    WarpTile(1, 4, 1, 1),
)


def choose_warp_tile(
    rows: int, columns: int, depth: int, units: int, form: FragmentFormat
) -> WarpTile:
    """Return the tile that should be fastest on the tensor cores of `units` multiprocessors.

    `rows` x `columns` results, each a sum of `depth` products.

    >>> from hios_tvm.passes.gpu_rules.fragments import fragment_format
    >>> choose_warp_tile(17 * 17, 192, 1728, 132, fragment_format("fp16"))
    WarpTile(row_warps=2, column_warps=2, row_fragments=1, column_fragments=1)
    >>> choose_warp_tile(1024, 4096, 1024, 132, fragment_format("fp16"))
    WarpTile(row_warps=2, column_warps=4, row_fragments=4, column_fragments=2)
    """
    return min(_WARP_TILES, key=lambda tile: _warp_cycles(tile, rows, columns, depth, units, form))


def _warp_cycles(
    tile: WarpTile, rows: int, columns: int, depth: int, units: int, form: FragmentFormat
) -> float:
    """Model as of single precision; fragments are loaded from shared memory for each product."""
    blocks = math.ceil(rows / tile.rows) * math.ceil(columns / tile.columns)
    fragments = tile.warps * (tile.row_fragments + tile.column_fragments)
    copied = (tile.rows + tile.columns) * form.slice * form.nbytes
    loaded = fragments * 16 * form.slice * form.nbytes
    multiplied = tile.rows * tile.columns * form.slice / form.rate
    step = multiplied + (copied + loaded) / _SHARED_BYTES
    work = math.ceil(blocks / units) * step
    return math.ceil(depth / form.slice) * (max(work, _STEP_CYCLES) + 0.25 * work)
