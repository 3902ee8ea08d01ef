from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from hand_made import LENGTH

from hios_tvm.runtime import Session
from hios_tvm.runtime.trace import RunTrace, make_spans, write_chrome_trace
from hios_tvm.schema.program import Call, Copy, Program, Signal, Wait

PROGRAM = Program(
    "cpu@0", 1, (Wait(3), Copy("a", "b"), Call("relu1", "relu", ("b", "c")), Signal(4))
)


def test_spans_name_what_was_executed() -> None:
    spans = make_spans(PROGRAM, [10, 30, 60, 100, 105])
    assert [(s.kind, s.name, s.start_ns, s.end_ns) for s in spans] == [
        ("wait", "event 3", 10, 30),
        ("copy", "b", 30, 60),
        ("call", "relu1", 60, 100),
        ("signal", "event 4", 100, 105),
    ]


def test_busy_time_is_that_of_kernels_and_copies() -> None:
    trace = RunTrace(tuple(make_spans(PROGRAM, np.array([10, 30, 60, 100, 105]) * 10**6)), 0, 0)
    assert trace.milliseconds("call", "copy") == {"cpu@0": 70.0}
    assert trace.milliseconds("wait") == {"cpu@0": 20.0}
    assert trace.milliseconds() == {"cpu@0": 0.0}


def test_a_chrome_trace_has_a_row_for_every_stream(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    traces = [session.run_traced({"the input": np.ones(LENGTH, np.float32)})[1] for _ in range(2)]
    write_chrome_trace(path, traces)
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(names.values()) == ["caller", "cpu@0", "cpu@1"]
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == 2 + 2 * sum(len(p.instructions) for p in session.manifest.programs)
    assert {(names[e["pid"]], e["name"]) for e in complete if e["cat"] == "call"} == {
        ("cpu@0", "add1"),
        ("cpu@0", "mul2"),
        ("cpu@1", "mul1"),
        ("cpu@1", "add2"),
    }
    assert min(event["ts"] for event in complete) >= 0


def test_calls_of_a_chrome_trace_show_tensors_and_bytes(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace = session.run_traced({"the input": np.ones(LENGTH, np.float32)})[1]
    write_chrome_trace(path, [trace], session.manifest)
    events = json.loads(path.read_text())["traceEvents"]
    shown = {event["name"]: event["args"] for event in events if event.get("cat") == "call"}
    assert shown.keys() == {"add1", "mul2", "mul1", "add2"}
    tensor, size = f"{LENGTH} float32", 4 * LENGTH
    assert shown["add1"] == {
        "kernel": "add", "inputs": tensor, "weights": tensor, "outputs": tensor,
        "input_bytes": size, "weight_bytes": size, "output_bytes": size,
    }  # fmt: skip
    assert shown["mul1"]["input_bytes"] == size  # which it takes twice
    assert shown["add2"]["inputs"] == f"{tensor}, {tensor}"


def test_a_chrome_trace_keeps_the_rules_of_its_format(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    x = {"the input": np.ones(LENGTH, np.float32)}
    write_chrome_trace(path, [session.run_traced(x)[1] for _ in range(3)])
    data = json.loads(path.read_text())
    assert data.keys() == {"traceEvents", "displayTimeUnit"}
    threads: set[tuple[int, int]] = set()
    rows: dict[tuple[int, int], list[tuple[float, float]]] = {}
    arrows: dict[str, list[tuple[str, float]]] = {}
    for event in data["traceEvents"]:
        row = event["pid"], event["tid"]
        if event["ph"] == "M":
            threads |= {row} if event["name"] == "thread_name" else set()
        elif event["ph"] == "X":
            assert event["cat"] in ("call", "copy", "signal", "wait", "run")
            rows.setdefault(row, []).append((event["ts"], event["ts"] + event["dur"]))
        else:
            arrows.setdefault(event["id"], []).append((event["ph"], event["ts"]))
    assert len(rows) == 3  # two devices and the caller
    assert threads == set(rows) - {(2, 0)}
    for spans in rows.values():  # what one row shows does not overlap
        assert all(end <= start + 1e-3 for (_, end), (start, _) in pairwise(sorted(spans)))
    assert len(arrows) == 3 * 2
    for ends in arrows.values():  # an arrow goes forward in time
        assert sorted(phase for phase, _ in ends) == ["f", "s"]
        assert dict(ends)["s"] <= dict(ends)["f"]
