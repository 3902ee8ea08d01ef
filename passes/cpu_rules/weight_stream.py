"""Weights on their way from memory to the cache, ahead of the register tiles that need them.

The weights of a whole network do not stay in a cache from one run to the next, and a kernel reads
them part after part: all register tiles read one part, such as a block of output channels, before
the first tile reads the next. That first tile would wait for memory and the others would not. So
each tile brings a share of the next part into the L2 cache while it computes:

    for part, for tile
        for row: sums[tile] += input[tile, row] * weight[part, row, :]
                 prefetch a cache line of weight[part + 1, row, :]           # another in each tile
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from hios_tvm.passes.cpu_rules.loop_nest import Index, prefetch
from hios_tvm.schema.dtypes import element_type

LINE = 16
"""Floats of a cache line."""

_MOST_TILES = 64
"""With more register tiles for each part, waiting for the first one takes no time that matters."""


@dataclass(frozen=True)
class WeightStream:
    """Weights ``(..., columns)`` of which some `parts` follow each other, and `tiles` read each."""

    weight: tirx.Var
    parts: int
    tiles: int

    def prefetch(self, row: Sequence[Index], tile: Index) -> None:
        """Emit what the tile of this number prefetches of a `row` of the next part."""
        if self.parts == 1 or self.tiles > _MOST_TILES:
            return
        line = 4 * LINE // element_type(str(self.weight.dtype)).nbytes
        lines = -(-int(self.weight.shape[-1]) // line)
        share = -(-lines // self.tiles)
        for i in range(share):
            prefetch(self.weight, [*row, (tile * share + i) % lines * line])
