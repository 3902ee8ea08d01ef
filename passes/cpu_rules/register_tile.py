"""How many pixels and output channels a kernel keeps in registers.

A dense kernel holds a tile of `pixels` x `vectors` accumulators. Each step of its reduction loads
`vectors` of weights, broadcasts `pixels` inputs, and does `pixels * vectors` multiply-adds. The
tile must fit into the registers, keep the multiply-add units busy, and divide the image's width and
the channels with little waste; a count of cycles over a whole row weighs these against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from hios_tvm.passes.cpu_rules.loop_nest import FEW_TASKS

_FMAS_PER_CYCLE = 2
_LOADS_PER_CYCLE = 2
_FMA_LATENCY = 4  # cycles; chains shorter than latency * FMAs per cycle leave units idle
_LATE_LOADS = 0.25  # cycles of a load that do not overlap with arithmetic
_L1_BYTES = 16 * 1024  # share of the L1 cache for weights
_L2_BYTES = 192 * 1024  # share of the L2 cache for weights, which others come to from memory
_FAR_LOADS = (0.2, 0.5)  # further cycles of a vector of weights outside of L1, and outside of L2
_COLD_LOADS = (0.4, 0.5)  # for few pixels: the next weights come from memory meanwhile
_READ_ONCE = (0.0, 0.0)  # for one pixel, as all weights come from memory
_SPARE_REGISTERS = 2  # one broadcast input, and room for the compiler
_STORE_CYCLES = 2  # to clear an accumulator, apply the epilogue, and store it
_MANY_PIXELS = 512  # which cores share; with fewer, one core waits while the other has a full block
_MEMORY_BYTES = 10  # per cycle, of weights; cores that share the pixels of a block both read it


@dataclass(frozen=True)
class RegisterTile:
    """A tile of `pixels` x `vectors` accumulators, each of `lanes` elements."""

    pixels: int
    vectors: int
    lanes: int

    @property
    def block(self) -> int:
        """Output channels of a tile."""
        return self.vectors * self.lanes


@lru_cache(maxsize=4096)
def choose_tile(
    pixels: int,
    channels: int,
    reduction: int,
    *,
    lanes: int,
    registers: int,
    rows: int = 1,
    unrolled: bool = False,
    padded: bool = False,
) -> RegisterTile:
    """Return the tile with the fewest estimated cycles.

    Parameters
    ----------
    pixels : int
        Consecutive pixels: a row of the output, or all pixels where rows do not matter.
    channels : int
        Output channels (of one group).
    reduction : int
        Multiply-adds per output element.
    lanes, registers : int
        Elements per vector register, and vector registers of the target.
    rows : int
        Rows of so many pixels.
    unrolled : bool
        Whether the reduction will be unrolled. The compiler then moves loads ahead of the
        arithmetic and needs registers for them, so that accumulators get only half of all.
    padded : bool
        Whether a last block that has fewer channels takes as long as the others.
    """
    needed = -(-channels // lanes)
    best = (float("inf"), RegisterTile(1, 1, lanes))
    for vectors in range(1, min(needed, registers - _SPARE_REGISTERS) + 1):
        most = (registers - _SPARE_REGISTERS - vectors) // vectors
        if unrolled:
            most = max(1, registers // 2 // vectors)
        for tile_pixels in range(1, min(pixels, most) + 1):
            tile = RegisterTile(tile_pixels, vectors, lanes)
            blocks = -(-channels // tile.block)
            if rows * pixels == 1:
                blocks += blocks % 2  # of which the other core has none
            is_few = rows * pixels < _MANY_PIXELS
            computed = blocks * tile.block if padded or is_few else channels
            loads = _COLD_LOADS if is_few else _FAR_LOADS
            if rows * pixels == 1:
                loads = _READ_ONCE
            cost = rows * _cycles(tile, pixels, computed, reduction, loads)
            if blocks % 2 and blocks < FEW_TASKS:
                cost += reduction * blocks * tile.block * 4 / _MEMORY_BYTES
            if cost < best[0]:
                best = (cost, tile)
    return best[1]


def choose_tiles(
    rows: int, products: Sequence[tuple[int, int]], *, lanes: int, registers: int
) -> list[RegisterTile]:
    """Return a tile for each of some products of which one reads the rows of the other.

    Their tiles have equally many rows, such that all together take the fewest estimated cycles.

    Parameters
    ----------
    rows : int
        Rows of each product.
    products : sequence of (int, int)
        Columns of each, and multiply-adds for each of its elements.
    lanes, registers : int
        Elements per vector register, and vector registers of the target.
    """

    def best(tile_rows: int, columns: int, reduction: int) -> tuple[float, RegisterTile]:
        most = (registers - _SPARE_REGISTERS) // (tile_rows + 1)
        tiles = [
            RegisterTile(tile_rows, vectors, lanes)
            for vectors in range(1, min(most, -(-columns // lanes)) + 1)
        ]
        return min(((_cycles(tile, rows, columns, reduction), tile) for tile in tiles), key=_cost)

    most_rows = min(rows, registers - _SPARE_REGISTERS - 1)
    choices = [[best(i, *product) for product in products] for i in range(1, most_rows + 1)]
    return [tile for _, tile in min(choices, key=lambda tiles: sum(map(_cost, tiles)))]


def _cost(choice: tuple[float, RegisterTile]) -> float:
    return choice[0]


def _cycles(
    tile: RegisterTile,
    pixels: int,
    channels: int,
    reduction: int,
    far_loads: tuple[float, float] = _FAR_LOADS,
) -> float:
    """Return the estimated cycles of all pixels and channels; the last block may be narrower."""
    blocks, rest = divmod(-(-channels // tile.lanes), tile.vectors)
    rows, last = divmod(pixels, tile.pixels)

    def cycles(tile_pixels: int, vectors: int) -> float:
        return _tile_cycles(tile_pixels, vectors, tile.lanes, reduction, far_loads)

    full = rows * cycles(tile.pixels, tile.vectors) + cycles(last, tile.vectors)
    return blocks * full + rows * cycles(tile.pixels, rest) + cycles(last, rest)


def _tile_cycles(
    pixels: int, vectors: int, lanes: int, reduction: int, far_loads: tuple[float, float]
) -> float:
    if not pixels * vectors:
        return 0.0
    fmas = pixels * vectors
    loads = pixels + vectors
    step = max(fmas / _FMAS_PER_CYCLE, loads / _LOADS_PER_CYCLE, _FMA_LATENCY)
    step += loads * _LATE_LOADS
    weight_bytes = reduction * vectors * lanes * 4
    for cache_bytes, cycles in zip((_L1_BYTES, _L2_BYTES), far_loads, strict=True):
        if weight_bytes > cache_bytes:
            step += vectors * cycles
    return reduction * step + fmas * _STORE_CYCLES
