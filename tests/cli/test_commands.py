"""The commands as a user types them: results on standard output, errors in one line, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from hios_tvm.cli import main
from hios_tvm.cli.options import print_table
from hios_tvm.report.explain import DeviceReport
from hios_tvm.schema.manifest import FORMAT_VERSION

CORE = min(os.sched_getaffinity(0))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """Relu(x @ w + b) + sigmoid(x)."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((8, 8)), "b": rng.standard_normal(8)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Add", ["r", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    path = folder / "small.onnx"
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def artifact(folder: Path, model: Path) -> Path:
    path = folder / "small.hios"
    output = succeed(
        "compile", model, "-o", path, "--devices", f"cpu@{CORE}", "--cost-cache", folder / "cache",
        "--save-costs", folder / "costs.json", "--save-placement", folder / "placement.json",
        "--verify",
    )  # fmt: skip
    assert "predicted makespan" in output
    assert "largest error" in output
    return path


@pytest.mark.parametrize("has_begun", [False, True])
def test_an_interrupted_compile_ends_soon_and_says_what_is_kept(
    tmp_path: Path, has_begun: bool
) -> None:
    """While modules are imported, and in the middle of the work."""
    model, cache = tmp_path / "model.onnx", tmp_path / "cache"
    succeed("zoo", "squeezenet1_1", "-o", model)
    # Where pytest runs in the background, children inherit that SIGINT is ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); print(); "
    command = [sys.executable, "-uc", code + "from hios_tvm.cli import main; main()", "compile"]
    words = [str(model), "--cost-cache", str(cache)]
    with subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # from here on it notices the signal
        time.sleep(1.0)
        while has_begun and not list(cache.glob("kernels*/*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 5  # two seconds where the cores are free
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted" in errors
    assert not has_begun or "measured costs and compiled kernels" in errors
    assert {path.name for path in tmp_path.iterdir()} <= {"model.onnx", "cache"}


COMMANDS = main.list_commands(click.Context(main))


def test_help_names_every_command_and_the_exit_codes() -> None:
    output = succeed("--help")
    for word in (*COMMANDS, "Exit codes"):
        assert word in output


def test_shells_complete_the_names_of_schedulers() -> None:
    for words, incomplete, expected in (
        (["compile", "m", "--scheduler"], "hi", {"hios-lp", "hios-mr"}),
        (["schedule", "g", "--scheduler"], "heft,op", {"heft,optimal"}),
    ):
        found = ShellComplete(main, {}, "hios-tvm", "X").get_completions(words, incomplete)
        assert {item.value for item in found} == expected


def test_tables_fit_into_80_columns(artifact: Path) -> None:
    """Also for devices with long names and large numbers."""
    report = DeviceReport(
        "cpu@0-15+32-47", 12345, 12345, 12345.6, 1, 2**37, 2**33, 12345, 2**33, 12345
    )
    with click.Context(main), CliRunner().isolation() as (out, *_):
        print_table("title", list(report.COLUMNS), [report.cells()])
        lines = out.getvalue().decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert "cpu@0-15+32-47" in lines[-2] or "cpu@0-15+32-47" in lines[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    assert "Usage:" in succeed(command, "--help")


def test_zoo_writes_the_same_model_for_the_same_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        succeed(
            "zoo", "squeezenet1_1", "--height", 64, "--width", 64, "-o", tmp_path / f"{name}.onnx"
        )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert "inception_v3" in succeed("zoo")


def test_run_writes_outputs_that_equal_recorded_ones(
    artifact: Path, model: Path, tmp_path: Path
) -> None:
    x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(4, 8)
    np.save(tmp_path / "x.npy", x)
    succeed(
        "run", artifact, "--input", f"x={tmp_path / 'x.npy'}", "--output-dir", tmp_path / "out",
        "--save-inputs", "--verify", model,
    )  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "x.npy"), x)
    np.savez(tmp_path / "recorded.npz", y=np.load(tmp_path / "out" / "y.npy"))
    succeed(
        "run", artifact, "--input", f"x={tmp_path / 'x.npy'}", "--verify", tmp_path / "recorded.npz"
    )
    np.savez(tmp_path / "wrong.npz", y=np.load(tmp_path / "out" / "y.npy") + 1)
    result = run(
        "run", artifact, "--input", f"x={tmp_path / 'x.npy'}", "--verify", tmp_path / "wrong.npz"
    )
    assert result.exit_code == 1
    assert "differ from" in result.stderr


def test_random_inputs_come_from_the_seed(artifact: Path) -> None:
    first, again = (succeed("run", artifact, "--seed", 1, "--json") for _ in range(2))
    assert json.loads(first) == json.loads(again)
    assert json.loads(first) != json.loads(succeed("run", artifact, "--seed", 2, "--json"))


def test_benchmark_reports_percentiles_and_busy_devices(artifact: Path) -> None:
    data = json.loads(succeed("benchmark", artifact, "--iterations", 20, "--duration", 0, "--json"))
    assert data["latency"]["runs"] == 20
    assert set(data["latency"]["percentiles_ms"]) == {"p50", "p90", "p95", "p99", "p99.9"}
    assert 0 < data["busy_ms"][f"cpu@{CORE}"] < data["latency"]["max_ms"]
    data = json.loads(
        succeed(
            "benchmark", artifact, "--iterations", 20, "--duration", 0, "--concurrency", 3, "--json"
        )
    )
    assert data["latency"]["runs"] >= 20
    assert data["busy_ms"] == {}


def test_benchmark_runs_several_sessions(artifact: Path) -> None:
    words = ["benchmark", artifact, "--iterations", 40, "--duration", 0, "--json"]
    data = json.loads(succeed(*words, "--sessions", 3))
    assert (data["sessions"], data["concurrency"]) == (3, 1)
    assert data["latency"]["runs"] >= 40
    assert 0 < data["busy_share"][f"cpu@{CORE}"] <= 1
    data = json.loads(succeed(*words, "--sessions", 2, "--concurrency", 2))
    assert (data["sessions"], data["concurrency"]) == (2, 2)


def test_benchmark_names_operators_that_are_far_from_their_cost(artifact: Path) -> None:
    words = ["benchmark", artifact, "--iterations", 5, "--duration", 0]
    data = json.loads(succeed(*words, "--json"))
    assert data["operator_ms"].keys() == data["cost_ms"].keys()
    output = succeed(*words)
    assert "furthest from their cost" in output
    assert all(operator in output for operator in data["cost_ms"])  # it has few


def test_inspect_shows_what_the_compile_decided(artifact: Path, folder: Path) -> None:
    data = json.loads(succeed("inspect", artifact, "--json"))
    assert data["inputs"][0]["name"] == "x"
    assert data["devices"][0]["share"] == 1.0
    placement = json.loads((folder / "placement.json").read_text())
    assert json.loads(succeed("inspect", artifact, "--schedule")) == placement
    assert f"format {FORMAT_VERSION}" in succeed("inspect", artifact, "--version-only")


def test_compare_lists_every_contestant(artifact: Path, model: Path, tmp_path: Path) -> None:
    key, signed = tmp_path / "build.pem", tmp_path / "signed.hios"
    succeed("sign", "--new-key", key)
    succeed("sign", artifact, "--key", key, "-o", signed)
    words = ["--iterations", 5, "--warmup", 1, "--verify-key", tmp_path / "build.pub.pem"]
    data = json.loads(succeed("compare", model, signed, *words, "--json"))
    names = {contestant["name"] for contestant in data["contestants"]}
    assert names == {"tvm-default", "same-kernels", "onnxruntime", "openvino", "artifact"}
    ours = next(c for c in data["contestants"] if c["name"] == "artifact")
    assert ours["speedup"] == 1.0
    assert ours["max_error"] < 1e-4
    words = ["--iterations", 2, "--warmup", 0, "--json", "--time-limit"]
    data = json.loads(succeed("compare", model, artifact, *words, 20, "--rivals", "onnxruntime"))
    assert [contestant["name"] for contestant in data["contestants"]] == ["onnxruntime", "artifact"]
    result = run("compare", model, artifact, "--rivals", "tvm")
    assert result.exit_code == 2
    assert "no rival 'tvm': there are tvm-default, same-kernels, onnxruntime" in result.stderr
    result = run("compare", model, artifact, "--rivals", "torch")
    assert result.exit_code == 2
    assert "'torch' needs the model as torch.export.save writes it: --torch" in result.stderr


def test_a_saved_placement_and_costs_compile_to_the_same_schedule(
    artifact: Path, model: Path, folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.hios"
    succeed(
        "compile", model, "-o", again, "--devices", f"cpu@{CORE}", "--no-cache",
        "--costs", folder / "costs.json", "--placement", folder / "placement.json",
    )  # fmt: skip
    assert succeed("inspect", again, "--schedule") == succeed("inspect", artifact, "--schedule")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compile", "{model}", "--devices", "gpu:7"], 2, "did you mean cuda:7?"),
        (["compile", "{model}", "--devices", "cpu0"], 2, "did you mean cpu@0?"),
        (["compile", "{model}", "--devices", "cpu@0-"], 2, "write cpu@0, cpu@0-3"),
        (["compile", "{model}", "--devices", "tpu:0"], 2, "device 'tpu:0' is unknown"),
        (["compile", "{model}", "--devices", "cpu@99"], 2, "write for example cpu@{core}"),
        (["compile", "{model}", "--memory", "cpu@{core}=512"], 2, "has no unit"),
        (["compile", "{open}"], 2, "such as --shape x:1,8"),
        (["compile", "{model}", "--devices", "cpu@{core},cpu@{core}"], 2, "twice"),
        (["compile", "{model}", "--scheduler", "best"], 2, "scheduler 'best' is unknown"),
        (["compile", "{model}", "--scheduler", "hios-pl"], 2, "did you mean hios-lp?"),
        (["compile", "{model}", "--scheduler", "hios"], 2, "did you mean hios-lp or hios-mr?"),
        (["simulate", "-o", "{text}.csv", "--operators", "9"], 2, "do not fit into"),
        (["compile", "{model}", "--target", "z80"], 2, "target 'z80' is unknown"),
        (["compile", "{model}", "-o", "/nowhere/x.hios"], 2, "does not exist"),
        (["compile", "{model}", "--shape", "x"], 2, "x"),
        (["compile", "{model}", "--placement", "{model}"], 1, "not a schedule"),
        (["compile", "{model}", "--costs", "{model}"], 1, "not a cost table"),
        (["compile", "{text}"], 2, "unknown kind of model"),
        (["run", "{model}"], 1, "error:"),
        (["run", "{artifact}", "--input", "z={model}"], 2, "cannot read"),
        (["run", "{artifact}", "--range", "3"], 2, "--range"),
        (["run", "{artifact}", "--range", "nan,1"], 2, "--range nan,1: the difference"),
        (["run", "{artifact}", "--range", "-1e308,1e308"], 2, "has to be a finite number"),
        (["run", "{artifact}", "--seed", "-1"], 2, "--seed"),
        (["run", "{artifact}", "--rtol", "nan"], 2, "nan is no number"),
        (["benchmark", "{artifact}", "--duration", "inf"], 2, "inf is no number"),
        (["compile", "{model}", "--max-steps", "nan"], 2, "nan is no number"),
        (["compile", "{model}", "--max-steps", "1"], 1, "steps, more than 1.0e+00"),
        (["run", "{artifact}", "--devices", "cpu@99"], 2, "cpu@99"),
        (["benchmark", "{artifact}", "--percentiles", "high"], 2, "--percentiles"),
        (["inspect", "{text}"], 1, "error:"),
    ],
)
def test_a_wrong_call_gives_one_clear_line(
    arguments: list[str], code: int, message: str, model: Path, artifact: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.md"
    text.write_text("no model")
    symbolic = onnx.load(model)
    symbolic.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    onnx.save(symbolic, tmp_path / "open.onnx")
    words = {"model": model, "artifact": artifact, "text": text, "core": CORE}
    words["open"] = tmp_path / "open.onnx"
    result = run(*(argument.format(**words) for argument in arguments))
    assert result.exit_code == code, result.output
    assert message.format(**words) in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_an_idle_device_is_named_with_the_reason(model: Path, folder: Path) -> None:
    first, second = (f"cpu@{core}" for core in sorted(os.sched_getaffinity(0))[:2])
    path = folder / "two.hios"
    words = ["compile", model, "-o", path, "--devices", f"{first},{second}"]
    words += ["--cost-cache", folder / "cache"]
    for scheduler in ("sequential", "greedy", "ios"):
        output = succeed(*words, "--scheduler", scheduler, "--no-verify")
        assert f"{second} got nothing: the scheduler {scheduler!r} uses one device" in output
    plan = folder / "plan.json"
    output = succeed(*words, "--scheduler", "hios-lp", "--save-placement", plan)
    assert f"{second} got nothing: the model has only 1 operator" in output
    output = succeed(*words, "--no-verify")
    assert "no schedule on several devices is predicted to gain 3%" in output
    limited = [*words, "--scheduler", "hios-lp", "--no-verify", "--memory"]
    output = succeed(*limited, f"{second}=1B")
    assert f"{second} got nothing: no operator fits into its memory limit of 1 bytes" in output
    assert "memory limit of 1000000 bytes may be the cause" in succeed(*limited, f"{second}=1MB")
    output = succeed("benchmark", path, "--iterations", 5, "--duration", 0)
    assert f"{second} is idle: it has no operators" in output
    output = succeed(*words, "--placement", plan, "--no-verify")
    assert f"{second} got nothing: the given schedule places no operator there" in output


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_an_idle_device_is_explained_by_what_its_scheduler_does(folder: Path) -> None:
    """Two operators in a chain, and a transfer that costs more than both."""
    weight = onnx.numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Softmax", ["m"], ["y"])],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 64])],
        [weight],
    )
    model, path = folder / "chain.onnx", folder / "chain.hios"
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), model)
    first, second = (f"cpu@{core}" for core in sorted(os.sched_getaffinity(0))[:2])
    words = ["compile", model, "-o", path, "--devices", f"{first},{second}", "--no-verify"]
    words += ["--cost-cache", folder / "cache"]
    for scheduler, reason in {
        "hios-lp": "puts each path of operators where the mapped part of the graph ends first",
        "hios-mr": "keeps the mapping with the smallest makespan that it finds",
        "heft": "puts each operator where it ends first",
        "refine": "keeps the schedule with the smallest predicted makespan that it finds",
        "optimal": "returns the schedule with the smallest makespan on independent devices",
    }.items():
        data = json.loads(succeed(*words, "--scheduler", scheduler, "--json"))
        assert [device["operators"] for device in data["devices"]] == [2, 0]
        (note,) = data["notes"]
        assert note.startswith(f"{second} got nothing: the scheduler {scheduler!r} {reason}")


