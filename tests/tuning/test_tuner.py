"""Tuning from a model to an artifact with a tuned kernel, and interrupted on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import tvm_ffi
from click.testing import CliRunner, Result
from onnx import TensorProto, helper
from tiny_network import DEVICE, model

from hios_tvm import runtime
from hios_tvm.backends.cpu.codegen import kernel_key
from hios_tvm.backends.cpu.targets import parse_target
from hios_tvm.backends.cpu.tuned_kernels import choose_tuned, subject_of
from hios_tvm.backends.cpu.tuning_database import Trial, TunedKernel, TuningDatabase
from hios_tvm.backends.network import lower_network
from hios_tvm.cli import main
from hios_tvm.errors import UsageError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.tuning import search
from hios_tvm.tuning.tuner import TuneOptions, TuningPlan, plan_tuning, tune_kernel

TRIALS = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """XGBoost's threads poll for each other, and tests of other processes need the cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_CPUS", 1)
        yield


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    onnx.save(model(), folder / "tiny.onnx")
    return folder


@pytest.fixture(scope="module")
def options(folder: Path) -> TuneOptions:
    return TuneOptions(
        device=DEVICE, database=folder / "database", trials=TRIALS, cache_dir=folder / "cache"
    )


@pytest.fixture(scope="module")
def plan(options: TuneOptions) -> TuningPlan:
    return plan_tuning(from_onnx(model()), options)


@pytest.fixture(scope="module")
def tuned(plan: TuningPlan, options: TuneOptions) -> TunedKernel:
    steps: list[tuple[int, int]] = []
    tuned = tune_kernel(
        plan, plan.kernels[0], options, progress=lambda _, *step: steps.append(step)
    )
    assert steps == [*((i, TRIALS) for i in range(TRIALS + 1)), (TRIALS, TRIALS)]
    assert tuned is not None
    return tuned


def trials_of(plan: TuningPlan) -> list[Trial]:
    return plan.database.trials(plan.kernels[0].subject)


def test_each_trial_is_another_candidate_that_was_measured(
    plan: TuningPlan, tuned: TunedKernel
) -> None:
    trials = trials_of(plan)
    assert len({trial.trace for trial in trials}) == len(trials) == TRIALS
    assert all((trial.ms is None) == (trial.failure is not None) for trial in trials)
    assert tuned.trace in {trial.trace for trial in trials}
    assert tuned.trials == TRIALS
    assert tuned.default_ms > 0
    assert plan.database.tuned(plan.kernels[0].subject) == tuned


def test_a_second_tune_continues(plan: TuningPlan, tuned: TunedKernel, folder: Path) -> None:
    before = trials_of(plan)
    words = ["tune", folder / "tiny.onnx", "--database", folder / "database", "--device", DEVICE]
    words += ["--cost-cache", folder / "cache", "--share", 0.5, "--trials"]
    result = run(*words, TRIALS, "--json")
    assert result.exit_code == 0, result.output
    assert f"holds {TRIALS} of {TRIALS} trials: continuing" in result.stderr
    assert trials_of(plan) == before  # enough already
    (kernel,) = json.loads(result.stdout)["kernels"]
    assert (kernel["ms"], kernel["default_ms"]) == (tuned.ms, tuned.default_ms)
    result = run(*words, TRIALS + 2)
    assert result.exit_code == 0, result.output
    assert len(trials_of(plan)) > TRIALS
    assert trials_of(plan)[:TRIALS] == before
    assert "all kernels of the model, one after another" in result.stdout


@pytest.fixture
def winning(plan: TuningPlan, tuned: TunedKernel) -> TunedKernel:
    """The database says that the candidate is twice as fast, whatever this machine says."""
    record = replace(tuned, ms=tuned.default_ms / 2)
    plan.database.put_tuned(plan.kernels[0].subject, record)
    return record


def test_compile_uses_a_kernel_that_wins(
    plan: TuningPlan, winning: TunedKernel, folder: Path
) -> None:
    outputs = []
    words = ["--devices", DEVICE, "--cost-cache", folder / "cache"]
    for extra in ([], ["--database", folder / "database"]):
        path = folder / f"tiny{len(extra)}.hios"
        result = run("compile", folder / "tiny.onnx", "-o", path, *words, *extra)
        assert result.exit_code == 0, result.output
        with runtime.load(path) as session:
            x = np.random.default_rng(0).standard_normal((1, 32, 16, 16), dtype=np.float32)
            outputs.append(session.run({"x": x})["y"])
            names = session.manifest.compile_info["tuned_kernels"]
    assert "1 of" in result.stderr and "are tuned ones" in result.stderr
    name = plan.kernels[0].name
    assert names == [name]
    scale = float(np.abs(outputs[0]).max())
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=0, atol=1e-5 * scale)
    choose = partial(choose_tuned, folder=folder / "database", threads=[1, 1])
    network = lower_network(from_onnx(model()), "host", choose=choose)
    tuned, default = (n.lowered["cpu"].mod[name] for n in (network, plan.network))
    assert not tvm_ffi.structural_equal(tuned, default)


