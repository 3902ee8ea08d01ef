"""``schedule`` and ``simulate`` as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from hios_tvm.cli import main
from hios_tvm.experiments.sweeps import read_runs
from hios_tvm.schedulers import SCHEDULERS
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.instance import read_instance
from hios_tvm.schema.schedule import Schedule

CORE = min(os.sched_getaffinity(0))
SMALL = ("--operators", 24, "--edges", 48, "--layers", 5, "--schedulers", "sequential,hios-lp")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Six equal operators between a source and a sink."""
    names = [f"v{i}" for i in range(6)]
    data = {
        "operators": [{"name": name, "latency_ms": 2.0} for name in ["end", *names, "start"]],
        "edges": [{"src": "start", "dst": name, "transfer_ms": 0.25} for name in names]
        + [{"src": name, "dst": "end", "transfer_ms": 0.25} for name in names],
        "num_devices": 3,
    }
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(data))
    return path


def test_help_and_list_name_what_there_is() -> None:
    assert "num_devices" in succeed("schedule", "--help")
    assert "transfer-ratio" in succeed("simulate", "--help")
    listed = succeed("schedule", "--list")
    for name, entry in SCHEDULERS.items():
        assert name in listed
        assert all(field.name in listed for field in fields(entry.options))


def test_schedule_compares_all_schedulers(graph: Path) -> None:
    output = succeed("schedule", graph)
    assert "graph: 8 operators, 12 edges, 3 devices" in output
    for column in ("makespan", "speed-up", "gap", "transfers", "seconds", *SCHEDULERS):
        assert column in output
    data = json.loads(succeed("schedule", graph, "--devices", 2, "--json"))
    assert set(data["schedulers"]) | set(data["failures"]) == set(SCHEDULERS)
    assert data["devices"] == 2
    assert data["schedulers"]["sequential"]["makespan_ms"] == 16.0
    lp = data["schedulers"]["hios-lp"]
    assert lp["makespan_ms"] == 10.5
    assert lp["speedup"] == 16.0 / 10.5
    assert lp["gap"] == lp["makespan_ms"] / lp["lower_bound_ms"] - 1.0


def test_schedule_writes_what_the_evaluator_accepts(graph: Path, tmp_path: Path) -> None:
    file = tmp_path / "schedule.json"
    printed = succeed("schedule", graph, "--scheduler", "hios-lp", "--json", "-o", file)
    assert json.loads(printed) == json.loads(file.read_text())
    assert {"version", "scheduler", "makespan_ms", "lower_bound_ms", "devices"} <= set(
        json.loads(printed)
    )
    schedule = Schedule.from_json(file.read_text())
    instance = read_instance(graph)
    timeline = evaluate(instance.graph, instance.costs, instance.platform, schedule)
    assert timeline.makespan_ms == schedule.makespan_ms == 8.5


def test_schedule_draws_what_it_compares(graph: Path, tmp_path: Path) -> None:
    svg = tmp_path / "schedules.svg"
    succeed("schedule", graph, "--scheduler", "sequential,auto,refine", "--plot", svg)
    picture = svg.read_text()
    assert picture.index(">auto: ") < picture.index(">sequential: 16.0 ms")  # the best first
    assert ">refine: " in picture
    result = run("schedule", graph, "--plot", tmp_path / "schedules.gif")
    assert result.exit_code == 2
    assert "name a .svg or .png file" in result.stderr


def test_schedule_takes_options(graph: Path) -> None:
    data = json.loads(
        succeed(
            "schedule", graph, "--scheduler", "hios-lp", "--streams", 4, "--window", 4,
            "--option", "max-streams=4", "--json",
        )
    )  # fmt: skip
    assert data["options"]["window"] == data["options"]["max_streams"] == 4
    only = json.loads(
        succeed("schedule", graph, "--scheduler", "hios-lp", "--inter-only", "--json")
    )
    assert only["options"]["inter_only"] is True


