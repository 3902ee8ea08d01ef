"""The rule for convolutions of many groups whose channels do not fill a vector.

Before, for groups of 4 channels (the image is padded as for other convolutions):

    for y, x, o, ky, kx, i:
        sums[y, x, o] += padded[y + ky, x + kx, o // 4 * 4 + i] * weight[ky, kx, i, o]

A vector of output channels holds several whole groups, and depends on the same channels of the
input. After, channels stay in their vectors as in a depthwise convolution, and *turns* bring each
input channel of a group to the place of each output channel:

    parallel for chunk of rows, for vector of channels
        for tile of pixels, for row y of chunk
            sums[pixels, lanes] = 0
            for turn t of 4, for kernel row ky that lies in the image
                for input column x of the tile
                    turned[lanes] = image[y + ky - 1, x, lanes ^ t]
                    for kernel column kx
                        sums[x - kx + 1, lanes] += turned[lanes] * weight[ky, kx, t, lanes]
            output[y, pixels, lanes] = epilogue(sums)

where the packed weight[ky, kx, t, o] is the original weight[ky, kx, (o % 4) ^ t, o]. A turn takes
one instruction, which the CPU runs in place of a multiply-add, and serves all kernel columns; turn
0 takes none. Exclusive or keeps channels in their group where its width is a power of two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import BufferLoad, Ramp, Shuffle

from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS, BlockedSums
from hios_tvm.passes.cpu_rules.borders import Tile, kernel_rows, pixels_inside, tiles_of_row
from hios_tvm.passes.cpu_rules.convolution_kernel import ConvolutionKernel, ConvolutionRule
from hios_tvm.passes.cpu_rules.epilogue import Epilogue
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    allocate,
    emitted,
    even_chunk,
    parallel,
    serial,
    vectors,
    widened,
)
from hios_tvm.passes.cpu_rules.tiled_shapes import TiledGroups
from hios_tvm.passes.schedule_kernels import Scheduled
from hios_tvm.schema.kernel_shapes import ConvolutionShape

_LEAST_TASKS = 64
"""Tasks for threads to share, each a vector of channels of a chunk of rows, if rows suffice."""

_TURNS_AT_A_TIME = 2
"""Their weights stay in registers beside the sums of 14 pixels of 32 registers, or 7 of 16."""


class GroupedConvolution(ConvolutionRule):
    """Write out convolutions of groups that are narrower than a vector."""

    def write(self, kernel: ConvolutionKernel) -> Scheduled | None:
        if not _has_narrow_groups(kernel.shape, self.lanes):
            return None
        shape = TiledGroups.of(kernel.shape, self.lanes, self.registers)
        weight = kernel.packed_weight(shape.packed_shape)
        nest = _Nest(shape, kernel.image, weight, kernel.epilogue)
        return kernel.scheduled(emitted(nest.write), weight, TurnedWeights(shape.lanes))


def _has_narrow_groups(shape: ConvolutionShape, lanes: int) -> bool:
    """Whether vectors of `lanes` hold several groups, with as many inputs as outputs."""
    channels = shape.group_inputs
    if shape.groups == 1 or shape.group_outputs != channels:
        return False
    terms = shape.kernel[0] * shape.kernel[1] * channels
    return 1 < channels < lanes and lanes % channels == 0 and terms <= MOST_TERMS


@dataclass(frozen=True)
class TurnedWeights:
    """Packs ``(height, width, inputs of a group, outputs)`` as `TiledGroups` says.

    >>> weights = np.arange(16.0).reshape(1, 1, 2, 8)
    >>> TurnedWeights(lanes=4)(weights)[0, 0, 0]
    array([[ 0.,  9.,  2., 11.],
           [ 8.,  1., 10.,  3.]])
    """

    lanes: int

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        height, width, channels, outputs = weights.shape
        count = -(-outputs // self.lanes)
        turn, output = np.ogrid[:channels, :outputs]
        packed = np.zeros((height, width, channels, count * self.lanes), weights.dtype)
        packed[..., :outputs] = weights[:, :, (output % channels) ^ turn, output]
        split = packed.reshape(height, width, channels, count, self.lanes)
        return np.ascontiguousarray(split.transpose(3, 0, 1, 2, 4))


@dataclass(frozen=True)
class _Place:
    """A register tile: some pixels of a row of an image, for `lanes` channels of a vector."""

    batch: Index
    row: Index
    pixels: Tile
    vector: Index
    lanes: int


@dataclass(frozen=True)
class _Nest:
    """The kernel to write.

    Attributes
    ----------
    shape : TiledGroups
        Extents of the convolution and of the register tile.
    image : tirx.Var
        The unpadded input, ``(batch, height, width, channels)``.
    weight : tirx.Var
        ``(vectors, kernel height, kernel width, turns, lanes)``.
    epilogue : Epilogue
        Writes the output, ``(batch, height, width, channels)``.
    """

    shape: TiledGroups
    image: tirx.Var
    weight: tirx.Var
    epilogue: Epilogue

    def write(self) -> None:
        """Emit the whole kernel."""
        shape = self.shape
        height = shape.out_size[0]
        full, rest = divmod(shape.out_channels, shape.lanes)
        count = full + (rest > 0)
        per_chunk = even_chunk(height, max(1, height * count // _LEAST_TASKS), count)
        chunks = -(-height // per_chunk)
        for task in parallel("task", shape.batch * chunks * count, work=shape.work):
            vector, chunk = task % count, task // count
            batch, first = chunk // chunks, chunk % chunks * per_chunk
            rows = per_chunk if height % per_chunk == 0 else tirx.min(per_chunk, height - first)
            if not rest:
                self._write_rows(batch, first, rows, vector, shape.lanes)
            elif not full:
                self._write_rows(batch, first, rows, 0, rest)
            else:
                with T.If(vector == full):
                    with T.Then():
                        self._write_rows(batch, first, rows, full, rest)
                    with T.Else():
                        self._write_rows(batch, first, rows, vector, shape.lanes)

    def _write_rows(
        self, batch: Index, first: Index, rows: Index, vector: Index, lanes: int
    ) -> None:
        """Emit tiles that go down some `rows`, so that they find shared inputs in the L1 cache."""
        for tile, tiles in tiles_of_row(self.shape, self.shape.pixels):
            for i in serial("tile", tiles):
                moved = replace(tile, start=tile.start + i * tile.pixels)
                for row in serial("row", rows):
                    self._write_tile(_Place(batch, first + row, moved, vector, lanes))

    def _write_tile(self, place: _Place) -> None:
        """Compute a tile, and add a few turns of all inputs at a time."""
        shape = self.shape
        sums = BlockedSums.allocate([place.lanes] * place.pixels.pixels, is_single=True)
        turned = allocate("turned", place.lanes)
        first, count = kernel_rows(shape, place.row)
        for turn in range(0, shape.group_inputs, _TURNS_AT_A_TIME):
            turns = range(turn, min(turn + _TURNS_AT_A_TIME, shape.group_inputs))
            for kernel_row in serial("kernel_row", count, start=first):
                self._add_turns(sums, turned, place, kernel_row, turns)
        for pixel in range(place.pixels.pixels):
            for lane in vectors("lane", 0, place.lanes, place.lanes):
                channel = place.vector * shape.lanes + lane
                at = [place.batch, place.row, place.pixels.start + pixel, channel]
                self.epilogue.store(at, sums.element(pixel, lane))

    def _add_turns(
        self,
        sums: BlockedSums,
        turned: tirx.Var,
        place: _Place,
        kernel_row: Index,
        turns: range,
    ) -> None:
        """Add some turns of the inputs under one row of the kernel to all pixels that need them.

        `turned` has room for a vector.
        """
        shape = self.shape
        y = place.row * shape.strides[0] - shape.padding[0] + kernel_row * shape.dilation[0]
        start = place.pixels.start * shape.strides[1] - shape.padding[1]
        lanes = Ramp(0, 1, place.lanes)
        channels = Ramp(place.vector * shape.lanes, 1, place.lanes)
        for column, readers in self._readers(place.pixels).items():
            value = BufferLoad(self.image, [place.batch, y, start + column, channels])
            for turn in turns:
                T.buffer_store(turned, _turned(value, turn, place.lanes), [lanes])
                for pixel, kernel_column in readers:
                    at = [place.vector, kernel_row, kernel_column, turn, lanes]
                    weight = widened(BufferLoad(self.weight, at), place.lanes)
                    sums.add(pixel, BufferLoad(turned, [lanes]) * weight)

    def _readers(self, tile: Tile) -> dict[int, list[tuple[int, int]]]:
        """Return who needs each column of the input: pairs of a pixel and a kernel column.

        Columns count from the first that the tile's first pixel reads, which may be padding.
        """
        shape = self.shape
        readers: dict[int, list[tuple[int, int]]] = {}
        for kernel_column in range(shape.kernel[1]):
            inside = (
                pixels_inside(shape, tile, kernel_column) if tile.at_border else (0, tile.pixels)
            )
            for pixel in range(*inside):
                column = pixel * shape.strides[1] + kernel_column * shape.dilation[1]
                readers.setdefault(column, []).append((pixel, kernel_column))
        return dict(sorted(readers.items()))


def _turned(value: tirx.Expr, turn: int, lanes: int) -> tirx.Expr:
    """Return `value` with lane ``i ^ turn`` in place of lane i."""
    return Shuffle([value], [lane ^ turn for lane in range(lanes)]) if turn else value
