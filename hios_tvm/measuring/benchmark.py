"""Latency and throughput of sessions, how busy devices are, and how long operators take."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from hios_tvm.measuring.latency import LatencySummary, latencies_of
from hios_tvm.measuring.load import LoadMeter
from hios_tvm.runtime.session import Session
from hios_tvm.runtime.trace import RunTrace, Span
from hios_tvm.schema.strict_json import encode

_MOST_TRACES = 200  # of a session; what is left out of long benchmarks costs memory only


@dataclass(frozen=True)
class BenchmarkResult:
    """Latencies of all runs; milliseconds per run that devices and operators took (medians).

    `busy_ms` is time in kernels and copies, `copy_ms` in copies alone, `operator_ms` in the kernel
    of each operator; `busy_share` says for which share of the time in which any session ran a
    device was busy. All are empty where several threads shared a session: then nobody sees the end
    of a run before the next one begins. `traces` are the runs that they come from. `others` is the
    share of the cores that other processes used meanwhile.
    """

    latency: LatencySummary
    throughput_per_s: float
    concurrency: int
    sessions: int
    busy_ms: Mapping[str, float]
    busy_share: Mapping[str, float]
    copy_ms: Mapping[str, float]
    operator_ms: Mapping[str, float]
    others: float = 0.0
    traces: tuple[RunTrace, ...] = field(default=(), repr=False)

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON; traces are left out."""
        data: dict[str, Any] = encode(replace(self, traces=()))
        del data["traces"]
        return data


@dataclass
class _Worker:
    """One thread that runs one session; latencies in milliseconds."""

    session: Session
    latencies: list[float] = field(default_factory=list)
    traces: list[RunTrace] = field(default_factory=list)


def benchmark(
    sessions: Session | Sequence[Session],
    inputs: Mapping[str, np.ndarray],
    *,
    iterations: int = 50,
    warmup: int = 10,
    duration: float = 3.0,
    concurrency: int = 1,
    percentiles: Sequence[float] = (50, 90, 95, 99, 99.9),
) -> BenchmarkResult:
    """Run sessions of one artifact again and again, each from `concurrency` threads at once.

    At least `iterations` runs are measured in all, and for at least `duration` seconds.
    """
    group = [sessions] if isinstance(sessions, Session) else list(sessions)
    for session in group:
        for _ in range(warmup):
            session.run(inputs)
    workers = [_Worker(session) for session in group for _ in range(concurrency)]
    meter = LoadMeter()
    start = time.perf_counter()

    def work(worker: _Worker) -> None:
        for latency_ms in latencies_of(partial(worker.session.run, inputs)):
            worker.latencies.append(latency_ms)
            if concurrency == 1 and len(worker.traces) < _MOST_TRACES:
                worker.traces.append(worker.session.last_trace())
            runs = sum(len(other.latencies) for other in workers)
            if runs >= iterations and time.perf_counter() - start >= duration:
                return

    if len(workers) == 1:
        work(workers[0])
    else:
        with ThreadPoolExecutor(len(workers)) as threads:
            list(threads.map(work, workers))
    return _result(workers, group, concurrency, percentiles, meter.others())


def _result(
    workers: Sequence[_Worker],
    sessions: Sequence[Session],
    concurrency: int,
    percentiles: Sequence[float],
    others: float,
) -> BenchmarkResult:
    devices = sessions[0].traced_devices
    traces = tuple(trace for worker in workers for trace in worker.traces)
    idle = dict.fromkeys(devices, 0.0)
    return BenchmarkResult(
        latency=LatencySummary.of([ms for w in workers for ms in w.latencies], percentiles),
        # Each thread runs without a pause but for what is measured in between, which is left out.
        throughput_per_s=sum(1000 / float(np.mean(w.latencies)) for w in workers),
        concurrency=concurrency,
        sessions=len(sessions),
        busy_ms=_medians([idle | trace.milliseconds("call", "copy") for trace in traces]),
        busy_share=_busy_share(traces, devices),
        copy_ms=_medians([idle | trace.milliseconds("copy") for trace in traces]),
        operator_ms=_medians([trace.durations_ms("call") for trace in traces]),
        others=others,
        traces=traces,
    )


def _busy_share(traces: Sequence[RunTrace], devices: Sequence[str]) -> dict[str, float]:
    """Return for which share of all runs each device was busy; what overlaps counts once."""
    if not traces:
        return {}
    runs = [Span("runs", 0, "run", "", trace.start_ns, trace.end_ns) for trace in traces]
    together = RunTrace((*runs, *(span for trace in traces for span in trace.spans)), 0, 0)
    busy, total = together.milliseconds("call", "copy"), together.milliseconds("run")["runs"]
    return {name: busy.get(name, 0.0) / total for name in devices}


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each name over runs, which all have the same names."""
    return {name: float(np.median([run[name] for run in runs])) for name in (runs or [{}])[0]}
