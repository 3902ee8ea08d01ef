"""The rule for convolutions and for products with constant matrices.

Activations are channels-last, so one input element serves a vector of output channels. The kernel
walks blocks of rows and blocks of output channels; in a row it computes tiles of some pixels times
a block of channels, whose sums stay in registers from zero to the fused epilogue:

    parallel for (rows that fit the cache, group, block of channels)
        for row, for tile of pixels
            accumulators = 0
            for kernel row that lies in the image, kernel column, input channel
                accumulators[pixels][channels] += input[pixels] * weight[channels]
            output = epilogue(accumulators)

Padding costs nothing: kernel rows outside of the image are skipped, and the first and last tiles of
a row, whose pixels are known, get their own code that skips the columns outside. Where a pixel
reads only itself (kernel 1x1, matrix products), the whole image is one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from tvm import tirx
from tvm.tirx import Broadcast, BufferLoad, BufferStore, IfThenElse, Ramp, Stmt

from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS, BlockedSums
from hios_tvm.passes.cpu_rules.borders import Tile, kernel_rows, pixels_inside, tiles_of_row
from hios_tvm.passes.cpu_rules.convolution_kernel import ConvolutionKernel
from hios_tvm.passes.cpu_rules.epilogue import Epilogue
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    even_chunk,
    loop,
    parallel_loop,
    sequence,
    vector_loops,
)
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledConvolution
from hios_tvm.passes.schedule_kernels import Scheduled

__all__ = ["BlockedWeights", "Convolution"]

_CACHE_BYTES = 256 * 1024
"""Input rows that are read again for the next block of channels should stay in half an L2 cache."""

_UNROLLED_FMAS = 512
"""Where channels are unrolled, so are kernel columns, while a tile's code stays below this."""


class Convolution:
    """Write out convolutions, whose weights it packs, for vectors of `lanes` floats.

    `registers` is how many vector registers the CPU has.
    """

    def __init__(self, lanes: int, registers: int) -> None:
        self.lanes = lanes
        self.registers = registers

    def apply(self, func: tirx.PrimFunc) -> Scheduled | None:
        kernel = ConvolutionKernel.of(func)
        if kernel is None:
            return None
        shape = TiledConvolution.of(kernel.shape, self.lanes, self.registers)
        weight = kernel.packed_weight(shape.packed_shape)
        body = _Nest(shape, kernel.image, weight, kernel.epilogue).body()
        return kernel.scheduled(body, weight, BlockedWeights(shape.groups, shape.block))


