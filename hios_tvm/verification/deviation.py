"""How far outputs are from a reference, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from hios_tvm.errors import UsageError
from hios_tvm.schema.precisions import Precision
from hios_tvm.schema.recipe import Recipe

RTOL: Mapping[Precision, float] = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 4e-2}
"""Largest error that counts as equal, relative to the output's largest magnitude."""


@dataclass(frozen=True)
class Tolerance:
    """How exact a model is.

    Attributes
    ----------
    rtol : float
        The largest error, relative to the output's largest magnitude.
    rounding : float
        Half a unit in the last place of the coarsest type that the model computes in, relative to
        a value.
    range_share : float
        The largest error, relative to the range of the output's values.
    """

    rtol: float = RTOL["fp32"]
    rounding: float = 2.0**-24
    range_share: float = 1e-2

    def __or__(self, other: Tolerance) -> Tolerance:
        """Return the tolerance of a model that computes in both ways."""
        return Tolerance(max(self.rtol, other.rtol), max(self.rounding, other.rounding))


SINGLE = Tolerance()
"""Of models that compute in single precision all through."""

TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": SINGLE,
    "tf32": Tolerance(RTOL["tf32"], 2.0**-11),
    "fp16": Tolerance(RTOL["fp16"], 2.0**-11),
    "bf16": Tolerance(RTOL["bf16"], 2.0**-8),
    "float16": Tolerance(5e-3, 2.0**-11),
    "bfloat16": Tolerance(2e-2, 2.0**-8),
}
"""By the precision of products, and by the element types of a model."""


Arrays = Mapping[str, np.ndarray]

_ROUNDINGS = 64
_SPREADS = 4.0
_UNEQUAL_SPREADS = 2
_UNEQUAL_STEPS = 0.01
_ONE_STEP = 1.001  # of two floats that stand for neighbouring steps

Rule = Literal["tolerance", "one step", "spread"]
"""Why an output counts as equal; `Deviation.rule` tells what each says."""


@dataclass(frozen=True)
class Spread:
    """How far runs of one reference are apart, by output: what rounding alone can do.

    `error` is relative to the largest magnitude, `unequal` a number of elements.
    """

    error: float = 0.0
    unequal: int = 0


@dataclass(frozen=True)
class Deviation:
    """How far one output is from its reference.

    Attributes
    ----------
    output : str
    max_error : float
        Largest error, relative to the largest magnitude of the reference.
    cosine : float
        Of the angle between both.
    value_range : float
        Largest value of the reference minus its smallest, relative to the largest magnitude; 1
        where the reference is a single value.
    unequal : int
        Elements that are not exactly equal.
    is_exact : bool
        Whether these are whole numbers or truth values, which are equal or not.
    size : int
        Elements in all.
    step : float
        What neighbouring values of a quantized output differ by, relative to the largest magnitude;
        0 where the output is not quantized, or that is not known.
    shapes : pair of tuples of int, optional
        Of the output and the reference where they are not the same: then nothing else is known.
    """

    output: str
    max_error: float
    cosine: float
    value_range: float
    unequal: int
    is_exact: bool
    size: int = 1
    step: float = 0.0
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @staticmethod
    def of_shapes(output: str, own: tuple[int, ...], expected: tuple[int, ...]) -> Deviation:
        """Return how an output of another shape deviates: infinitely."""
        return Deviation(
            output, float("inf"), 0.0, 1.0, math.prod(expected), False, shapes=(own, expected)
        )

    def allowed(self, tolerance: Tolerance, spread: Spread = Spread()) -> float:
        """Return the largest error that counts as equal, relative to the largest magnitude.

        0 for whole numbers that are not quantized: all must be equal where rounding does not
        decide.
        """
        if self.is_exact and not self.step:
            return 0.0
        return max(self._tolerated(tolerance), self.step, _SPREADS * spread.error)

    def _tolerated(self, tolerance: Tolerance) -> float:
        """Return the largest error without a reason of its own.

        It is ``tolerance.rtol``, but *a large constant must not hide what matters.* The
        probabilities that softmax makes of 1000 tiny logits are all close to 0.001, and any
        nonsense of that size would be within 1e-4 of the largest one. So the error may be no more
        than 1e-2 of the range of the values either. Where that is below 64 roundings, the range is
        itself of the size of what sums in another order differ by, and 64 roundings are allowed.
        """
        within_range = max(
            tolerance.range_share * self.value_range, _ROUNDINGS * tolerance.rounding
        )
        return min(tolerance.rtol, within_range)

    def rule(self, tolerance: Tolerance, spread: Spread = Spread()) -> Rule | None:
        """Return the first rule by which the output counts as equal, if any (NaN never does).

        - ``tolerance``: floats are off by no more than the precision of the model explains; whole
          numbers and truth values are equal.
        - ``one step``: a quantized output is off by one step in no more than 1 % of its elements.
          Rounding decides where a number lies between two steps, and it seldom does.
        - ``spread``: *a network that amplifies rounding is not wrong.* Errors are up to four times
          those between runs of the reference itself. Whole numbers, and elements of quantized
          outputs, are unequal up to twice as often as between these runs.
        """
        is_whole = self.is_exact and not self.step
        if self.unequal == 0 or (
            not self.is_exact and self.max_error <= self._tolerated(tolerance)
        ):
            return "tolerance"
        is_one_step = self.step > 0 and self.max_error <= _ONE_STEP * self.step
        if is_one_step and self.unequal <= max(1.0, _UNEQUAL_STEPS * self.size):
            return "one step"
        is_close = is_whole or self.max_error <= _SPREADS * spread.error
        is_rare = not (is_whole or self.step) or self.unequal <= _UNEQUAL_SPREADS * spread.unequal
        return "spread" if is_close and is_rare else None

    def within(self, tolerance: Tolerance | float, spread: Spread = Spread()) -> bool:
        """Whether the output counts as equal; a number is the `rtol` of single precision."""
        if not isinstance(tolerance, Tolerance):
            tolerance = Tolerance(tolerance)
        return self.rule(tolerance, spread) is not None


