"""Tiles of a row, and the part of a sliding window that is inside the image."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from hios_tvm.passes.cpu_rules.loop_nest import Index
from hios_tvm.schema.kernel_shapes import Window


@dataclass(frozen=True)
class Tile:
    """`pixels` of a row from `start`, which is an int if the tile is `at_border`."""

    start: Index
    pixels: int
    at_border: bool


MOST_AT_BORDER = 1 << 15
"""Kernel columns of border pixels that a row may have: each has code of its own."""


def has_short_borders(window: Window) -> bool:
    """Whether tiles at the borders of a row can be written out.

    Padding can be as wide as a model says. What is wider is left to general loops.
    """
    pixels = min(
        window.out_size[1],
        sum(
            -(-missing[1] // window.strides[1])
            for missing in (window.padding, window.padding_after)
        ),
    )
    return pixels * window.kernel[1] <= MOST_AT_BORDER and window.kernel[0] <= MOST_AT_BORDER


def tiles_of_row(window: Window, most: int) -> list[tuple[Tile, int]]:
    """Split a row into tiles of `most` pixels; equal inner ones are one entry, with their count.

    >>> sizes = dict(in_size=(9, 9), out_size=(9, 9), kernel=(3, 3), padding=(1, 1))
    >>> window = Window(batch=1, **sizes, strides=(1, 1), dilation=(1, 1))
    >>> [(t.start, t.pixels, t.at_border, count) for t, count in tiles_of_row(window, 2)]
    [(0, 2, True, 1), (2, 2, False, 3), (8, 1, True, 1)]
    """
    kernel, stride, dilation = window.kernel[1], window.strides[1], window.dilation[1]
    before, width = window.padding[1], window.in_size[1]
    inner_first = -(-before // stride)
    inner_end = (width - 1 + before - (kernel - 1) * dilation) // stride + 1
    tiles: list[tuple[Tile, int]] = []
    for start in range(0, window.out_size[1], most):
        pixels = min(most, window.out_size[1] - start)
        at_border = start < inner_first or start + pixels > inner_end
        if not at_border and tiles and not tiles[-1][0].at_border:
            tile, count = tiles[-1]
            if tile.pixels == pixels:
                tiles[-1] = (tile, count + 1)
                continue
        tiles.append((Tile(start, pixels, at_border), 1))
    return tiles


def pixels_inside(window: Window, tile: Tile, kernel_column: int) -> tuple[int, int]:
    """Return the range of a border tile's pixels whose input at `kernel_column` exists."""
    offset = kernel_column * window.dilation[1] - window.padding[1]
    inside = [
        pixel
        for pixel in range(tile.pixels)
        if 0 <= (int(tile.start) + pixel) * window.strides[1] + offset < window.in_size[1]
    ]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def kernel_rows(window: Window, row: Index) -> tuple[Index, Index]:
    """Return the first kernel row that lies in the image, and how many do."""
    kernel, dilation = window.kernel[0], window.dilation[0]
    if window.padding[0] == 0 and window.padding_after[0] == 0:
        return 0, kernel
    top = row * window.strides[0] - window.padding[0]
    if isinstance(top, int):
        inside = [k for k in range(kernel) if 0 <= top + k * dilation < window.in_size[0]]
        return (inside[0], len(inside)) if inside else (0, 0)
    first = tirx.max(0, tirx.floordiv(dilation - 1 - top, dilation))
    end = tirx.min(kernel, tirx.floordiv(window.in_size[0] - top + dilation - 1, dilation))
    return first, tirx.max(end - first, 0)
