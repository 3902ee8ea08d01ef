"""Sweeps: what is run, what the CSV file keeps, and that an interrupted sweep goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hios_tvm.errors import UsageError
from hios_tvm.experiments.random_graphs import LayeredGraphOptions, layered_graph
from hios_tvm.experiments.sweeps import (
    SWEEPS,
    Run,
    mean_over_bound,
    read_runs,
    run_sweep,
    runs_of,
)
from hios_tvm.schedulers import make_schedule

SMALL = LayeredGraphOptions(operators=24, edges=48, layers=5, devices=3)
SCHEDULERS = ("sequential", "hios-lp")


def small_runs(seeds: int = 2) -> list[Run]:
    return runs_of("devices", SCHEDULERS, seeds=range(seeds), base=SMALL)


def results(runs: list[Run]) -> list[tuple[float | None, ...]]:
    return [(r.makespan_ms, r.lower_bound_ms, r.speedup, r.transfers) for r in runs]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    path = tmp_path_factory.mktemp("sweep") / "runs.csv"
    return path, run_sweep(small_runs(), path)


def test_a_row_says_what_the_scheduler_made(finished: tuple[Path, list[Run]]) -> None:
    _, runs = finished
    assert len(runs) == 2 * 6 * 2
    run = runs[-1]
    assert (run.scheduler, run.devices, run.seed, run.operators) == ("hios-lp", 12, 1, 24)
    instance = layered_graph(replace(SMALL, devices=12), seed=1)
    schedule = make_schedule("hios-lp", instance.graph, instance.costs, instance.platform)
    assert run.makespan_ms == schedule.makespan_ms
    assert run.lower_bound_ms == schedule.lower_bound_ms
    assert all(r.speedup == 1.0 and r.transfers == 0 for r in runs if r.scheduler == "sequential")


def test_the_file_holds_all_runs(finished: tuple[Path, list[Run]]) -> None:
    path, runs = finished
    again = read_runs(path)
    assert again == runs
    assert results(again) == results(runs)


@pytest.mark.parametrize("kept_bytes", [0, 60, 400, 2000])
def test_an_interrupted_sweep_goes_on(
    finished: tuple[Path, list[Run]], tmp_path: Path, kept_bytes: int
) -> None:
    """Whole lines are kept, as `run_sweep` writes them; a file without any starts anew."""
    path, runs = finished
    content = path.read_bytes()
    kept = content[: content.find(b"\n", kept_bytes) + 1] if kept_bytes else b""
    (tmp_path / "runs.csv").write_bytes(kept)
    steps: list[tuple[int, int]] = []
    done = run_sweep(
        small_runs(), tmp_path / "runs.csv", progress=lambda _, i, n: steps.append((i, n))
    )
    assert results(done) == results(runs)
    assert steps[0] == (max(0, kept.count(b"\n") - 1), 24)
    assert steps[-1] == (24, 24)
    assert (tmp_path / "runs.csv").read_bytes().startswith(kept)
    assert len(read_runs(tmp_path / "runs.csv")) == 24


def test_what_is_there_is_not_computed_again(finished: tuple[Path, list[Run]]) -> None:
    path, runs = finished
    before = path.read_bytes()
    assert run_sweep(small_runs(seeds=1), path) == runs[:12]
    assert path.read_bytes() == before


def test_processes_find_the_same(finished: tuple[Path, list[Run]], tmp_path: Path) -> None:
    done = run_sweep(small_runs(seeds=1), tmp_path / "runs.csv", jobs=2)
    assert results(done) == results(finished[1][:12])


def test_options_reach_the_schedulers_that_have_them(tmp_path: Path) -> None:
    runs = runs_of("devices", SCHEDULERS, seeds=[0], base=SMALL, options={"inter_only": True})
    done = run_sweep(runs[:4], tmp_path / "runs.csv")
    assert [run.options for run in done] == ["{}", '{"inter_only": true}'] * 2
    assert [run.error for run in done] == [""] * 4
    grouped = run_sweep(small_runs(1)[:4], tmp_path / "runs.csv")
    assert results(grouped) != results(done)
    assert len(read_runs(tmp_path / "runs.csv")) == 6  # `sequential` is there already


def test_a_scheduler_that_refuses_a_graph_has_a_row_with_the_reason(tmp_path: Path) -> None:
    runs = runs_of("devices", ["optimal"], seeds=[0])[:1]
    (done,) = run_sweep(runs, tmp_path / "runs.csv")
    assert done.error
    assert done.makespan_ms is None
    assert read_runs(tmp_path / "runs.csv")[0].error == done.error


def test_means_are_over_seeds(finished: tuple[Path, list[Run]]) -> None:
    means = mean_over_bound(finished[1])
    assert list(means) == ["sequential", "hios-lp"]
    assert list(means["hios-lp"]) == [2, 4, 6, 8, 10, 12]
    ratios = [
        run.makespan_ms / run.lower_bound_ms
        for run in finished[1]
        if run.scheduler == "hios-lp" and run.value == 4 and run.makespan_ms and run.lower_bound_ms
    ]
    assert means["hios-lp"][4] == sum(ratios) / 2
    failed = Run("devices", 2, 0, "optimal", "{}", 24, 48, 5, 0.8, 2, error="too large")
    assert mean_over_bound([failed]) == {}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_graph_of_every_sweep_can_be_drawn(sweep: str) -> None:
    base = LayeredGraphOptions()
    for value in SWEEPS[sweep].values:
        for seed in range(3):
            layered_graph(SWEEPS[sweep].at(base, value), seed=seed)


def test_unknown_sweeps_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sweep 'width'; there are devices, "):
        runs_of("width", SCHEDULERS, seeds=[0])
    for content in (b"a,b\n1,2\n", b"\xff\xfe\x00", b"{}"):
        (tmp_path / "other.csv").write_bytes(content)
        with pytest.raises(UsageError, match=r"other\.csv"):
            run_sweep(small_runs(), tmp_path / "other.csv")
        assert (tmp_path / "other.csv").read_bytes() == content
    with pytest.raises(UsageError, match="cannot write"):
        run_sweep(small_runs(), tmp_path / "missing" / "runs.csv")