def tolerance_of(recipe: Recipe, rtol: float | None = None) -> Tolerance:
    """Return how exact a model is that was compiled by `recipe`, or as a user says by `rtol`.

    A user's number stands for all that the model rounds: runs of a reference whose inputs are
    rounded as coarsely must not raise it.

    >>> tolerance_of(Recipe(precision="tf32")).rtol, tolerance_of(Recipe(dtypes=("bool",))).rtol
    (0.01, 0.0001)

    Raises
    ------
    UsageError
        If `rtol` is negative, infinite or no number.
    """
    if rtol is not None and not 0 <= rtol < math.inf:
        raise UsageError(f"rtol has to be a number from 0, not {rtol}")
    tolerance = TOLERANCES[recipe.precision]
    for dtype in recipe.dtypes:
        tolerance |= TOLERANCES.get(dtype, SINGLE)
    if rtol is None:
        return tolerance
    return Tolerance(rtol, range_share=max(tolerance.range_share, rtol))


def rounded_numbers(recipe: Recipe) -> list[str]:
    """Say what a model that was compiled by `recipe` does not compute in single precision.

    >>> rounded_numbers(Recipe(precision="bf16", dtypes=("float16", "float32", "int64")))
    ['products have factors of bf16', 'tensors are of float16']
    """
    products = [] if recipe.precision == "fp32" else [recipe.precision]
    tensors = [dtype for dtype in recipe.dtypes if TOLERANCES.get(dtype, SINGLE) != SINGLE]
    return [
        *(f"products have factors of {name}" for name in products),
        *(f"tensors are of {name}" for name in tensors),
    ]


def deviations(
    outputs: Arrays, reference: Arrays, steps: Mapping[str, float] = MappingProxyType({})
) -> tuple[Deviation, ...]:
    """Compare outputs of the same names.

    `steps` is what neighbouring values of quantized outputs differ by.

    Raises
    ------
    UsageError
        If the names or shapes are not the same.
    """
    if outputs.keys() != reference.keys():
        raise UsageError(
            f"the reference holds {sorted(reference)}, the model returns {sorted(outputs)}"
        )
    return tuple(
        _deviation(name, outputs[name], reference[name], steps.get(name, 0.0)) for name in outputs
    )


def over_draws(draws: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Return each output of all draws as one array, the draws along its first axis.

    Compared like this, all draws share one largest magnitude and one range: a model that returns
    a single value has a range too.
    """
    return {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}


def reference_spread(runs: Iterable[Arrays], reference: Arrays) -> dict[str, Spread]:
    """Return how far `runs` of the reference are from its first one, by output."""
    largest = dict.fromkeys(reference, Spread())
    for run in runs:
        for found in deviations(run, reference):
            other = largest[found.output]
            error = found.max_error if np.isfinite(found.max_error) else 0.0
            largest[found.output] = Spread(
                max(error, other.error), max(found.unequal, other.unequal)
            )
    return largest


def _deviation(name: str, output: np.ndarray, reference: np.ndarray, step: float) -> Deviation:
    if output.shape != reference.shape:
        raise UsageError(
            f"output {name!r} has shape {output.shape}, its reference {reference.shape}"
        )
    is_exact = output.dtype.kind in "iub" and reference.dtype.kind in "iub"
    if output.size == 0:
        return Deviation(name, 0.0, 1.0, 1.0, 0, is_exact, 0)
    a = output.astype(np.float64).ravel()
    b = reference.astype(np.float64).ravel()
    # Equal infinities, and NaN where it belongs; large whole numbers are no doubles
    same = (output == reference).ravel() if is_exact else (a == b) | (np.isnan(a) & np.isnan(b))
    error = float(np.max(np.abs(a[~same] - b[~same]), initial=0.0))
    known = b[np.isfinite(b)]
    magnitude = float(np.max(np.abs(known), initial=0.0))
    values = float(np.ptp(known)) if known.size > 1 else magnitude
    finite = np.isfinite(a) & np.isfinite(b)
    norms = float(np.linalg.norm(a[finite]) * np.linalg.norm(b[finite]))
    cosine = float(a[finite] @ b[finite]) / norms if norms else float(error == 0.0)
    return Deviation(
        name,
        max_error=error / magnitude if magnitude else error,
        cosine=cosine,
        value_range=values / magnitude if magnitude else 1.0,
        unequal=int(np.count_nonzero(~same)),
        is_exact=is_exact,
        size=output.size,
        step=step / magnitude if magnitude else step,
    )