def test_run_writes_a_trace(artifact: Path, tmp_path: Path) -> None:
    succeed("run", artifact, "--trace", tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    kinds = [event["cat"] for event in events if event["ph"] == "X"]
    (call,) = (event for event in events if event.get("cat") == "call")
    assert call["name"] == "m"  # the product, which has no name, by its output's
    assert call["args"]["nodes"].startswith("m, ")
    assert call["args"]["cost_ms"] > 0
    assert kinds.count("run") == 1
    result = run("run", artifact, "--trace", tmp_path / "missing" / "trace.json")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_plot_draws_timelines_and_graphs(artifact: Path, tmp_path: Path) -> None:
    svg, graph = tmp_path / "t.svg", tmp_path / "g.svg"
    succeed("plot", artifact, "-o", svg, "--iterations", 3, "--warmup", 0)
    assert "predicted" in svg.read_text()
    assert "the median of 3 runs" in svg.read_text()
    succeed("plot", artifact, "-o", graph, "--iterations", 0, "--graph")
    assert f"cpu@{CORE}" in graph.read_text()
    result = run("plot", artifact, "-o", graph, "--graph", "--rejected")
    assert result.exit_code == 2
    result = run("plot", artifact, "-o", tmp_path / "t.gif")
    assert result.exit_code == 2
    assert "name a .svg or .png file" in result.stderr


def test_plot_draws_artifacts_on_one_axis(artifact: Path, tmp_path: Path) -> None:
    other, svg = tmp_path / "other.hios", tmp_path / "t.svg"
    other.write_bytes(artifact.read_bytes())
    succeed("plot", artifact, other, "-o", svg, "--iterations", 0, "--rejected")
    for path in (artifact, other):
        assert f"{path.name}, predicted: " in svg.read_text()


def test_plot_writes_png_files(artifact: Path, tmp_path: Path) -> None:
    png = tmp_path / "t.png"
    result = run("plot", artifact, "-o", png, "--iterations", 0)
    if find_spec("resvg_py") is None:
        assert result.exit_code == 2
        assert "pip install 'hios-tvm[plot]'" in result.stderr
    else:
        assert png.read_bytes().startswith(b"\x89PNG")


def test_report_writes_one_page(artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    succeed("report", artifact, "-o", path, "--iterations", 3, "--warmup", 0)
    page = path.read_text()
    assert "the median of 3 runs" in page
    assert page.rstrip().endswith("</html>")
    succeed("report", artifact, "-o", path, "--iterations", 0)
    assert "measured" not in path.read_text().split("<footer>")[0].split("<h2>Devices")[0]


def test_names_are_printed_as_they_are(folder: Path) -> None:
    """They are no markup of rich, and cannot control the terminal."""
    names = ["past[0][key]", "[/b]", "\x1b[31m[bold]:smile:"]
    graph = helper.make_graph(
        [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)],
        "names",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in names[1:]],
    )
    path = folder / "names.onnx"
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    artifact = folder / "names.hios"
    succeed("compile", path, "-o", artifact, "--devices", f"cpu@{CORE}", "--no-cache")
    shown = succeed("run", artifact) + succeed("inspect", artifact)
    assert "\x1b" not in shown
    for text in ("[/b]: shape 4", "\\x1b[31m[bold]:smile:: shape 4", "past[0][key]"):
        assert text in shown


@pytest.mark.parametrize(
    "kind", ["truncated", "pickle", "header", "no array", "archive", "unclosed"]
)
def test_damaged_inputs_are_one_line(kind: str, artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 8), np.float32))
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[:-50])
    elif kind == "pickle":
        np.save(path, np.array([object()]), allow_pickle=True)
    elif kind == "header":  # which says that the array has 4e12 elements
        path.write_bytes(content.replace(b"(4, 8), }             ", b"(4, 1000000000000), } "))
    elif kind == "unclosed":
        path.write_bytes(content.replace(b"(4, 8)", b"((4, 8"))
    elif kind == "archive":
        np.savez(path.with_suffix(".npz"), x=np.zeros(1000))
        archive = bytearray(path.with_suffix(".npz").read_bytes())
        archive[300] ^= 1
        path.write_bytes(archive)
    else:
        path.write_text("hello")
    result = run("run", artifact, "--input", f"x={path}")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: cannot read {path} as .npy or .npz: ")
    assert result.stderr.count("\n") == 1
