from __future__ import annotations

from dataclasses import replace

import pytest
from drawn_networks import manifest_of, with_rejected

from hios_tvm.report.timeline import (
    OperatorView,
    Transfer,
    measured_timeline,
    median_run,
    predicted_timeline,
    rejected_timelines,
)
from hios_tvm.runtime.trace import RunTrace, make_spans
from hios_tvm.schema.graph import Edge, Operator, OperatorGraph, Tensor
from hios_tvm.schema.manifest import (
    Buffer,
    DeviceSpec,
    Manifest,
    PredictedOperator,
    PredictedTransfer,
    Prediction,
    TensorSpec,
)
from hios_tvm.schema.program import Call, Copy, Program, Signal, Wait

SPEC = TensorSpec("x", "x", (8,), "float32")
MANIFEST = Manifest(
    tvm_version="0",
    model="small",
    inputs=(SPEC,),
    outputs=(),
    devices=tuple(DeviceSpec(name, "cpu", "k.so", "llvm", (), 64) for name in ("cpu@0", "cpu@1")),
    programs=(
        Program("cpu@0", 0, (Call("a", "k", ("x", "a")), Signal(0), Call("b", "k", ("a", "b")))),
        Program("cpu@1", 0, (Wait(0), Copy("a", "a'"), Call("c", "k", ("a'", "a'", "c")))),
    ),
    buffers=tuple(Buffer(n, None, "output", (8,), "float32") for n in ("x", "a", "a'", "b", "c")),
    graph=OperatorGraph(
        "small",
        (
            Operator("a", "k", ("x",), ("a",)),
            Operator("b", "k", ("a",), ("b",)),
            Operator("c", "k", ("a", "a"), ("c",)),
        ),
        tuple(Tensor(name, (8,), "float32") for name in "xabc"),
        inputs=("x",),
        outputs=("b", "c"),
    ),
    prediction=Prediction(
        (
            PredictedOperator("a", 1.0, 0.0, 1.0),
            PredictedOperator("c", 2.0, 2.0, 4.0),
            PredictedOperator("b", 5.0, 1.0, 6.0),
        ),
        (PredictedTransfer("a", "c", 1.0, 2.0),),
        makespan_ms=6.0,
    ),
)
FIRST, SECOND = ("cpu@0", 0), ("cpu@1", 0)
TRACE = RunTrace(
    tuple(
        make_spans(MANIFEST.programs[0], [1_000_000, 3_000_000, 3_000_000, 9_000_000])
        + make_spans(MANIFEST.programs[1], [1_000_000, 3_000_000, 4_000_000, 7_000_000])
    ),
    500_000,
    9_500_000,
)


def test_operators_are_numbered_as_the_prediction_lists_them() -> None:
    view = OperatorView(MANIFEST)
    assert [(n.name, n.number, view.stream[n.name]) for n in view.nodes.values()] == [
        ("a", 1, FIRST),
        ("c", 2, SECOND),
        ("b", 3, FIRST),
    ]
    assert list(OperatorView(replace(MANIFEST, prediction=Prediction())).nodes) == ["a", "b", "c"]


def test_edges_are_those_of_the_graph() -> None:
    """The consumer on the other device reads a copy twice: one edge, its bytes once."""
    view = OperatorView(MANIFEST)
    assert view.edges == (Edge("a", "b", ("a",), 32), Edge("a", "c", ("a",), 32))
    assert view.in_order == ("a", "b", "c")


def test_the_prediction_is_shown_as_it_was_made() -> None:
    timeline = predicted_timeline(OperatorView(MANIFEST))
    assert timeline is not None
    bars = {
        bar.node.name: (bar.stream, bar.start_ms, bar.end_ms) for bar in timeline.bars if bar.node
    }
    assert bars == {"a": (FIRST, 0, 1), "c": (SECOND, 2, 4), "b": (FIRST, 1, 6)}
    assert timeline.transfers == (Transfer(FIRST, SECOND, 1.0, 2.0),)
    assert timeline.makespan_ms == 6.0
    assert predicted_timeline(OperatorView(replace(MANIFEST, prediction=Prediction()))) is None