def test_saved_costs_are_scheduled_and_compiled_again(tmp_path: Path) -> None:
    model = tmp_path / "chain.onnx"
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in ("xh", "hy")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, 8]) for name in "xy"]
    weights = onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    chain = helper.make_graph(nodes, "chain", values[:1], values[1:], [weights])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(chain, opset_imports=opsets, ir_version=8), model)
    costs = tmp_path / "costs.json.gz"
    common = ("compile", model, "--devices", f"cpu@{CORE}", "--cost-cache", tmp_path)
    succeed(*common, "-o", tmp_path / "first.hios", "--save-costs", costs)
    data = json.loads(succeed("schedule", costs, "--devices", 3, "--link", "pcie4", "--json"))
    assert (data["graph"], data["operators"], data["devices"]) == ("chain", 2, 3)
    # A chain gains nothing from more devices.
    assert data["schedulers"]["hios-lp"]["speedup"] == 1.0
    succeed(*common, "-o", tmp_path / "again.hios", "--costs", costs)
    assert (tmp_path / "again.hios").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--scheduler", "fastest"), 2, "scheduler 'fastest' is unknown"),
        (("--option", "windw=2"), 2, "no scheduler has an option 'windw'"),
        (("--scheduler", "sequential", "--window", "2"), 2, "has an option 'window'"),
        (("--devices", "0"), 2, "--devices"),
        (("--link", "token-ring"), 2, "--link"),
        (("-o", "missing/schedule.json"), 2, "missing"),
    ],
)
def test_wrong_use_of_schedule(
    graph: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = run("schedule", graph, *arguments)
    assert result.exit_code == code
    assert message in result.stderr


def test_a_bad_graph_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text('{"operators": [{"name": "a", "latency_ms": NaN}], "num_devices": 2}')
    result = run("schedule", path)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: operator 'a': latency_ms must be finite and not negative, got nan\n"
    )


def test_simulate_writes_csv_tables_and_plots(tmp_path: Path) -> None:
    arguments = ("simulate", "--sweep", "devices,transfer-ratio", "--seeds", 2, *SMALL)
    file = tmp_path / "runs.csv"
    output = succeed(*arguments, "-o", file, "--plots", tmp_path)
    assert "by devices" in output
    assert "by transfer-ratio" in output
    runs = read_runs(file)
    assert len(runs) == 2 * 2 * (6 + 6)
    for sweep in ("devices", "transfer-ratio"):
        drawing = (tmp_path / f"simulation_{sweep}.svg").read_text()
        assert "<svg" in drawing
    means = json.loads(succeed(*arguments, "-o", file, "--json"))
    ratios = [
        run.makespan_ms / run.lower_bound_ms
        for run in runs
        if (run.sweep, run.scheduler, run.value) == ("devices", "hios-lp", 8)
        and run.makespan_ms is not None
        and run.lower_bound_ms is not None
    ]
    assert means["devices"]["hios-lp"]["8.0"] == sum(ratios) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sweep", "width"), "no sweep 'width'"),
        (("--schedulers", "fastest"), "scheduler 'fastest' is unknown"),
        (("--window", "2", "--schedulers", "sequential"), "has an option 'window'"),
        (("-o", "/dev/null/runs.csv"), "cannot make the folder /dev/null"),
        (("--seeds", "0"), "--seeds"),
    ],
)
def test_wrong_use_of_simulate(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run("simulate", "-o", tmp_path / "runs.csv", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "runs.csv").exists()


def test_edges_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    result = run("simulate", "-o", tmp_path / "runs.csv", "--edges", 300, "--seeds", 1)
    assert result.exit_code == 2
    assert "300 edges do not fit" in result.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_keeps_what_is_done(tmp_path: Path, jobs: int) -> None:
    file = tmp_path / "runs.csv"
    # Where pytest runs in the background, children inherit that SIGINT is ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", code + "from hios_tvm.cli import main; main()"]
    command += ["simulate", "--schedulers", "hios-lp", "--seeds", "500", "-o", str(file)]
    command += ["--jobs", str(jobs)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the interrupt of a terminal reaches the whole group
    )
    while process.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") > 2):
        time.sleep(0.05)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 2.5
    assert process.returncode == 130
    assert f"interrupted; {file} keeps what was computed: run again to continue" in errors
    assert "Traceback" not in errors
    assert 2 <= len(read_runs(file)) < 3000


def test_schedule_places_operators_for_throughput(tmp_path: Path) -> None:
    operators = [{"name": name, "latency_ms": ms} for name, ms in (("a", 3), ("b", 4), ("c", 1))]
    edges = [
        {"src": "a", "dst": "b", "transfer_ms": 0},
        {"src": "b", "dst": "c", "transfer_ms": 0},
    ]
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps({"operators": operators, "edges": edges, "num_devices": 2}))
    arguments = ("schedule", graph, "--objective", "throughput", "--option", "moves=300")
    found = json.loads(succeed(*arguments, "--json", "-"))
    assert (found["interval_ms"], found["lower_bound_ms"]) == (4.0, 4.0)
    placed = {tuple(device["operators"]): device["load_ms"] for device in found["devices"]}
    assert placed == {("a", "c"): 4.0, ("b",): 4.0}
    assert "4.000 ms from one result to the next" in succeed(*arguments)
    for wrong, message in (
        (("--option", "window=1"), "has no option 'window'"),
        (("--scheduler", "heft"), "makes no schedule"),
    ):
        result = run(*arguments, *wrong)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
