"""Reshapes and transpositions are merged, and move behind operators that do not depend on order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import random
from structure import assert_becomes, module_of
from tvm import relax
from tvm.relax import Expr, Var, const
from tvm.relax.op import (
    add,
    exp,
    expand_dims,
    mean,
    multiply,
    permute_dims,
    reshape,
    squeeze,
    subtract,
    sum,
)
from tvm.relax.op.nn import gelu

from hios_tvm.passes.move_rearrangements import MoveRearrangements
from hios_tvm.passes.rearrangement import Rearrangement

TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def assert_moves(
    before: Callable[[Var], Expr], expected: Callable[[Var], Expr], shape: Sequence[int]
) -> None:
    merge_equal = relax.transform.EliminateCommonSubexpr()
    passes = tvm.transform.Sequential([MoveRearrangements(), merge_equal])
    assert_becomes(passes, module_of(before, shape), merge_equal(module_of(expected, shape)))


def test_rows_of_pixels_become_an_image_without_transposition() -> None:
    def before(x: Var) -> Expr:
        return permute_dims(reshape(permute_dims(x, [0, 2, 1]), (1, 32, 6, 7)), TO_LAST)

    assert_moves(before, lambda x: reshape(x, (1, 6, 7, 32)), (1, 42, 32))


def test_what_follows_a_reshape_to_an_image_is_one_transposition_of_an_image() -> None:
    def before(x: Var) -> Expr:
        return reshape(permute_dims(x, [0, 2, 1]), (2, 32, 6, 7))

    assert_moves(before, lambda x: permute_dims(reshape(x, (2, 6, 7, 32)), TO_FIRST), (2, 42, 32))


def test_patches_are_one_transposition() -> None:
    def before(x: Var) -> Expr:
        first = permute_dims(x, TO_FIRST)
        rows = permute_dims(reshape(first, (24, 2, 3, 2)), [0, 2, 1, 3])
        return reshape(permute_dims(reshape(rows, (1, 8, 9, 4)), [0, 3, 2, 1]), (4, 9, 8))

    def expected(x: Var) -> Expr:
        split = reshape(x, (1, 3, 2, 3, 2, 8))
        return reshape(permute_dims(split, [0, 2, 4, 1, 3, 5]), (4, 9, 8))

    assert_moves(before, expected, (1, 6, 6, 8))


def test_identities_disappear_and_other_forms_of_reshapes_merge() -> None:
    def before(x: Var) -> Expr:
        return squeeze(expand_dims(permute_dims(permute_dims(x, TO_LAST), TO_FIRST), [0]), [0, 1])

    assert_moves(before, lambda x: reshape(x, (3, 4, 5)), (1, 3, 4, 5))


def test_axes_of_mixed_elements_are_transposed_twice() -> None:
    def before(x: Var) -> Expr:
        return permute_dims(reshape(permute_dims(x, [1, 0]), (6, 2)), [1, 0])

    assert_moves(before, before, (3, 4))


def test_transpositions_meet_behind_elementwise_operators() -> None:
    row = random(32)

    def before(x: Var) -> Expr:
        first = reshape(permute_dims(x, TO_FIRST), (1, 32, 42))
        moved = gelu(add(multiply(first, first), const(row.reshape(32, 1))))
        return permute_dims(moved, [0, 2, 1])

    def expected(x: Var) -> Expr:
        moved = gelu(add(multiply(x, x), const(row.reshape(1, 1, 1, 32))))
        return reshape(moved, (1, 42, 32))

    assert_moves(before, expected, (1, 6, 7, 32))


def test_a_tensor_of_another_order_is_not_transposed_for_an_operator() -> None:
    def before(x: Var) -> Expr:
        return add(permute_dims(x, [0, 2, 1]), exp(x))

    assert_moves(before, before, (1, 6, 6))


def test_a_group_normalization_reads_channels_last_images() -> None:
    """Two groups of 16 channels, as exporters write them: statistics of rows of a matrix."""

    def before(x: Var) -> Expr:
        rows = reshape(permute_dims(x, TO_FIRST), (3, 2, 16 * 42))
        centred = subtract(rows, mean(rows, [2], keepdims=True))
        squares = mean(multiply(centred, centred), [2], keepdims=True)
        return permute_dims(reshape(multiply(centred, squares), (3, 32, 6, 7)), TO_LAST)

    def expected(x: Var) -> Expr:
        split = reshape(x, (3, 6, 7, 2, 16))
        centred = subtract(split, mean(split, [1, 2, 4], keepdims=True))
        squares = mean(multiply(centred, centred), [1, 2, 4], keepdims=True)
        return reshape(multiply(centred, squares), (3, 6, 7, 32))

    assert_moves(before, expected, (3, 6, 7, 32))


def test_a_sum_over_groups_of_channels_reads_channels_last_images() -> None:
    def before(x: Var) -> Expr:
        return sum(reshape(permute_dims(x, TO_FIRST), (1, 2, 16, 6, 7)), [1])

    def expected(x: Var) -> Expr:
        return permute_dims(sum(reshape(x, (1, 6, 7, 2, 16)), [3]), TO_FIRST)

    assert_moves(before, expected, (1, 6, 7, 32))


def test_reductions_to_another_shape_keep_the_reshape() -> None:
    def before(x: Var) -> Expr:
        return sum(reshape(x, (4, 6)), [1])

    assert_moves(before, before, (2, 3, 4))


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_chain_is_a_reshape_a_transposition_and_a_reshape(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    before = result = np.arange(np.prod(shape)).reshape(shape)
    chain = Rearrangement.of(shape)
    for _ in range(4):
        axes = data.draw(st.permutations(range(result.ndim)))
        size = data.draw(st.sampled_from([1, 2, 3, 4, 6, 12]))
        longer = chain.transposed(axes).reshaped((size, result.size // size, 1))
        if result.size % size == 0 and longer is not None:
            chain, result = longer, result.transpose(axes).reshape(size, -1, 1)
    assert chain.shape == result.shape or chain.axes == Rearrangement.of(shape).axes
    split = chain.split()
    moved = before.reshape(split.shape).transpose(split.order).reshape(chain.shape)
    np.testing.assert_array_equal(moved, result)
    assert chain.is_reshape == np.array_equal(before.ravel(), result.ravel())
