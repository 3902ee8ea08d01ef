"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

_MODEL = ("model", "version")
_SECONDS = tuple(
    base * 10.0**power for power in range(-4, 2) for base in (1, 2, 5)
)  # 0.1 ms to 50 s
_ROWS = tuple(float(1 << power) for power in range(11))

_REQUESTS = Counter("hios_requests", "Requests by their answer", (*_MODEL, "protocol", "code"))
_LATENCY = Histogram(
    "hios_request_seconds",
    "From a request, read whole, to its answer",
    (*_MODEL, "protocol"),
    buckets=_SECONDS,
)
_RUN = Histogram("hios_run_seconds", "Runs of the model", _MODEL, buckets=_SECONDS)
_BATCH = Histogram("hios_batch_size", "Rows of the batch in one run", _MODEL, buckets=_ROWS)
_QUEUE = Gauge("hios_queue_length", "Requests that wait for the model", _MODEL)
_BUSY = Counter(
    "hios_device_busy_seconds",
    "Time in kernels and copies; its rate is the busy share of the device",
    (*_MODEL, "device"),
)


class ModelMetrics:
    """The metrics of one version of a model."""

    def __init__(self, name: str, version: str) -> None:
        self._labels = (name, version)
        self.run_seconds = _RUN.labels(*self._labels)
        self.batch_size = _BATCH.labels(*self._labels)
        self._busy: dict[str, Counter] = {}
        self._latency = {
            protocol: _LATENCY.labels(*self._labels, protocol) for protocol in ("http", "grpc")
        }

    def watch_queue(self, length: Callable[[], float]) -> None:
        """Let `length` say how many requests wait."""
        _QUEUE.labels(*self._labels).set_function(length)

    def answered(self, protocol: str, code: str, seconds: float) -> None:
        """Count a request that was answered with `code`."""
        _REQUESTS.labels(*self._labels, protocol, code).inc()
        self._latency[protocol].observe(seconds)

    def busy(self, device: str, seconds: float) -> None:
        """Count time in which a device worked."""
        if device not in self._busy:
            self._busy[device] = _BUSY.labels(*self._labels, device)
        self._busy[device].inc(seconds)
