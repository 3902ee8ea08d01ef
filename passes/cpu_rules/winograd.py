"""The rule for convolutions by Winograd's method.

Tiles of the image are taken in chunks whose transforms fit the cache:

    parallel for chunk of tiles
        for tile: inputs[points][tile] = transform of its pixels
        for block of channels
            for point: products[point][tiles] = inputs[point][tiles] * weights[block][point]
            for tile: output = epilogue(transform of products[points][tile])

Small images have too few chunks for that: their tiles are transformed first, and threads share the
blocks of channels. Transforms work on vectors of channels; the products are matrix products in
register tiles, and take most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import AllocBuffer, Broadcast, BufferLoad, BufferStore, IfThenElse, Ramp, Stmt

from hios_tvm.passes.cpu_rules.blocked_sums import MOST_TERMS, BlockedSums
from hios_tvm.passes.cpu_rules.convolution_kernel import ConvolutionKernel
from hios_tvm.passes.cpu_rules.epilogue import Epilogue
from hios_tvm.passes.cpu_rules.loop_nest import (
    Index,
    as_index,
    even_chunk,
    loop,
    parallel_loop,
    sequence,
    vector_loops,
)
from hios_tvm.passes.cpu_rules.winograd_matrices import MATRICES, TILE, Matrix
from hios_tvm.passes.cpu_rules.winograd_shape import TransformedWeights, WinogradShape
from hios_tvm.passes.schedule_kernels import Scheduled

__all__ = ["Winograd"]

_CACHE_BYTES = 384 * 1024
"""Transformed inputs and products of a chunk, which lie in the L2 cache beside weights."""

_FEW_CHUNKS = 4
"""Where there are fewer chunks, threads share the blocks of channels instead."""


class Winograd:
    """Write out convolutions that are less work this way, for vectors of `lanes` floats.

    `registers` is how many vector registers the CPU has.
    """

    def __init__(self, lanes: int, registers: int) -> None:
        self.lanes = lanes
        self.registers = registers

    def apply(self, func: tirx.PrimFunc) -> Scheduled | None:
        kernel = ConvolutionKernel.of(func)
        if kernel is None:
            return None
        shape = WinogradShape.of(kernel.shape, self.lanes, self.registers)
        if shape is None:
            return None
        weight = kernel.packed_weight(shape.packed_shape)
        body = _Nest(shape, kernel.image, weight, kernel.epilogue).body()
        return kernel.scheduled(body, weight, TransformedWeights(shape.block))


@dataclass(frozen=True)
class _Nest:
    shape: WinogradShape
    image: tirx.Var
    weight: tirx.Var
    epilogue: Epilogue

    def body(self) -> Stmt:
        """Return the whole kernel."""
        shape = self.shape
        full, _ = divmod(shape.batch * shape.tiles[0] * shape.tiles[1], shape.pixels)
        tile_bytes = shape.points * (shape.in_channels + shape.block) * 4
        most = _CACHE_BYTES // (shape.pixels * tile_bytes)
        per_chunk = even_chunk(full, most, 1)
        if full < _FEW_CHUNKS * per_chunk:
            return self._by_blocks()
        return self._by_chunks(per_chunk)

    def _by_chunks(self, per_chunk: int) -> Stmt:
        """Let threads share chunks of `per_chunk` register tiles; the last has the rest, too."""
        shape = self.shape
        full, rest = divmod(shape.batch * shape.tiles[0] * shape.tiles[1], shape.pixels)
        chunks = -(-full // per_chunk)
        room = per_chunk * shape.pixels + rest

        def task(chunk: Index) -> Stmt:
            first = chunk * (per_chunk * shape.pixels)
            count: Index = per_chunk
            if full % per_chunk:
                count = tirx.min(per_chunk, full - chunk * per_chunk)
            tiles = count * shape.pixels
            if rest:
                tiles += _only_if(chunk == chunks - 1, rest)
            inputs = self._workspace("inputs", room * shape.in_channels)

            def block(b: Index) -> Stmt:
                return self._block(inputs, first, count, chunk == chunks - 1, b)

            return sequence(
                [
                    AllocBuffer(inputs),
                    loop("tile", 0, tiles, lambda t: self._input(inputs, first + t, t)),
                    loop("block", 0, shape.blocks, block),
                ]
            )

        return parallel_loop("chunk", chunks, task, work=shape.products)

    def _by_blocks(self) -> Stmt:
        """Let threads share the transforms of all tiles first, then the blocks of channels."""
        shape = self.shape
        tiles = shape.batch * shape.tiles[0] * shape.tiles[1]
        inputs = self._workspace("inputs", tiles * shape.in_channels)

        def block(b: Index) -> Stmt:
            return self._block(inputs, 0, tiles // shape.pixels, True, b)

        return sequence(
            [
                AllocBuffer(inputs),
                parallel_loop(
                    "tile", tiles, lambda t: self._input(inputs, t, t), work=shape.products
                ),
                parallel_loop("block", shape.blocks, block, work=shape.products),
            ]
        )

    def _block(
        self,
        inputs: tirx.Var,
        first: Index,
        count: Index,
        is_last: tirx.Expr | bool,
        block: Index,
    ) -> Stmt:
        """Compute a block of channels for `count` register tiles, the rest too if they are last.

        The first of them is tile `first` of all.
        """
        shape = self.shape
        full, rest = divmod(shape.batch * shape.tiles[0] * shape.tiles[1], shape.pixels)
        room = int(inputs.shape[1]) // shape.in_channels
        products = self._workspace("products", room * shape.block)

        def point(p: Index) -> Stmt:
            def register_tile(t: Index) -> Stmt:
                return self._product(inputs, products, p, t * shape.pixels, shape.pixels, block)

            statements = [loop("tiles", 0, count, register_tile)] if full else []
            if rest:
                last = self._product(inputs, products, p, count * shape.pixels, rest, block)
                statements.append(last if is_last is True else IfThenElse(is_last, last, None))
            return sequence(statements)

        tiles = count * shape.pixels
        if rest:
            tiles += rest if is_last is True else _only_if(is_last, rest)
        return sequence(
            [
                AllocBuffer(products),
                loop("point", 0, shape.points, point),
                loop("tile", 0, tiles, lambda t: self._output(products, first + t, t, block)),
            ]
        )

    def _workspace(self, name: str, elements: int) -> tirx.Var:
        """Return a buffer with `elements` for each point."""
        return tirx.decl_buffer((self.shape.points, elements), "float32", name, layout=None)

    def _corner(self, tile: Index) -> tuple[Index, Index, Index]:
        """Return the image of a tile, and the row and column of its first output."""
        rows, columns = self.shape.tiles
        image = tile // (rows * columns) if self.shape.batch > 1 else 0
        row = tile // columns
        if self.shape.batch > 1:
            row = row % rows
        return image, row * TILE, tile % columns * TILE

    def _input(self, inputs: tirx.Var, tile: Index, place: Index) -> Stmt:
        """Transform the pixels of a tile, for all channels."""
        shape = self.shape
        width, lanes = TILE + 2, shape.lanes
        image, row, column = self._corner(tile)
        row, column = row - shape.padding[0], column - shape.padding[1]
        matrix = MATRICES.half_inputs
        zero = Broadcast(tirx.const(0.0, "float32"), lanes)

        def transformed(values: Sequence[tirx.Expr]) -> list[tirx.Expr]:
            return _sums_and_differences(_product_of(matrix, values, lanes))

        def transform(channel: Index, pixel: Callable[[int, int], tirx.Expr]) -> list[Stmt]:
            rows = _Vectors("rows", width * width, lanes)
            statements: list[Stmt] = [AllocBuffer(rows.buffer)]
            for i in range(width):
                values = transformed([pixel(i, j) for j in range(width)])
                statements += [rows.store(i * width + j, value) for j, value in enumerate(values)]
            for j in range(width):
                values = transformed([rows.load(i * width + j) for i in range(width)])
                for i, value in enumerate(values):
                    at = [i * width + j, Ramp(place * shape.in_channels + channel, 1, lanes)]
                    statements.append(BufferStore(inputs, value, at))
            return statements

        def load(i: int, j: int, channel: Index) -> tirx.Expr:
            at = [image, row + i, column + j, Ramp(channel, 1, lanes)]
            return BufferLoad(self.image, at)

        def inner(vector: Index) -> Stmt:
            channel = vector * lanes
            return sequence(transform(channel, lambda i, j: load(i, j, channel)))

        def border(vector: Index) -> Stmt:
            channel = vector * lanes
            pixels = _Vectors("pixels", width * width, lanes)
            statements: list[Stmt] = [AllocBuffer(pixels.buffer)]
            for i in range(width):
                empty = [pixels.store(i * width + j, zero) for j in range(width)]
                filled = [
                    IfThenElse(
                        _inside(column + j, shape.in_size[1]),
                        pixels.store(i * width + j, load(i, j, channel)),
                        empty[j],
                    )
                    for j in range(width)
                ]
                is_row = _inside(row + i, shape.in_size[0])
                statements.append(IfThenElse(is_row, sequence(filled), sequence(empty)))
            moved = transform(channel, lambda i, j: pixels.load(i * width + j))
            return sequence([*statements, *moved])

        vectors = shape.in_channels // lanes
        whole = tirx.all(
            row >= 0,
            row + width <= shape.in_size[0],
            column >= 0,
            column + width <= shape.in_size[1],
        )
        return IfThenElse(
            whole, loop("vector", 0, vectors, inner), loop("vector", 0, vectors, border)
        )

    def _product(
        self,
        inputs: tirx.Var,
        products: tirx.Var,
        point: Index,
        first: Index,
        tiles: int,
        block: Index,
    ) -> Stmt:
        """Multiply the inputs of `tiles` tiles with the weights of a block, in registers."""
        shape = self.shape
        places = [(t, v) for t in range(tiles) for v in range(shape.vectors)]
        accumulators = BlockedSums.of(
            [(i * shape.lanes, shape.lanes) for i in range(len(places))],
            is_single=shape.in_channels <= MOST_TERMS,
        )
        sums, totals = accumulators.sums, accumulators.totals

        def vector(i: int) -> list[tirx.Expr]:
            return [Ramp(i * shape.lanes, 1, shape.lanes)]

        def step(channel: Index) -> Stmt:
            statements = []
            for i, (t, v) in enumerate(places):
                at = (first + t) * shape.in_channels + channel
                factor = BufferLoad(inputs, [point, at])
                lanes = Ramp(v * shape.lanes, 1, shape.lanes)
                weight = BufferLoad(self.weight, [block, point, channel, lanes])
                product = Broadcast(factor, shape.lanes) * weight
                statements.append(
                    BufferStore(sums, BufferLoad(sums, vector(i)) + product, vector(i))
                )
            return sequence(statements)

        def store(i: int, t: int, v: int) -> Stmt:
            place = (first + t) * shape.block + v * shape.lanes
            result = BufferLoad(totals, vector(i))
            return BufferStore(products, result, [point, Ramp(place, 1, shape.lanes)])

        terms = accumulators.loop("channel", shape.in_channels, step)
        stores = [store(i, t, v) for i, (t, v) in enumerate(places)]
        return sequence([accumulators.around(terms), *stores])

    def _output(self, products: tirx.Var, tile: Index, place: Index, block: Index) -> Stmt:
        """Transform the products of a tile, for all channels of a block."""
        shape = self.shape
        rest = shape.out_channels % shape.block
        if not rest:
            return self._output_channels(products, tile, place, block, shape.block)
        narrow = self._output_channels(products, tile, place, block, rest)
        if shape.blocks == 1:
            return narrow
        wide = self._output_channels(products, tile, place, block, shape.block)
        return IfThenElse(block == shape.blocks - 1, narrow, wide)

    def _output_channels(
        self, products: tirx.Var, tile: Index, place: Index, block: Index, channels: int
    ) -> Stmt:
        shape = self.shape
        lanes = shape.lanes
        statements = []
        for start in range(0, channels, lanes):
            count = min(lanes, channels - start)
            statements.append(self._output_vector(products, tile, place, block, start, count))
        return sequence(statements)

    def _output_vector(
        self,
        products: tirx.Var,
        tile: Index,
        place: Index,
        block: Index,
        start: int,
        count: int,
    ) -> Stmt:
        shape = self.shape
        width, lanes, size = TILE + 2, shape.lanes, TILE
        matrix = MATRICES.half_outputs
        image, row, column = self._corner(tile)

        def transformed(values: Sequence[tirx.Expr]) -> list[tirx.Expr]:
            return _product_of(matrix, _sums_and_differences(values), lanes)

        columns = _Vectors("columns", size * width, lanes)
        results = _Vectors("results", size * size, lanes)
        statements: list[Stmt] = [AllocBuffer(columns.buffer), AllocBuffer(results.buffer)]
        for j in range(width):
            loads = [
                BufferLoad(products, [i * width + j, Ramp(place * shape.block + start, 1, lanes)])
                for i in range(width)
            ]
            for a, value in enumerate(transformed(loads)):
                statements.append(columns.store(a * width + j, value))
        for a in range(size):
            values = transformed([columns.load(a * width + j) for j in range(width)])
            statements += [results.store(a * size + b, value) for b, value in enumerate(values)]

        def finish(a: Index, b: Index) -> Stmt:
            def element(channel: Index) -> Stmt:
                result = BufferLoad(results.buffer, [(a * size + b) * lanes + channel])
                at = [image, row + a, column + b, block * shape.block + start + channel]
                return self.epilogue.store(at, result)

            return vector_loops("v", 0, count, lanes, element)

        def checked(a: Index, b: Index) -> Stmt:
            conditions = []
            if shape.out_size[0] % size:
                conditions.append(row + a < shape.out_size[0])
            if shape.out_size[1] % size:
                conditions.append(column + b < shape.out_size[1])
            return (
                IfThenElse(tirx.all(*conditions), finish(a, b), None)
                if conditions
                else finish(a, b)
            )

        statements += [checked(a, b) for a in range(size) for b in range(size)]
        return sequence(statements)


class _Vectors:
    """`count` vectors in registers."""

    def __init__(self, name: str, count: int, lanes: int) -> None:
        self.lanes = lanes
        self.buffer = tirx.decl_buffer(
            (count * lanes,), "float32", name, scope="local", layout=None
        )

    def load(self, i: int) -> tirx.Expr:
        return BufferLoad(self.buffer, [Ramp(i * self.lanes, 1, self.lanes)])

    def store(self, i: int, value: tirx.Expr) -> Stmt:
        return BufferStore(self.buffer, value, [Ramp(i * self.lanes, 1, self.lanes)])


def _only_if(condition: tirx.Expr, value: int) -> tirx.Expr:
    return tirx.if_then_else(condition, as_index(value), as_index(0))


def _inside(index: Index, extent: int) -> tirx.Expr:
    return tirx.all(index >= 0, index < extent)


def _sums_and_differences(values: Sequence[tirx.Expr]) -> list[tirx.Expr]:
    """Replace each pair of values between the first and the last by its sum and difference."""
    results = list(values)
    for i in range(1, len(values) - 1, 2):
        results[i : i + 2] = [values[i] + values[i + 1], values[i] - values[i + 1]]
    return results


def _product_of(matrix: Matrix, values: Sequence[tirx.Expr], lanes: int) -> list[tirx.Expr]:
    """Return a constant matrix times a column of vectors."""
    return [_weighted_sum(row, values, lanes) for row in matrix]


def _weighted_sum(row: Sequence[float], values: Sequence[tirx.Expr], lanes: int) -> tirx.Expr:
    terms = [(factor, value) for factor, value in zip(row, values, strict=True) if factor]
    terms.sort(key=lambda term: term[0] < 0)  # begin with one that is added
    total: tirx.Expr | None = None
    for factor, value in terms:
        if abs(factor) != 1:
            value = Broadcast(tirx.const(abs(float(factor)), "float32"), lanes) * value
        if total is None:
            total = value if factor > 0 else Broadcast(tirx.const(-1.0, "float32"), lanes) * value
        else:
            total = total + value if factor > 0 else total - value
    assert total is not None  # no row of these matrices is zero
    return total