def test_what_does_not_win_is_not_used(plan: TuningPlan, winning: TunedKernel) -> None:
    record = replace(winning, ms=winning.default_ms)
    plan.database.put_tuned(plan.kernels[0].subject, record)
    choice = choose(plan)
    assert not choice.traces
    assert "1 tuned ones are not faster" in choice.notes[0]


def test_a_comparison_with_another_default_kernel_is_not_used(
    plan: TuningPlan, winning: TunedKernel
) -> None:
    record = replace(winning, default_kernel="an older rule's")
    plan.database.put_tuned(plan.kernels[0].subject, record)
    choice = choose(plan)
    assert not choice.traces
    assert "run hios-tvm tune again" in choice.notes[1]


def choose(plan: TuningPlan, target: str = "host", threads: tuple[int, ...] = (1,)):
    folder = plan.database.path.parent
    parsed = parse_target(target)
    kernels, defaults = plan.network.kernels, plan.network.lowered["cpu"].mod
    return choose_tuned(kernels, defaults, parsed, folder=folder, threads=threads)


@pytest.mark.parametrize(
    ("target", "threads", "message"),
    [
        ("host", (3,), "with 1 thread, and none for .* with 3 threads"),
        ("cortex-a72", (1,), "none for .*cortex-a72.*default kernels are used"),
        ("host", (1, 2), "different numbers of cores"),
    ],
)
def test_kernels_for_something_else_are_not_used_and_named(
    plan: TuningPlan, winning: TunedKernel, target: str, threads: tuple[int, ...], message: str
) -> None:
    choice = choose(plan, target, threads)
    assert not choice.traces
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(choice.notes[0])


@pytest.mark.slow
def test_a_stopped_tune_keeps_its_trials_and_leaves_no_process(
    plan: TuningPlan, folder: Path
) -> None:
    folder_of_trials = folder / "stopped"
    words = ["tune", folder / "tiny.onnx", "--database", folder_of_trials, "--device", DEVICE]
    words += ["--cost-cache", folder / "cache", "--share", "0.5", "--trials", "1000"]
    code = "from hios_tvm.tuning import search; search._CPUS = 1; "
    code += "from hios_tvm.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    subject = plan.kernels[0].subject
    database = TuningDatabase(folder_of_trials, create=True)
    kept: list[Trial] = []
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while len(database.trials(subject)) <= len(kept):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, number)
        _, messages = process.communicate()
        assert not psutil.wait_procs(children, timeout=60)[1]
        trials = database.trials(subject)
        assert trials[: len(kept)] == kept
        assert len(trials) > len(kept)
        kept = trials
    assert "trials: continuing from there" in messages
    assert "run again to continue" in messages
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(("field", "value"), [("trials", 0), ("share", 0.0), ("share", 1.5)])
def test_options_that_make_no_sense_are_refused(
    options: TuneOptions, field: str, value: float
) -> None:
    with pytest.raises(UsageError, match=r"trial|share"):
        plan_tuning(from_onnx(model()), replace(options, **{field: value}))


def test_a_model_without_kernels_is_one_line(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "nothing",
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
    )
    opset = helper.make_opsetid("", 17)
    path = tmp_path / "nothing.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    result = run("tune", path, "--database", tmp_path / "database", "--device", DEVICE)
    assert result.exit_code == 2
    assert "'nothing' has no kernel that can be tuned" in result.stderr


def test_a_database_that_cannot_be_made_is_one_line(folder: Path, tmp_path: Path) -> None:
    result = run("tune", folder / "tiny.onnx", "--database", folder / "tiny.onnx" / "database")
    assert result.exit_code == 2
    assert "cannot make the folder" in result.stderr
    result = run("compile", folder / "tiny.onnx", "--database", tmp_path, "--devices", DEVICE)
    assert result.exit_code == 2
    assert "holds no tuning database" in result.stderr
    assert run("tune", folder / "tiny.onnx", "--database", tmp_path, "--trials", 0).exit_code == 2


def test_a_damaged_database_is_one_line(folder: Path, tmp_path: Path) -> None:
    TuningDatabase(tmp_path, create=True).path.write_bytes(b"no database" * 1000)
    for words in (["tune", folder / "tiny.onnx"], ["compile", folder / "tiny.onnx"]):
        result = run(*words, "--database", tmp_path)
        assert result.exit_code == 1
        assert "is damaged" in result.stderr
        assert "Traceback" not in result.output


def test_a_damaged_trace_is_one_line(
    plan: TuningPlan, winning: TunedKernel, folder: Path, tmp_path: Path
) -> None:
    form = plan.network.lowered["cpu"]
    name = plan.kernels[0].name
    subject = subject_of(plan.network.kernels[name], form.target, 1)
    record = replace(winning, trace="[[", default_kernel=kernel_key(form.mod[name], form.target))
    TuningDatabase(tmp_path, create=True).put_tuned(subject, record)
    result = run("compile", folder / "tiny.onnx", "--database", tmp_path, "--devices", DEVICE)
    assert result.exit_code == 1
    assert "does not fit its kernel" in result.stderr
