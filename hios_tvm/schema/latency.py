"""Latencies of repeated runs, summed up for people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["LatencySummary"]


@dataclass(frozen=True)
class LatencySummary:
    """Milliseconds over runs; `spread_ms` is the interquartile range, `percentiles` by number."""

    runs: int
    mean_ms: float
    median_ms: float
    spread_ms: float
    min_ms: float
    max_ms: float
    percentiles_ms: dict[str, float]

    @staticmethod
    def of(
        latencies_ms: Sequence[float], percentiles: Sequence[float] = (50, 90, 95, 99, 99.9)
    ) -> LatencySummary:
        """Sum up one latency per run.

        >>> LatencySummary.of([1.0, 2.0, 3.0], percentiles=[50]).percentiles_ms
        {'p50': 2.0}
        """
        values = np.asarray(latencies_ms, dtype=np.float64)
        low, median, high = np.percentile(values, [25, 50, 75])
        return LatencySummary(
            runs=len(values),
            mean_ms=float(values.mean()),
            median_ms=float(median),
            spread_ms=float(high - low),
            min_ms=float(values.min()),
            max_ms=float(values.max()),
            percentiles_ms={f"p{p:g}": float(np.percentile(values, p)) for p in percentiles},
        )

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
