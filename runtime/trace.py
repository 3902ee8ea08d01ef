"""Traces of runs: when each instruction ran, as plain data and as a file for Perfetto."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hios_tvm.schema.manifest import Buffer, Manifest
from hios_tvm.schema.program import (
    COPY_STREAM,
    Call,
    Copy,
    Instruction,
    Program,
    Signal,
    Wait,
)

Kind = Literal["call", "copy", "signal", "wait", "run"]


@dataclass(frozen=True)
class Span:
    """One instruction in one run, or the whole run; nanoseconds of the monotonic clock.

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
    """All instructions of one run; `start_ns` and `end_ns` are those of the whole run."""

    spans: tuple[Span, ...]
    start_ns: int
    end_ns: int

    def milliseconds(self, *kinds: Kind) -> dict[str, float]:
        """Return how long each device executed instructions of these kinds, in milliseconds.

        Time in which several streams do so counts once.
        """
        intervals: dict[str, list[tuple[int, int]]] = {span.device: [] for span in self.spans}
        for span in self.spans:
            if span.kind in kinds:
                intervals[span.device].append((span.start_ns, span.end_ns))
        return {device: _covered_ns(spans) / 1e6 for device, spans in intervals.items()}

    def durations_ms(self, kind: Kind) -> dict[str, float]:
        """Return how long each span of this kind took, by its name."""
        spans = (span for span in self.spans if span.kind == kind)
        return {span.name: (span.end_ns - span.start_ns) / 1e6 for span in spans}


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
        span_of(program, step, int(start), int(end))
        for step, start, end in zip(program.instructions, times[:-1], times[1:], strict=True)
    ]


def span_of(program: Program, step: Instruction, start_ns: int, end_ns: int) -> Span:
    """Return the span of one instruction of `program`."""
    return Span(program.device, program.stream, *_label(step), start_ns, end_ns)


def write_chrome_trace(
    path: Path, traces: Sequence[RunTrace], manifest: Manifest | None = None
) -> None:
    """Write runs as a JSON file that Perfetto and chrome://tracing open.

    A process for each device with a thread for each of its streams, one more process for the
    caller, and an arrow from each signal to those that waited for it. With the `manifest` of what
    ran, operators show their kernel, the nodes of the model that they came from, their tensors, the
    bytes that they read and write, and their cost in the schedule; copies show their tensor.
    """
    details = {} if manifest is None else _details(manifest)
    rows = sorted({(span.device, span.stream) for trace in traces for span in trace.spans})
    devices = sorted({device for device, _ in rows})
    caller = len(devices)
    begin = min((trace.start_ns for trace in traces), default=0)
    events = [_metadata("process_name", pid, 0, name) for pid, name in enumerate(devices)]
    events.append(_metadata("process_name", caller, 0, "caller"))
    for device, stream in rows:
        label = _row_label(stream)
        events.append(_metadata("thread_name", devices.index(device), stream, label))
    for number, trace in enumerate(traces):
        whole = Span("caller", 0, "run", f"run {number}", trace.start_ns, trace.end_ns)
        events.append(_event(whole, caller, begin))
        for span in trace.spans:
            events.append(_event(span, devices.index(span.device), begin))
            if (span.kind, span.name) in details:
                events[-1]["args"] = details[span.kind, span.name]
            if span.kind in ("signal", "wait"):
                events.append(_arrow(events[-1], f"run {number} {span.name}"))
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")


def _details(manifest: Manifest) -> dict[tuple[Kind, str], dict[str, Any]]:
    """Return what is known of each call and copy beside its time, by kind and name of its span."""
    operators = {} if manifest.graph is None else manifest.graph.operator
    cost_ms = {item.operator: item.cost_ms for item in manifest.prediction.operators}
    details: dict[tuple[Kind, str], dict[str, Any]] = {}
    for program in manifest.programs:
        for step in program.instructions:
            if isinstance(step, Copy):
                tensor = manifest.buffer[step.dst]
                details[_label(step)] = {"tensor": _tensor(tensor), "bytes": tensor.nbytes}
            elif isinstance(step, Call):
                found = _call_details(step, manifest)
                if step.operator in operators:
                    found["nodes"] = ", ".join(operators[step.operator].nodes)
                if step.operator in cost_ms:
                    found["cost_ms"] = cost_ms[step.operator]
                details[_label(step)] = found
    return details


def _call_details(call: Call, manifest: Manifest) -> dict[str, Any]:
    first_output = len(call.args) - call.outputs
    inputs = [manifest.buffer[name] for name in dict.fromkeys(call.args[:first_output])]
    outputs = [manifest.buffer[name] for name in call.args[first_output:]]
    weights = [buffer for buffer in inputs if buffer.space == "param"]
    others = [buffer for buffer in inputs if buffer.space != "param"]
    return {
        "kernel": call.kernel,
        "inputs": ", ".join(map(_tensor, others)),
        "weights": ", ".join(map(_tensor, weights)),
        "outputs": ", ".join(map(_tensor, outputs)),
        "input_bytes": sum(buffer.nbytes for buffer in others),
        "weight_bytes": sum(buffer.nbytes for buffer in weights),
        "output_bytes": sum(buffer.nbytes for buffer in outputs),
    }


def _tensor(buffer: Buffer) -> str:
    return f"{'x'.join(map(str, buffer.shape)) or 'scalar'} {buffer.dtype}"


def _row_label(stream: int) -> str:
    if stream == COPY_STREAM:
        return "copies"
    return "whole device" if stream == 0 else f"stream {stream}"


def _metadata(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


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


def _arrow(event: Mapping[str, Any], identity: str) -> dict[str, Any]:
    """Return one end of an arrow: it leaves where a signal begins, and arrives where a wait ends.

    Ends with one identity belong together.
    """
    place = {key: event[key] for key in ("pid", "tid")}
    arrow = {"cat": "event", "name": "event", "id": identity, **place}
    if event["cat"] == "signal":
        return {"ph": "s", "ts": event["ts"], **arrow}
    return {"ph": "f", "bp": "e", "ts": event["ts"] + event["dur"], **arrow}


def _label(step: Instruction) -> tuple[Kind, str]:
    if isinstance(step, Call):
        return "call", step.operator
    if isinstance(step, Copy):
        return "copy", step.dst
    if isinstance(step, Signal):
        return "signal", f"event {step.event}"
    assert isinstance(step, Wait)
    return "wait", f"event {step.event}"
