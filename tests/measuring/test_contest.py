"""`auto` tries schedules out as real artifacts, and keeps the fastest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hios_tvm import runtime
from hios_tvm.compiler import Compilation, CompileOptions, compile_model
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.measuring.contest import (
    MOST_ENTRANTS,
    MeasuredSchedule,
    choose_entrants,
    trials_of,
    winner,
)
from hios_tvm.report.timeline import OperatorView, rejected_timelines
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage
from hios_tvm.verification.inputs import random_inputs
from hios_tvm.verification.onnx_reference import onnxruntime_outputs
from hios_tvm.zoo import build

CORES = sorted(os.sched_getaffinity(0))
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


def schedule(name: str, *operators: int, makespan_ms: float = 1.0) -> Schedule:
    devices = tuple(
        DeviceSchedule(f"cpu@{d}", tuple(Stage(((f"v{d}{i}",),)) for i in range(count)))
        for d, count in enumerate(operators)
    )
    return Schedule(name, devices, makespan_ms=makespan_ms)


def test_the_best_few_and_the_best_single_device_take_part() -> None:
    wide = [schedule(f"wide{i}", 1, 1 + i, makespan_ms=0.9) for i in range(5)]
    alone = [schedule("alone", 3, 0), schedule("also alone", 0, 3)]
    assert choose_entrants([*wide, *alone]) == [alone[0], *wide[:MOST_ENTRANTS]]
    hardly = [schedule("hardly faster", 1, 1, makespan_ms=0.995)]
    assert choose_entrants([*hardly, *alone]) == [alone[0]]
    assert choose_entrants(wide[:1]) == wide[:1]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([(5.0,), (4.9,), (4.8,)], 2),
        ([(5.0,), (4.99,), (5.1,)], 0),
        ([(5.0,)], 0),
        # The machine was slow in the first two turns, and the second schedule faster in each.
        ([(9.0, 9.0, 5.0), (8.0, 8.0, 4.5)], 1),
        # Its median is smaller, and it was slower in two of three turns.
        ([(9.0, 5.0, 5.0), (4.0, 5.1, 5.2)], 0),
    ],
)
def test_the_simplest_wins_where_others_are_hardly_faster(
    turns: list[tuple[float, ...]], expected: int
) -> None:
    trials = [MeasuredSchedule("s", (), 1.0, turns_ms) for turns_ms in turns]
    assert winner(trials) == expected


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> CompileOptions:
    return CompileOptions(
        devices=tuple(f"cpu@{core}" for core in CORES[:2]),
        scheduler="auto",
        scheduler_options={"moves": 200},
        cache_dir=tmp_path_factory.mktemp("cache"),
    )


@pytest.fixture(scope="module")
def compiled(
    options: CompileOptions, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Compilation, Path]:
    """Whatever this machine makes of the schedules, more than one takes part."""
    path = tmp_path_factory.mktemp("contest") / "net.hios"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hios_tvm.measuring.contest.LEAST_GAIN", -1e9)
        module = from_onnx(build("squeezenet1_1", height=64, width=64))
        return compile_model(module, path, options), path


@needs_two_cores
def test_the_fastest_is_kept(compiled: tuple[Compilation, Path]) -> None:
    result, _ = compiled
    fastest = min(result.trials, key=lambda trial: trial.relative_to(result.trials[0]))
    assert 2 <= len(result.trials) <= MOST_ENTRANTS + 1
    assert result.schedule.scheduler == fastest.scheduler
    assert result.schedule.makespan_ms == pytest.approx(fastest.predicted_ms)
    assert any(len(trial.devices) == 1 for trial in result.trials)


@needs_two_cores
def test_an_artifact_says_what_was_tried_out(compiled: tuple[Compilation, Path]) -> None:
    result, path = compiled
    told = trials_of(read_manifest(path))
    own = [replace(trial, schedule=None, prediction=None) for trial in told]
    assert own == [trial.kept() for trial in result.trials]
    rejected = [trial for trial in told if trial.prediction is not None]
    assert len(rejected) == len(told) - 1
    for trial in rejected:
        assert trial.schedule is not None and trial.prediction is not None
        assert trial.schedule["scheduler"] == trial.scheduler
        assert trial.prediction.makespan_ms == pytest.approx(trial.predicted_ms)
    assert len(rejected_timelines(OperatorView(result.manifest))) == len(rejected)


@needs_two_cores
def test_what_was_kept_computes_the_model(compiled: tuple[Compilation, Path]) -> None:
    model = build("squeezenet1_1", height=64, width=64)
    with runtime.load(compiled[1]) as session:
        inputs = random_inputs(session.inputs, seed=1)
        outputs = session.run(inputs)
    for name, expected in onnxruntime_outputs(model, inputs).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-4, atol=1e-4)


@needs_two_cores
def test_given_costs_are_believed(
    compiled: tuple[Compilation, Path], options: CompileOptions, tmp_path: Path
) -> None:
    module = from_onnx(build("squeezenet1_1", height=64, width=64))
    given = replace(options, costs=compiled[0].costs)
    result = compile_model(module, tmp_path / "net.hios", given)
    assert result.trials == ()
    assert result.schedule.scheduler == "auto"
