"""Tiles of attention on a GPU, chosen by the model of its multiprocessors that products have."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from hios_tvm.passes.gpu_rules.tiles import (
    BLOCK_BYTES,
    STEP_CYCLES,
    GemmTile,
    Slicing,
    fetch_cycles,
    step_cycles,
)

MOST_KEYS = 512
"""Keys of an attention in one kernel: rows of scores lie in shared memory as a whole.

Twice as many would fit, but by the model tensor cores are then faster, through memory.
"""

PAD = 4
"""Elements that a row of a slice begins later than it would, in other banks."""

_TILES = (GemmTile(32, 64, 4, 4), GemmTile(16, 64, 2, 4), GemmTile(8, 64, 1, 4))
_DEPTHS = (16, 32, 64)


@dataclass(frozen=True)
class AttentionSizes:
    """Of each of `matrices`: `rows` queries of `inner` elements, `keys`, values of `columns`."""

    matrices: int
    rows: int
    keys: int
    inner: int
    columns: int

    def blocks(self, tile: GemmTile) -> int:
        """Return how many blocks of threads there are."""
        return self.matrices * math.ceil(self.rows / tile.rows)


def score_stride(tile: GemmTile, keys: int) -> int:
    """Return the elements of a row of scores: whole tiles, and the threads that sum a row.

    Rows that a warp sums at the same time begin in other banks.
    """
    return math.ceil(keys / tile.columns) * tile.columns + tile.threads // tile.rows


def shared_bytes(tile: GemmTile, keys: int) -> int:
    """Return the shared memory of a block: scores, a slice of both factors, and parts of rows."""
    depth = tile.slicing.depth
    slices = tile.rows * (depth + PAD) + depth * (tile.columns + PAD)
    return 4 * (tile.rows * (score_stride(tile, keys) + 1) + slices + 2 * tile.threads)


def choose_attention_tile(sizes: AttentionSizes, units: int) -> GemmTile:
    """Return the tile that should be fastest on `units` multiprocessors, of `MOST_KEYS` at most.

    >>> tile = choose_attention_tile(AttentionSizes(12, 128, 128, 64, 64), 132)
    >>> tile.rows, tile.slicing.depth
    (8, 64)
    """
    return min(_fitting(sizes), key=lambda tile: attention_cycles(tile, sizes, units))


def attention_cycles(tile: GemmTile, sizes: AttentionSizes, units: int) -> float:
    """Return how long the kernel should take: the steps of both products, one after another."""
    per_unit = math.ceil(sizes.blocks(tile) / units)
    depth, multiplied = tile.slicing.depth, step_cycles(tile, per_unit)
    scores = math.ceil(sizes.keys / tile.columns) * math.ceil(sizes.inner / depth)
    results = math.ceil(sizes.columns / tile.columns) * math.ceil(sizes.keys / depth)
    work = scores * max(multiplied, fetch_cycles(4 * (tile.rows + tile.columns) * depth))
    work += results * max(multiplied, fetch_cycles(4 * tile.columns * depth))
    latency = (scores + results) * STEP_CYCLES
    return max(per_unit * work, latency) + latency * 0.25


def _fitting(sizes: AttentionSizes) -> Iterator[GemmTile]:
    for tile, depth in product(_TILES, _DEPTHS):
        sliced = replace(tile, slicing=Slicing(depth))
        if shared_bytes(sliced, sizes.keys) <= BLOCK_BYTES:
            yield sliced
