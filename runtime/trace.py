"""What happened when in a run, as plain data and as a trace for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hios_tvm.runtime.instructions import Call, Copy, Instruction, Program, Signal, Wait

__all__ = ["RunTrace", "Span", "make_spans", "write_chrome_trace"]

Kind = Literal["call", "copy", "signal", "wait"]


@dataclass(frozen=True)
class Span:
    """One instruction in one run; nanoseconds of the monotonic clock.

    `name` is the operator of a call, the destination of a copy, the number of an event.
    """

    device: str
    stream: int
    kind: Kind
    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class RunTrace:
    """All instructions of one run, and when its caller started it and had its end."""

    spans: tuple[Span, ...]
    start_ns: int
    end_ns: int

    def milliseconds(self, *kinds: Kind) -> dict[str, float]:
        """Return the milliseconds in which each device executes instructions of these kinds.

        Streams that do so at the same time count once.
        """
        intervals: dict[str, list[tuple[int, int]]] = {span.device: [] for span in self.spans}
        for span in self.spans:
            if span.kind in kinds:
                intervals[span.device].append((span.start_ns, span.end_ns))
        return {device: _covered_ns(spans) / 1e6 for device, spans in intervals.items()}


def _covered_ns(intervals: list[tuple[int, int]]) -> int:
    """Return the length of the union of intervals.

    >>> _covered_ns([(5, 9), (0, 4), (1, 6)])
    9
    """
    covered = reached = 0
    for start, end in sorted(intervals):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def make_spans(program: Program, times: Sequence[int] | np.ndarray[Any, Any]) -> list[Span]:
    """Return the spans of `program`, given when each instruction began and when the last ended."""
    return [
        Span(program.device, program.stream, *_label(step), int(start), int(end))
        for step, start, end in zip(program.instructions, times[:-1], times[1:], strict=True)
    ]


def write_chrome_trace(path: Path, traces: Sequence[RunTrace]) -> None:
    """Write runs as a JSON file that Perfetto and chrome://tracing open: a row per stream."""
    rows = sorted({(span.device, span.stream) for trace in traces for span in trace.spans})
    devices = sorted({device for device, _ in rows})
    begin = min((trace.start_ns for trace in traces), default=0)
    events: list[dict[str, Any]] = []
    for device in devices:
        pid = devices.index(device)
        events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": device}})
    for trace in traces:
        events += [_event(span, devices.index(span.device), begin) for span in trace.spans]
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")


def _event(span: Span, pid: int, begin: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.kind,
        "pid": pid,
        "tid": span.stream,
        "ts": (span.start_ns - begin) / 1000,
        "dur": (span.end_ns - span.start_ns) / 1000,
    }


def _label(step: Instruction) -> tuple[Kind, str]:
    if isinstance(step, Call):
        return "call", step.operator
    if isinstance(step, Copy):
        return "copy", step.dst
    if isinstance(step, Signal):
        return "signal", f"event {step.event}"
    assert isinstance(step, Wait)
    return "wait", f"event {step.event}"
