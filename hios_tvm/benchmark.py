"""Latency and throughput of a session, and how busy its devices are."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hios_tvm.runtime.session import Session
from hios_tvm.statistics import LatencySummary

__all__ = ["BenchmarkResult", "benchmark"]


@dataclass(frozen=True)
class BenchmarkResult:
    """Latencies of all runs; milliseconds per run that each device spent (medians).

    `busy_ms` is time in kernels and copies, `copy_ms` in copies alone; both are empty where several
    threads ran at once.
    """

    latency: LatencySummary
    throughput_per_s: float
    concurrency: int
    busy_ms: Mapping[str, float]
    copy_ms: Mapping[str, float]

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def benchmark(
    session: Session,
    inputs: Mapping[str, np.ndarray],
    *,
    iterations: int = 50,
    warmup: int = 10,
    duration: float = 3.0,
    concurrency: int = 1,
    percentiles: Sequence[float] = (50, 90, 95, 99, 99.9),
) -> BenchmarkResult:
    """Run `session` again and again, from `concurrency` threads at once.

    At least `iterations` runs are measured, and for at least `duration` seconds.
    """
    for _ in range(warmup):
        session.run(inputs)
    latencies: list[float] = []
    busy: list[Mapping[str, float]] = []
    copies: list[Mapping[str, float]] = []
    errors: list[BaseException] = []
    start = time.perf_counter()

    def work() -> None:
        try:
            while len(latencies) < iterations or time.perf_counter() - start < duration:
                begin = time.perf_counter()
                session.run(inputs)
                latencies.append(1000 * (time.perf_counter() - begin))
                if concurrency == 1:
                    busy.append(session.busy_ms())
                    copies.append(session.copy_ms())
        except BaseException as error:
            errors.append(error)

    if concurrency == 1:
        work()
    else:
        threads = [threading.Thread(target=work) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elapsed = time.perf_counter() - start
    devices = [device.name for device in session.manifest.devices]
    if errors:
        raise errors[0]
    return BenchmarkResult(
        latency=LatencySummary.of(latencies, percentiles),
        throughput_per_s=len(latencies) / elapsed,
        concurrency=concurrency,
        busy_ms=_medians(busy, devices),
        copy_ms=_medians(copies, devices),
    )


def _medians(runs: Sequence[Mapping[str, float]], devices: Sequence[str]) -> dict[str, float]:
    """Median of each device over runs; 0 for one that has no work, nothing without runs."""
    if not runs:
        return {}
    return {name: float(np.median([run.get(name, 0.0) for run in runs])) for name in devices}