@dataclass(frozen=True)
class BlockedWeights:
    """Packs ``(height, width, inputs of a group, outputs)`` as `TiledConvolution` says.

    So it does with a matrix of ``(inputs, outputs)``.

    >>> BlockedWeights(groups=1, block=32)(np.ones((5, 5, 3, 40), "float32")).shape
    (2, 5, 5, 3, 32)
    """

    groups: int
    block: int

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        *window, inputs, outputs = weights.shape
        height, width = window or (1, 1)
        per_group = outputs // self.groups
        blocks = -(-per_group // self.block)
        shape = (height, width, inputs, self.groups, blocks * self.block)
        padded = np.zeros(shape, weights.dtype)
        padded[..., :per_group] = weights.reshape(*shape[:-1], per_group)
        packed = padded.reshape(height, width, inputs, self.groups * blocks, self.block)
        return np.ascontiguousarray(packed.transpose(3, 0, 1, 2, 4))


@dataclass(frozen=True)
class _Nest:
    shape: TiledConvolution
    image: tirx.Var
    weight: tirx.Var
    epilogue: Epilogue

    def body(self) -> Stmt:
        """Return the whole kernel."""
        return self._pointwise() if self.shape.is_pointwise else self._by_rows()

    def _pointwise(self) -> Stmt:
        """All pixels of all images as one row."""
        shape = self.shape
        pixels = shape.batch * shape.out_size[0] * shape.out_size[1]
        tiles, rest = divmod(pixels, shape.pixels)
        tile_bytes = shape.pixels * shape.in_channels * 4
        blocks = shape.groups * shape.group_blocks
        per_chunk = even_chunk(tiles, _CACHE_BYTES // tile_bytes, blocks)
        chunks = max(1, -(-tiles // per_chunk))

        def chunk_of_block(index: Index) -> Stmt:
            chunk, block = index // blocks, index % blocks
            first = chunk * per_chunk
            count = per_chunk if tiles % per_chunk == 0 else tirx.min(per_chunk, tiles - first)
            statements = []
            if tiles:
                statements.append(
                    loop(
                        "tile",
                        0,
                        count,
                        lambda i: self._tile(
                            0, 0, Tile((first + i) * shape.pixels, shape.pixels, False), block
                        ),
                    )
                )
            if rest:
                last = self._tile(0, 0, Tile(tiles * shape.pixels, rest, False), block)
                statements.append(
                    last if chunks == 1 else IfThenElse(chunk == chunks - 1, last, None)
                )
            return sequence(statements)

        return parallel_loop("chunk_block", chunks * blocks, chunk_of_block, work=shape.work)

    def _by_rows(self) -> Stmt:
        shape = self.shape
        height = shape.out_size[0]
        row_bytes = shape.in_size[1] * shape.in_channels * 4 * shape.strides[0]
        blocks = shape.groups * shape.group_blocks
        per_chunk = even_chunk(height, _CACHE_BYTES // row_bytes, blocks)
        chunks = -(-height // per_chunk)

        def chunk_of_block(index: Index) -> Stmt:
            chunk, block = index // blocks, index % blocks
            first = chunk % chunks * per_chunk
            count = per_chunk if height % per_chunk == 0 else tirx.min(per_chunk, height - first)
            runs = [
                loop("row", 0, count, self._run(chunk // chunks, first, block, tile, tiles))
                for tile, tiles in tiles_of_row(shape, shape.pixels)
            ]
            return sequence(runs)

        count = shape.batch * chunks * blocks
        return parallel_loop("chunk_block", count, chunk_of_block, work=shape.work)

    def _run(
        self, batch: Index, first_row: Index, block: Index, tile: Tile, tiles: int
    ) -> Callable[[Index], Stmt]:
        """Return what computes `tiles` equal tiles of a row.

        Other tiles of the row have loops over rows of their own: in one loop, the compiler keeps
        sums of one tile in registers while it computes another.
        """

        def run(row: Index) -> Stmt:
            def nth(i: Index) -> Stmt:
                moved = replace(tile, start=tile.start + i * tile.pixels)
                return self._tile(batch, first_row + row, moved, block)

            return loop("tile", 0, tiles, nth)

        return run

    def _tile(self, batch: Index, row: Index, tile: Tile, block: Index) -> Stmt:
        """Compute `tile` for all channels of a block, in registers."""
        shape = self.shape
        vectors = [(i * shape.lanes, shape.lanes) for i in range(tile.pixels * shape.vectors)]
        sums = BlockedSums.of(vectors, is_single=_level(shape) == "tile")
        first, count = kernel_rows(shape, row)

        def kernel_row(k: Index) -> Stmt:
            terms = self._kernel_row(sums, batch, row, tile, block, k)
            return sums.block(terms) if _level(shape) == "row" else terms

        terms = loop("kernel_row", first, count, kernel_row)
        return sequence([sums.around(terms), self._finish(sums.totals, batch, row, tile, block)])

    def _kernel_row(
        self,
        sums: BlockedSums,
        batch: Index,
        row: Index,
        tile: Tile,
        block: Index,
        kernel_row: Index,
    ) -> Stmt:
        shape, level = self.shape, _level(self.shape)
        columns, channels = shape.kernel[1], shape.group_inputs
        fmas = tile.pixels * shape.vectors
        unroll_channels = shape.has_few_inputs
        unroll_columns = unroll_channels and columns * channels * fmas <= _UNROLLED_FMAS

        def column(kernel_column: Index, first: int, end: int) -> Stmt:
            kernel = (kernel_row, kernel_column)

            def step(channel: Index) -> Stmt:
                return self._step(sums.sums, batch, row, tile, block, kernel, channel, first, end)

            if level == "channel":
                return sums.loop("channel", channels, step)
            terms = loop("channel", 0, channels, step, unroll=unroll_channels)
            return sums.block(terms) if level == "column" else terms

        if not tile.at_border:
            return loop(
                "kernel_column",
                0,
                columns,
                lambda k: column(k, 0, tile.pixels),
                unroll=unroll_columns,
            )
        inside = [(k, *pixels_inside(shape, tile, k)) for k in range(columns)]
        return sequence([column(k, first, end) for k, first, end in inside if first < end])

    def _step(
        self,
        sums: tirx.Var,
        batch: Index,
        row: Index,
        tile: Tile,
        block: Index,
        kernel: tuple[Index, Index],
        channel: Index,
        first: int,
        end: int,
    ) -> Stmt:
        """Return one step of the reduction for pixels `first` to `end` of a tile."""
        shape = self.shape
        group = block // shape.group_blocks if shape.groups > 1 else 0
        input_row = row * shape.strides[0] - shape.padding[0] + kernel[0] * shape.dilation[0]
        statements = []
        for pixel in range(first, end):
            column = (tile.start + pixel) * shape.strides[1] - shape.padding[1]
            at = self._input_index(batch, input_row, column + kernel[1] * shape.dilation[1])
            value = BufferLoad(self.image, [*at, group * shape.group_inputs + channel])
            for vector in range(shape.vectors):
                lanes = Ramp(vector * shape.lanes, 1, shape.lanes)
                weight = BufferLoad(self.weight, [block, *kernel, channel, lanes])
                place = [Ramp(pixel * shape.block + vector * shape.lanes, 1, shape.lanes)]
                product = Broadcast(value, shape.lanes) * weight
                statements.append(BufferStore(sums, BufferLoad(sums, place) + product, place))
        return sequence(statements)

    def _finish(self, sums: tirx.Var, batch: Index, row: Index, tile: Tile, block: Index) -> Stmt:
        """Apply the epilogue to a tile; the last block of a group may be narrower."""
        shape = self.shape
        rest = shape.group_outputs % shape.block
        if not rest:
            return self._store(sums, batch, row, tile, block, shape.block)
        narrow = self._store(sums, batch, row, tile, block, rest)
        if shape.group_blocks == 1:
            return narrow
        wide = self._store(sums, batch, row, tile, block, shape.block)
        return IfThenElse(block % shape.group_blocks == shape.group_blocks - 1, narrow, wide)

    def _store(
        self,
        sums: tirx.Var,
        batch: Index,
        row: Index,
        tile: Tile,
        block: Index,
        channels: int,
    ) -> Stmt:
        shape = self.shape
        group, place = block // shape.group_blocks, block % shape.group_blocks
        base = group * shape.group_outputs + place * shape.block
        if shape.groups == 1:
            base = block * shape.block
        statements = []
        for pixel in range(tile.pixels):
            at = self._output_index(batch, row, tile.start + pixel)

            def store(channel: Index, at: Sequence[Index] = at, pixel: int = pixel) -> Stmt:
                result = BufferLoad(sums, [pixel * shape.block + channel])
                return self.epilogue.store([*at, base + channel], result)

            vectors, rest = divmod(channels, shape.lanes)
            for vector in range(vectors):
                start = vector * shape.lanes
                statements.append(vector_loops("v", start, shape.lanes, shape.lanes, store))
            if rest:
                start = vectors * shape.lanes
                statements.append(vector_loops("v", start, rest, shape.lanes, store))
        return sequence(statements)

    def _input_index(self, batch: Index, row: Index, column: Index) -> list[Index]:
        if self.shape.is_pointwise:
            return _unflattened(column, self.image.shape)
        return [batch, row, column]

    def _output_index(self, batch: Index, row: Index, column: Index) -> list[Index]:
        if self.shape.is_pointwise:
            return _unflattened(column, self.epilogue.shape)
        return [batch, row, column]


def _level(shape: TiledConvolution) -> Literal["tile", "row", "column", "channel"]:
    """Return which part of the reduction is one block of terms: the largest that is short enough.

    All of it, a row or a column of the kernel, or some channels.
    """
    channels = shape.group_inputs
    rows, columns = shape.kernel
    if rows * columns * channels <= MOST_TERMS:
        return "tile"
    if rows > 1 and columns * channels <= MOST_TERMS:
        return "row"
    return "column" if channels <= MOST_TERMS else "channel"


def _unflattened(pixel: Index, shape: Sequence[Index]) -> list[Index]:
    """Return the indices of a pixel before the last dimension of `shape`."""
    extents = [int(extent) for extent in shape][:-1]
    indices: list[Index] = []
    for i in reversed(range(len(extents))):
        if all(extent == 1 for extent in extents[:i]):
            return [0] * i + [pixel] + indices
        indices.insert(0, pixel % extents[i])
        pixel = pixel // extents[i]
    return indices