def test_operators_of_one_stream_group_share_the_time_of_their_stage() -> None:
    """a and b run one after another in a stage of 6 ms, at costs of 1 and 5 ms."""
    stage = (PredictedOperator("a", 1.0, 2.0, 8.0), PredictedOperator("b", 5.0, 2.0, 8.0))
    timeline = predicted_timeline(OperatorView(replace(MANIFEST, prediction=Prediction(stage))))
    assert timeline is not None
    assert [(bar.start_ms, bar.end_ms) for bar in timeline.bars] == [(2.0, 3.0), (3.0, 8.0)]


def test_a_run_is_shown_from_when_its_caller_began() -> None:
    timeline = measured_timeline(OperatorView(MANIFEST), TRACE)
    bars = {bar.node.name if bar.node else "copy": bar for bar in timeline.bars}
    assert bars.keys() == {"a", "b", "c", "copy"}
    assert (bars["a"].start_ms, bars["a"].end_ms) == (0.5, 2.5)
    assert (bars["copy"].stream, bars["copy"].end_ms) == (SECOND, 3.5)
    assert timeline.transfers == (Transfer(FIRST, SECOND, 2.5, 3.5),)
    assert timeline.makespan_ms == 9.0


def test_the_median_run_stands_for_all() -> None:
    runs = [RunTrace((), 0, end) for end in (50, 10, 30)]
    assert median_run(runs) is runs[2]


def test_what_a_broken_prediction_names_is_left_out() -> None:
    """Drawings read manifests whose programs have not been verified."""
    strange = Prediction(
        (PredictedOperator("nowhere", 1.0, 0.0, 1.0), PredictedOperator("a", 0.0, 0.0, 1.0)),
        (PredictedTransfer("nowhere", "a", 0.0, 1.0),),
    )
    program = Program("cpu@9", 0, (Call("d", "k", ("b", "b", "nothing")), Copy("y", "y")))
    broken = replace(MANIFEST, prediction=strange, programs=(*MANIFEST.programs, program))
    timeline = predicted_timeline(OperatorView(broken))
    assert timeline is not None
    assert [bar.node.name for bar in timeline.bars if bar.node] == ["a"]
    assert timeline.transfers == ()
    assert all(edge.dst != "d" for edge in OperatorView(broken).edges)


@pytest.mark.parametrize("kind", ["call", "copy"])
def test_durations_are_those_of_one_kind(kind: str) -> None:
    expected = {"call": {"a": 2.0, "b": 6.0, "c": 3.0}, "copy": {"a'": 1.0}}[kind]
    assert TRACE.durations_ms("call" if kind == "call" else "copy") == expected


def test_numbers_of_another_artifact_are_taken_over() -> None:
    names = list(OperatorView(MANIFEST).nodes)
    view = OperatorView(MANIFEST, {names[-1]: 7, "unknown": 9})
    assert {name: node.number for name, node in view.nodes.items()} == {
        **{name: 10 + i for i, name in enumerate(names[:-1])},
        names[-1]: 7,
    }


def test_schedules_that_were_not_kept_are_shown_as_they_were_expected() -> None:
    kept, other = (manifest_of("squeezenet1_1", name) for name in ("hios-lp", "sequential"))
    manifest = with_rejected(kept, other)
    ((title, timeline),) = rejected_timelines(OperatorView(manifest)).items()
    assert title == "not kept, sequential on cpu@0: predicted 3.00 ms, measured 4.00 ms"
    assert timeline.makespan_ms == other.prediction.makespan_ms
    numbers = {node.name: node.number for node in OperatorView(kept).nodes.values()}
    assert {bar.node.name: bar.node.number for bar in timeline.bars if bar.node} == numbers
    strange = with_rejected(kept, replace(other, schedule={"scheduler": "none"}))
    fewer = replace(other.prediction, operators=other.prediction.operators[1:])
    for broken in (strange, with_rejected(kept, replace(other, prediction=fewer))):
        assert rejected_timelines(OperatorView(broken)) == {}
