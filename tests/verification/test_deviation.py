"""Outputs against references: what counts as equal."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from hios_tvm.errors import UsageError
from hios_tvm.schema.recipe import Recipe
from hios_tvm.verification.deviation import (
    SINGLE,
    TOLERANCES,
    Spread,
    deviations,
    over_draws,
    reference_spread,
    tolerance_of,
)


def test_deviation_is_relative_to_the_largest_magnitude() -> None:
    reference = {"y": np.array([0.0, 10.0])}
    (deviation,) = deviations({"y": np.array([0.001, 10.0])}, reference)
    assert deviation.max_error == pytest.approx(1e-4)
    assert deviation.within(1e-4 + 1e-12)
    assert not deviation.within(9e-5)


def test_nan_never_counts_as_equal_unless_the_reference_has_it() -> None:
    finite, broken = np.array([1.0, 2.0]), np.array([1.0, np.nan])
    assert not deviations({"y": broken}, {"y": finite})[0].within(1e9)
    assert not deviations({"y": finite}, {"y": broken})[0].within(1e9)
    assert deviations({"y": broken}, {"y": broken})[0].within(0.0)
    infinite = np.array([1.0, np.inf])
    assert deviations({"y": infinite}, {"y": infinite})[0].within(0.0)
    assert not deviations({"y": finite}, {"y": infinite})[0].within(1e9)


@pytest.mark.parametrize("rtol", [math.nan, math.inf, -1.0])
def test_a_tolerance_that_everything_meets_or_nothing_is_refused(rtol: float) -> None:
    with pytest.raises(UsageError, match="rtol has to be a number from 0"):
        tolerance_of(Recipe(), rtol)


def test_other_names_and_shapes_are_no_comparison() -> None:
    with pytest.raises(UsageError, match="the reference holds"):
        deviations({"y": np.zeros(2)}, {"z": np.zeros(2)})
    with pytest.raises(UsageError, match="has shape"):
        deviations({"y": np.zeros(2)}, {"y": np.zeros(3)})


def test_a_large_constant_hides_nothing() -> None:
    """Probabilities of 1000 tiny logits: all are about 0.001, and any others of that size too."""
    rng = np.random.default_rng(0)

    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits.astype(np.float32))
        return powers / powers.sum()

    right = softmax(1e-5 * rng.standard_normal(1000))
    wrong = softmax(1e-5 * rng.standard_normal(1000))
    (found,) = deviations({"y": wrong}, {"y": right})
    assert found.max_error < 1e-4
    assert not found.within(SINGLE)
    rounded = np.nextafter(right, np.float32(1))
    assert deviations({"y": rounded}, {"y": right})[0].within(SINGLE)
    constant = np.full(4, 1000, np.float32)
    assert deviations({"y": constant + 1e-3}, {"y": constant})[0].within(SINGLE)
    assert not deviations({"y": constant + 5e-2}, {"y": constant})[0].within(SINGLE)


def test_draws_share_one_range() -> None:
    reference = [{"y": np.float32([1000.0])}, {"y": np.float32([1000.1])}]
    wrong = [{"y": np.float32([1000.0])}, {"y": np.float32([1000.05])}]
    assert all(deviations(*pair)[0].within(SINGLE) for pair in zip(wrong, reference, strict=True))
    assert not deviations(over_draws(wrong), over_draws(reference))[0].within(SINGLE)


def test_the_spread_of_the_reference_is_allowed_fourfold() -> None:
    reference = {"y": np.float32([1.0, -1.0])}
    spread = reference_spread([{"y": np.float32([1.01, -1.0])}], reference)["y"]
    assert spread.error == pytest.approx(0.01, rel=1e-3)
    (found,) = deviations({"y": np.float32([1.03, -1.0])}, reference)
    assert not found.within(SINGLE)
    assert found.within(SINGLE, spread)
    (found,) = deviations({"y": np.float32([1.05, -1.0])}, reference)
    assert not found.within(SINGLE, spread)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_whole_numbers_are_equal_but_for_ties_of_the_reference(dtype: str) -> None:
    reference = {"y": np.zeros(10, dtype)}
    output = {"y": np.arange(10) < 2}
    (found,) = deviations({"y": output["y"].astype(dtype)}, reference)
    assert found.unequal == 2
    assert not found.within(SINGLE)
    assert found.within(SINGLE, Spread(unequal=1))
    assert not found.within(SINGLE, Spread(error=10.0))


def test_large_whole_numbers_are_not_compared_as_floats() -> None:
    (found,) = deviations({"y": np.array([2**53 + 1])}, {"y": np.array([2**53])})
    assert not found.within(SINGLE)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_may_differ_by_some_units(dtype: type) -> None:
    right = np.linspace(-1, 1, 9, dtype=np.float32)
    unit = float(ml_dtypes.finfo(dtype).eps)
    tolerance = TOLERANCES[np.dtype(dtype).name]
    for units, is_right in ((1, True), (20, False)):
        output = (right + units * unit).astype(dtype)
        (found,) = deviations({"y": output}, {"y": right.astype(dtype)})
        assert found.within(tolerance) == is_right
