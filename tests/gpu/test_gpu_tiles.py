"""Tiles of products fit into a GPU's multiprocessors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.passes.gpu_rules.fragments import fragment_format
from hios_tvm.passes.gpu_rules.tiles import ProductSizes, choose_gemm_tile, choose_warp_tile
from hios_tvm.schema.gpu_models import Precision

counts = st.integers(1, 3000)
sizes = st.builds(ProductSizes, counts, counts, counts, st.sampled_from([1, 7, 9, 25]))


@given(sizes)
def test_slices_hold_all_that_is_summed(product: ProductSizes) -> None:
    for depth in (16, 32, 64):
        padded = product.slices(depth) * depth
        assert product.reduced <= padded <= max(1.15 * product.reduced, product.reduced + depth)


@given(sizes, st.sampled_from([14, 132]))
def test_tiles_of_threads_fit(product: ProductSizes, units: int) -> None:
    tile = choose_gemm_tile(product, units)
    fetched = (tile.rows + tile.columns) * tile.depth
    assert tile.threads % 32 == 0
    assert 4 * (fetched + 4 * tile.rows) <= 48 << 10
    assert fetched / tile.threads + tile.thread_rows * tile.thread_columns <= 96


@settings(deadline=None)  # the first use of fragments makes them known to TVM
@given(sizes, st.sampled_from([14, 132]), st.sampled_from(["tf32", "fp16"]))
def test_tiles_of_warps_fit(product: ProductSizes, units: int, precision: Precision) -> None:
    form = fragment_format(precision)
    tile = choose_warp_tile(product, units, form)
    skewed = (tile.rows * (tile.depth + form.skew), tile.depth * (tile.columns + form.skew))
    assert sum(skewed) * form.nbytes <= 48 << 10
    assert tile.depth % form.depth == 0


@pytest.mark.parametrize(
    "product", [ProductSizes(289, 192, 192, 7), ProductSizes(64, 320, 2048)], ids=str
)
def test_long_sums_of_few_results_go_in_deep_slices(product: ProductSizes) -> None:
    tile = choose_gemm_tile(product, 132)
    blocks = math.ceil(product.rows / tile.rows) * math.ceil(product.columns / tile.columns)
    assert tile.depth == 64
    assert blocks <= 132
