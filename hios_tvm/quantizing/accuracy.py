"""How far the outputs of a quantized model are from those of the model before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class OutputAccuracy:
    """One output over several runs.

    Attributes
    ----------
    output : str
    max_error : float
        Largest difference, relative to the largest magnitude before.
    snr_db : float, optional
        Signal-to-noise ratio in decibels: of the sum of squares before to that of the
        differences. None where there is no difference.
    equal : float, optional
        Share of rows whose largest element is at the same place; of whole numbers, of equal
        elements. None where an output is neither scores of classes nor whole numbers.
    compared : int
        What `equal` is a share of.
    """

    output: str
    max_error: float
    snr_db: float | None
    equal: float | None
    compared: int


@dataclass
class _Sums:
    """Of one output, over the runs so far."""

    magnitude: float = 0.0
    error: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    equal: int = 0
    compared: int = 0

    def add(self, exact: np.ndarray, quantized: np.ndarray) -> None:
        a, b = exact.astype(np.float64), quantized.astype(np.float64)
        self.magnitude = max(self.magnitude, float(np.max(np.abs(a), initial=0.0)))
        self.error = max(self.error, float(np.max(np.abs(a - b), initial=0.0)))
        self.signal += float(np.sum(a * a))
        self.noise += float(np.sum((a - b) ** 2))
        if exact.dtype.kind in "iub":
            self.equal += int(np.count_nonzero(exact == quantized))
            self.compared += exact.size
        elif _are_scores(exact):
            self.equal += int(np.count_nonzero(a.argmax(axis=1) == b.argmax(axis=1)))
            self.compared += len(a)


def _are_scores(array: np.ndarray) -> bool:
    """Whether an output looks like scores of classes: a row of several floats for each sample."""
    return array.ndim == 2 and array.shape[1] > 1


@dataclass
class AccuracyMeter:
    """Compares outputs run by run, and keeps sums alone."""

    _sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, exact: Mapping[str, np.ndarray], quantized: Mapping[str, np.ndarray]) -> None:
        """Compare the outputs of one run."""
        for name, array in exact.items():
            self._sums.setdefault(name, _Sums()).add(array, quantized[name])

    def outputs(self) -> tuple[OutputAccuracy, ...]:
        """Return what came of all runs."""
        return tuple(
            OutputAccuracy(
                name,
                max_error=sums.error / sums.magnitude if sums.magnitude else sums.error,
                snr_db=_decibels(sums.signal, sums.noise),
                equal=sums.equal / sums.compared if sums.compared else None,
                compared=sums.compared,
            )
            for name, sums in self._sums.items()
        )


def _decibels(signal: float, noise: float) -> float | None:
    if noise == 0.0:
        return None
    return 10 * math.log10(signal / noise) if signal else -math.inf
