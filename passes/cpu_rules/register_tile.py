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

_FMAS_PER_CYCLE = 2
_LOADS_PER_CYCLE = 2
_FMA_LATENCY = 4  # cycles; chains shorter than latency * FMAs per cycle leave units idle
_LATE_LOADS = 0.1  # cycles of a load that do not overlap with arithmetic
_L1_BYTES = 24 * 1024  # share of the L1 cache for weights
_L2_LOADS = 0.25  # further cycles of a vector of weights that comes from the L2 cache
_SPARE_REGISTERS = 2  # one broadcast input, and room for the compiler
_STORE_CYCLES = 2  # to clear an accumulator, apply the epilogue, and store it


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
    unrolled: bool = False,
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
    unrolled : bool
        Whether the reduction will be unrolled. The compiler then moves loads ahead of the
        arithmetic and needs registers for them, so that accumulators get only half of all.
    """
    needed = -(-channels // lanes)
    best = (float("inf"), RegisterTile(1, 1, lanes))
    for vectors in range(1, min(needed, registers - _SPARE_REGISTERS) + 1):
        most = (registers - _SPARE_REGISTERS - vectors) // vectors
        if unrolled:
            most = max(1, registers // 2 // vectors)
        for tile_pixels in range(1, min(pixels, most) + 1):
            tile = RegisterTile(tile_pixels, vectors, lanes)
            cost = _cycles(tile, pixels, channels, reduction)
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


def _cycles(tile: RegisterTile, pixels: int, channels: int, reduction: int) -> float:
    """Return the estimated cycles of all pixels and channels."""
    full, rest = divmod(pixels, tile.pixels)
    cycles = full * _tile_cycles(tile.pixels, tile.vectors, tile.lanes, reduction)
    cycles += _tile_cycles(rest, tile.vectors, tile.lanes, reduction) if rest else 0
    return cycles * -(-channels // tile.block)


def _tile_cycles(pixels: int, vectors: int, lanes: int, reduction: int) -> float:
    fmas = pixels * vectors
    loads = pixels + vectors
    step = max(fmas / _FMAS_PER_CYCLE, loads / _LOADS_PER_CYCLE, _FMA_LATENCY)
    step += loads * _LATE_LOADS
    if reduction * vectors * lanes * 4 > _L1_BYTES:
        step += vectors * _L2_LOADS
    return reduction * step + fmas * _STORE_CYCLES
