"""The rule for convolutions by Winograd's method.

Before, for tiles of 2x2 outputs, which read 4x4 inputs and so have 16 points:

    for tile, c: inputs[:, tile, c] = B^T image[4x4 pixels of tile, c] B       # 16 points
    for point, tile, o, c: products[point, tile, o] += inputs[point, tile, c] * weights[point, c, o]
    for tile, o: output[2x2 pixels of tile, o] = epilogue(A^T products[:, tile, o] A)

After, tiles of the image are taken in chunks whose transforms fit the cache:

    parallel for chunk of tiles
        for tile, for vector of input channels c: inputs[:, tile, c] = ...
        for block of output channels o
            for point, for register tile: products[point, tiles, o] = sum over c of inputs * weights
            for tile, for vector of o: output[2x2 pixels of tile, o] = epilogue(...)

Small images have too few chunks for that: their tiles are transformed first, and threads share the
blocks of channels. The products are matrix products in register tiles, and take most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Broadcast, BufferLoad, Ramp, Stmt

from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS, BlockedSums
from hios_tvm.passes.cpu_rules.convolution_kernel import ConvolutionKernel, ConvolutionRule
from hios_tvm.passes.cpu_rules.epilogue import Epilogue
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    allocate,
    as_index,
    emitted,
    even_chunk,
    parallel,
    serial,
    vectors,
    when,
)
from hios_tvm.passes.cpu_rules.transformed_weights import TransformedWeights
from hios_tvm.passes.cpu_rules.weight_stream import WeightStream
from hios_tvm.passes.cpu_rules.winograd_matrices import TILE
from hios_tvm.passes.cpu_rules.winograd_shape import WinogradShape
from hios_tvm.passes.cpu_rules.winograd_transforms import (
    Vectors,
    transformed_inputs,
    transformed_outputs,
)
from hios_tvm.passes.schedule_kernels import Scheduled

_CACHE_BYTES = 384 * 1024
"""Transformed inputs and products of a chunk, which share the L2 cache with the weights."""

_FEW_CHUNKS = 4
"""Where there are fewer chunks, threads share the blocks of channels instead."""

_WIDTH = TILE + 2
"""Inputs of a tile in each dimension."""


class Winograd(ConvolutionRule):
    """Write out convolutions that are less work this way."""

    def write(self, kernel: ConvolutionKernel) -> Scheduled | None:
        shape = WinogradShape.of(kernel.shape, self.lanes, self.registers)
        if shape is None:
            return None
        weight = kernel.packed_weight(shape.packed_shape, "float32")
        body = _Nest(shape, kernel.image, weight, kernel.epilogue).body()
        return kernel.scheduled(body, weight, TransformedWeights(shape.block, kernel.weight_dtype))


@dataclass(frozen=True)
class _Nest:
    """The kernel to write.

    Attributes
    ----------
    shape : WinogradShape
        Extents of the convolution, and of a register tile of some tiles of the image times a block
        of output channels.
    image : tirx.Var
        The unpadded input, ``(batch, height, width, channels)``.
    weight : tirx.Var
        Transformed weights, ``(blocks, points, input channels, channels of a block)``.
    epilogue : Epilogue
        Writes the output, ``(batch, height, width, channels)``.
    """

    shape: WinogradShape
    image: tirx.Var
    weight: tirx.Var
    epilogue: Epilogue

    def body(self) -> Stmt:
        """Return the whole kernel."""
        return emitted(self._write)

    def _write(self) -> None:
        shape = self.shape
        tile_bytes = shape.points * (shape.in_channels + shape.block) * 4
        most = _CACHE_BYTES // (shape.pixels * tile_bytes)
        full = self._tiles // shape.pixels
        per_chunk = even_chunk(full, most, 1)
        if full < _FEW_CHUNKS * per_chunk:
            self._write_blocks()
        else:
            self._write_chunks(per_chunk)

    @property
    def _tiles(self) -> int:
        """Tiles of all images."""
        return self.shape.batch * self.shape.tiles[0] * self.shape.tiles[1]

    def _write_chunks(self, per_chunk: int) -> None:
        """Let threads share chunks of `per_chunk` register tiles; the last has the rest, too."""
        shape = self.shape
        full, rest = divmod(self._tiles, shape.pixels)
        chunks = -(-full // per_chunk)
        for chunk in parallel("chunk", chunks, work=shape.products):
            first = chunk * (per_chunk * shape.pixels)
            count: Index = per_chunk
            if full % per_chunk:
                count = tirx.min(per_chunk, full - chunk * per_chunk)
            run = _Run(first, count, chunk == chunks - 1)
            room = per_chunk * shape.pixels + rest
            inputs = allocate("inputs", shape.points, room * shape.in_channels)
            for tile in serial("tile", self._tiles_of(run)):
                self._write_inputs(inputs, first + tile, tile)
            for block in serial("block", shape.blocks):
                self._write_block(inputs, room, run, block)

    def _write_blocks(self) -> None:
        """Let threads share the transforms of all tiles first, then the blocks of channels."""
        shape = self.shape
        inputs = allocate("inputs", shape.points, self._tiles * shape.in_channels)
        for tile in parallel("tile", self._tiles, work=shape.products):
            self._write_inputs(inputs, tile, tile)
        run = _Run(0, self._tiles // shape.pixels, True)
        for block in parallel("block", shape.blocks, work=shape.products):
            self._write_block(inputs, self._tiles, run, block)

    def _tiles_of(self, run: _Run) -> Index:
        """Return the number of tiles of a run."""
        tiles = run.count * self.shape.pixels
        rest = self._tiles % self.shape.pixels
        if not rest:
            return tiles
        return tiles + (rest if run.is_last is True else _only_if(run.is_last, rest))

    def _write_block(self, inputs: tirx.Var, room: int, run: _Run, block: Index) -> None:
        """Compute a block of output channels for the tiles of a run.

        `inputs` are ``(points, room * input channels)``, the tiles of the run first.
        """
        shape = self.shape
        full, rest = divmod(self._tiles, shape.pixels)
        products = allocate("products", shape.points, room * shape.block)
        for point in serial("point", shape.points):
            if full:
                for i in serial("tiles", run.count):
                    tiles = _Tiles(i * shape.pixels, shape.pixels, i)
                    self._write_products(inputs, products, point, tiles, block)
            if rest:
                with when(run.is_last):
                    tiles = _Tiles(run.count * shape.pixels, rest, run.count)
                    self._write_products(inputs, products, point, tiles, block)
        for tile in serial("tile", self._tiles_of(run)):
            self._write_outputs(products, run.first + tile, tile, block)

    def _corner(self, tile: Index) -> tuple[Index, Index, Index]:
        """Return the image of a tile, and the row and column of its first output."""
        rows, columns = self.shape.tiles
        image = tile // (rows * columns) if self.shape.batch > 1 else 0
        row = tile // columns
        if self.shape.batch > 1:
            row = row % rows
        return image, row * TILE, tile % columns * TILE

    def _write_inputs(self, inputs: tirx.Var, tile: Index, place: Index) -> None:
        """Transform the pixels of a tile, for all channels, to `place` of `inputs`."""
        shape = self.shape
        image, row, column = self._corner(tile)
        row, column = row - shape.padding[0], column - shape.padding[1]
        is_inside = tirx.all(
            row >= 0,
            row + _WIDTH <= shape.in_size[0],
            column >= 0,
            column + _WIDTH <= shape.in_size[1],
        )

        def load(i: int, j: int, channel: Index) -> tirx.Expr:
            at = [image, row + i, column + j, Ramp(channel, 1, shape.lanes)]
            return BufferLoad(self.image, at)

        with T.If(is_inside):
            with T.Then():
                for vector in serial("vector", shape.in_channels // shape.lanes):
                    channel = vector * shape.lanes
                    self._write_transform(inputs, place, channel, partial(load, channel=channel))
            with T.Else():
                for vector in serial("vector", shape.in_channels // shape.lanes):
                    channel = vector * shape.lanes
                    pixels = self._pixels_or_zeros(row, column, partial(load, channel=channel))
                    self._write_transform(inputs, place, channel, pixels.at)

    def _pixels_or_zeros(
        self, row: Index, column: Index, load: Callable[[int, int], tirx.Expr]
    ) -> Vectors:
        """Copy the pixels of a tile at the border, which is zero outside of the image."""
        shape = self.shape
        pixels = Vectors.allocate("pixels", _WIDTH, shape.lanes)
        zero = Broadcast(tirx.const(0.0, "float32"), shape.lanes)
        for i in range(_WIDTH):
            with T.If(_inside(row + i, shape.in_size[0])):
                with T.Then():
                    for j in range(_WIDTH):
                        with T.If(_inside(column + j, shape.in_size[1])):
                            with T.Then():
                                pixels.store(i, j, load(i, j))
                            with T.Else():
                                pixels.store(i, j, zero)
                with T.Else():
                    for j in range(_WIDTH):
                        pixels.store(i, j, zero)
        return pixels

    def _write_transform(
        self,
        inputs: tirx.Var,
        place: Index,
        channel: Index,
        pixel: Callable[[int, int], tirx.Expr],
    ) -> None:
        """Write ``B^T pixels B`` for a vector of channels: first along rows, then along columns."""
        shape = self.shape
        rows = Vectors.allocate("rows", _WIDTH, shape.lanes)

        for i in range(_WIDTH):
            values = transformed_inputs([pixel(i, j) for j in range(_WIDTH)], shape.lanes)
            for j, value in enumerate(values):
                rows.store(i, j, value)
        for j in range(_WIDTH):
            values = transformed_inputs([rows.at(i, j) for i in range(_WIDTH)], shape.lanes)
            for i, value in enumerate(values):
                lanes = Ramp(place * shape.in_channels + channel, 1, shape.lanes)
                T.buffer_store(inputs, value, [i * _WIDTH + j, lanes])

    def _write_products(
        self,
        inputs: tirx.Var,
        products: tirx.Var,
        point: Index,
        tiles: _Tiles,
        block: Index,
    ) -> None:
        """Multiply the inputs of `tiles` with the weights of a block, in registers."""
        shape = self.shape
        places = [(t, v) for t in range(tiles.count) for v in range(shape.vectors)]
        sums = BlockedSums.allocate(
            [shape.lanes] * len(places), is_single=shape.in_channels <= MOST_TERMS
        )
        stream = WeightStream(
            self.weight, shape.blocks * shape.points, max(1, self._tiles // shape.pixels)
        )
        part = tirx.min(block * shape.points + point + 1, stream.parts - 1)
        following = part // shape.points, part % shape.points
        for channel in sums.loop("channel", shape.in_channels):
            for i, (t, v) in enumerate(places):
                factor = BufferLoad(
                    inputs, [point, (tiles.first + t) * shape.in_channels + channel]
                )
                lanes = Ramp(v * shape.lanes, 1, shape.lanes)
                weight = BufferLoad(self.weight, [block, point, channel, lanes])
                sums.add(i, Broadcast(factor, shape.lanes) * weight)
            stream.prefetch([*following, channel], tiles.number)
        for i, (t, v) in enumerate(places):
            start = (tiles.first + t) * shape.block + v * shape.lanes
            T.buffer_store(products, sums.total(i), [point, Ramp(start, 1, shape.lanes)])

    def _write_outputs(self, products: tirx.Var, tile: Index, place: Index, block: Index) -> None:
        """Transform the products at `place` to the outputs of a tile, for a block of channels."""
        shape = self.shape
        rest = shape.out_channels % shape.block
        if not rest:
            self._write_channels(products, tile, place, block, shape.block)
        elif shape.blocks == 1:
            self._write_channels(products, tile, place, block, rest)
        else:
            with T.If(block == shape.blocks - 1):
                with T.Then():
                    self._write_channels(products, tile, place, block, rest)
                with T.Else():
                    self._write_channels(products, tile, place, block, shape.block)

    def _write_channels(
        self, products: tirx.Var, tile: Index, place: Index, block: Index, channels: int
    ) -> None:
        """Write the first `channels` channels of a block, a vector at a time."""
        shape = self.shape
        image, row, column = self._corner(tile)
        for start in range(0, channels, shape.lanes):
            results = self._transformed_products(products, place * shape.block + start)
            for a in range(TILE):
                for b in range(TILE):
                    with when(self._is_output(row + a, column + b)):
                        count = min(shape.lanes, channels - start)
                        for channel in vectors("v", 0, count, shape.lanes):
                            at = [image, row + a, column + b, block * shape.block + start + channel]
                            self.epilogue.store(at, results.lane_at(a, b, channel))

    def _transformed_products(self, products: tirx.Var, start: Index) -> Vectors:
        """Compute ``A^T products[:, start : start + lanes] A``: along columns, then along rows."""
        lanes = self.shape.lanes
        columns = Vectors.allocate("columns", _WIDTH, lanes, rows=TILE)
        results = Vectors.allocate("results", TILE, lanes)

        for j in range(_WIDTH):
            points = [
                BufferLoad(products, [i * _WIDTH + j, Ramp(start, 1, lanes)]) for i in range(_WIDTH)
            ]
            for a, value in enumerate(transformed_outputs(points, lanes)):
                columns.store(a, j, value)
        for a in range(TILE):
            values = [columns.at(a, j) for j in range(_WIDTH)]
            for b, value in enumerate(transformed_outputs(values, lanes)):
                results.store(a, b, value)
        return results

    def _is_output(self, row: Index, column: Index) -> tirx.Expr | bool:
        """Whether the image has this output; sizes need not be multiples of a tile's."""
        height, width = self.shape.out_size
        conditions = []
        if height % TILE:
            conditions.append(row < height)
        if width % TILE:
            conditions.append(column < width)
        return tirx.all(*conditions) if conditions else True


@dataclass(frozen=True)
class _Run:
    """`count` register tiles from tile `first` of all; the rest of the tiles too if `is_last`."""

    first: Index
    count: Index
    is_last: tirx.Expr | bool


@dataclass(frozen=True)
class _Tiles:
    """A register tile: `count` tiles of the image from the `first` one of a run."""

    first: Index
    count: int
    number: Index


def _only_if(condition: tirx.Expr, value: int) -> tirx.Expr:
    return tirx.if_then_else(condition, as_index(value), as_index(0))


def _inside(index: Index, extent: int) -> tirx.Expr:
    return tirx.all(index >= 0, index < extent)
