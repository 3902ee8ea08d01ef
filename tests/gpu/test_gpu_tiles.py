"""Tiles of products fit into a GPU's multiprocessors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.passes.gpu_rules.fragments import fragment_format
from hios_tvm.passes.gpu_rules.tiles import (
    ProductSizes,
    blocks_of,
    choose_gemm_tile,
    choose_warp_tile,
)
from hios_tvm.schema.precisions import Precision

counts = st.integers(1, 3000)
sizes = st.builds(ProductSizes, counts, counts, counts, st.sampled_from([1, 7, 9, 25]))


@settings(deadline=None)
@given(sizes)
def test_slices_hold_all_that_is_summed(product: ProductSizes) -> None:
    for depth in (16, 32, 64):
        padded = product.slices(depth) * depth
        assert product.reduced <= padded <= max(1.15 * product.reduced, product.reduced + depth)


@settings(deadline=None)  # other tests share the processor
@given(sizes, st.sampled_from([14, 132]), st.sampled_from([2, 4]))
def test_tiles_of_threads_fit(product: ProductSizes, units: int, most_stages: int) -> None:
    tile = choose_gemm_tile(product, units, most_stages)
    slicing = tile.slicing
    fetched = (tile.rows + tile.columns) * slicing.depth
    held = 1 if slicing.asynchronous else fetched / tile.threads
    assert tile.threads % 32 == 0
    assert 4 * slicing.buffers * (fetched + 4 * tile.rows) <= 48 << 10
    assert held + tile.thread_rows * tile.thread_columns <= 96
    assert slicing.steps(product) >= slicing.buffers


@settings(deadline=None)  # the first use of fragments makes them known to TVM
@given(
    sizes, st.sampled_from([14, 132]), st.sampled_from(["tf32", "fp16"]), st.sampled_from([2, 4])
)
def test_tiles_of_warps_fit(
    product: ProductSizes, units: int, precision: Precision, most_stages: int
) -> None:
    form = fragment_format(precision)
    tile = choose_warp_tile(product, units, form, most_stages)
    depth, buffers = tile.slicing.depth, tile.slicing.buffers
    skewed = (tile.rows * (depth + form.skew), depth * (tile.columns + form.skew))
    assert buffers * sum(skewed) * form.nbytes <= 48 << 10
    assert depth % form.depth == 0


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize(
    "product", [ProductSizes(289, 192, 192, 7), ProductSizes(64, 320, 2048)], ids=str
)
def test_long_sums_of_few_results_keep_all_multiprocessors_busy(
    product: ProductSizes, precision: Precision
) -> None:
    if precision == "fp32":
        assert blocks_of(choose_gemm_tile(product, 132), product) >= 132
    else:
        tile = choose_warp_tile(product, 132, fragment_format(precision))
        assert blocks_of(tile, product) >= 132


def test_short_sums_are_in_one_part() -> None:
    assert choose_gemm_tile(ProductSizes(22201, 32, 3, 9), 132).slicing.parts == 1
    assert choose_gemm_tile(ProductSizes(64, 64, 64), 132).slicing.parts == 1
