"""What timed samples say, whatever device they are of: a measurement, a link."""

from collections.abc import Iterable, Mapping

import numpy as np

from hios_tvm.schema.costs import Measurement
from hios_tvm.schema.platform import Link


def measurement_of(nanoseconds: Iterable[float], source: str = "measured") -> Measurement:
    """Return the median and the interquartile range of samples in nanoseconds."""
    values = np.fromiter(nanoseconds, np.float64) / 1e6
    low, middle, high = np.percentile(values, (25, 50, 75))
    return Measurement(float(middle), float(high - low), len(values), source)


def fit_link(times: Mapping[int, Measurement]) -> Link:
    """Return the link that comes nearest to measured copies, by their bytes.

    Relative errors count, so that small copies matter as much as large ones.
    """
    sizes = np.array(list(times), dtype=np.float64)
    milliseconds = np.array([timing.ms for timing in times.values()])
    design = np.stack([np.ones_like(sizes), sizes], axis=1) / milliseconds[:, None]
    (latency_ms, ms_per_byte), *_ = np.linalg.lstsq(design, np.ones_like(sizes), rcond=None)
    bandwidth_gb_s = 1.0 / (max(float(ms_per_byte), 1e-12) * 1e6)
    return Link(max(float(latency_ms), 0.0), bandwidth_gb_s)
