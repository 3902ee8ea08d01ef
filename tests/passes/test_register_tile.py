from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hios_tvm.passes.cpu_rules.loop_nest import FEW_TASKS
from hios_tvm.passes.cpu_rules.register_tile import choose_tile

counts = st.integers(1, 3000)


@given(counts, counts, counts, st.sampled_from([(16, 32), (8, 16), (4, 16), (4, 32)]))
def test_tiles_fit_into_registers(
    pixels: int, channels: int, reduction: int, target: tuple[int, int]
) -> None:
    lanes, registers = target
    tile = choose_tile(pixels, channels, reduction, lanes=lanes, registers=registers)
    assert 1 <= tile.pixels <= pixels
    assert (tile.vectors - 1) * lanes < channels
    assert tile.pixels * tile.vectors + tile.vectors < registers


@pytest.mark.parametrize("pixels", [7, 8, 14, 17, 28, 35, 56, 71, 73, 147, 149, 3136])
@pytest.mark.parametrize("channels", [32, 48, 64, 80, 96, 192, 320, 384, 448, 1000])
def test_little_of_a_padded_tile_is_wasted(pixels: int, channels: int) -> None:
    tile = choose_tile(pixels, channels, 576, rows=32, lanes=16, registers=32, padded=True)
    computed = -(-channels // tile.block) * tile.block
    assert computed <= 1.05 * max(channels, -(-channels // 16) * 16)
    assert tile.pixels * tile.vectors >= 12 or tile.pixels == pixels


def test_one_pixel_has_many_sums() -> None:
    """A product with a vector hides the latency of additions with many channels."""
    assert choose_tile(1, 1000, 2048, lanes=16, registers=32).vectors >= 7


@pytest.mark.parametrize("reduction", [64, 104, 128, 256])
def test_many_pixels_share_wide_blocks(reduction: int) -> None:
    """A block is four vectors wide, as its weights are close by, and so few rows are read."""
    assert choose_tile(3136, 256, reduction, lanes=16, registers=32).vectors == 4


@pytest.mark.parametrize(("pixels", "rows", "reduction"), [(49, 1, 2048), (7, 7, 4608)])
def test_few_pixels_read_weights_seldom(pixels: int, rows: int, reduction: int) -> None:
    tile = choose_tile(pixels, 512, reduction, rows=rows, lanes=16, registers=32)
    assert (tile.vectors, -(-pixels // tile.pixels) <= 4) == (2, True)


@pytest.mark.parametrize("channels", [416, 432, 528, 832])
def test_two_cores_share_the_blocks_of_few_pixels(channels: int) -> None:
    """With an odd number, each core would read all weights."""
    tile = choose_tile(49, channels, 1024, lanes=16, registers=32)
    blocks = -(-channels // tile.block)
    assert blocks % 2 == 0 or blocks > FEW_TASKS
