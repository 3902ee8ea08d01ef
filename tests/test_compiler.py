"""Plan, build, write: what each of them does alone, and what `compile_model` makes of them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
import tvm_ffi
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import hios_tvm
from hios_tvm import build, predict, runtime, write
from hios_tvm.backends import virtual_machine
from hios_tvm.backends.cache import kernel_dir
from hios_tvm.backends.cpu import codegen
from hios_tvm.backends.network import Network, lower_by_recipe, lower_network
from hios_tvm.cli import main
from hios_tvm.compiler import CompileOptions, compile_model, pipeline, plan, throughput
from hios_tvm.errors import ArtifactError, DeviceError, ScheduleError, UsageError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.measuring import compare, contest
from hios_tvm.measuring.network_costs import network_costs
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.manifest import Prediction
from hios_tvm.schema.precisions import Precision
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage, one_after_another
from hios_tvm.verification.verifier import NOT_ASKED_FOR

CORES = sorted(os.sched_getaffinity(0))
ELSEWHERE = ("cpu@998", "cpu@999")
"""Devices that no machine of these tests has."""


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """tanh(x @ a) + sigmoid(x @ b), two branches."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in "ab"}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("Tanh", ["p"], ["q"]),
        helper.make_node("MatMul", ["x", "b"], ["r"]),
        helper.make_node("Sigmoid", ["r"], ["s"]),
        helper.make_node("MatMul", ["q", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


@pytest.fixture(scope="module")
def network(model: onnx.ModelProto) -> Network:
    return lower_network(from_onnx(model), "host")


def alternating(network: Network, devices: tuple[str, ...]) -> Schedule:
    """Give each operator to the next device."""
    stages: list[list[Stage]] = [[] for _ in devices]
    for i, operator in enumerate(network.graph.operators):
        stages[i % len(devices)].append(Stage(((operator.name,),)))
    return Schedule("by hand", tuple(map(DeviceSchedule, devices, map(tuple, stages))))


def test_the_steps_compose_to_the_same_bytes(
    model: onnx.ModelProto, cache: Path, tmp_path: Path
) -> None:
    devices = tuple(f"cpu@{core}" for core in CORES[:2])
    module = from_onnx(model)
    options = CompileOptions(devices=devices, divide=False, scheduler="hios-lp", cache_dir=cache)
    compile_model(module, tmp_path / "whole.hios", options)

    network = lower_network(module, "host")
    costs, platform = network_costs(network, devices, cache_dir=cache)  # as they were measured
    schedule = plan(network, costs, platform)
    prediction = predict(network.graph, costs, platform, schedule)
    built = build(network, schedule, kernel_dir=kernel_dir(cache))
    write(built, tmp_path / "steps.hios", prediction, verification=NOT_ASKED_FOR)
    assert (tmp_path / "steps.hios").read_bytes() == (tmp_path / "whole.hios").read_bytes()


def test_an_artifact_holds_its_graph_and_recipe(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.hios"
    schedule = one_after_another([op.name for op in network.graph.operators], "cpu@0")
    written = write(build(network, schedule), path)
    manifest = read_manifest(path)
    assert manifest == written
    assert manifest.graph == network.graph
    assert manifest.recipe.targets == {"cpu": str(network.host)}
    assert manifest.recipe.dtypes == ("float32",)
    assert manifest.prediction == Prediction() and not manifest.verification.verified


def test_a_recipe_makes_the_same_kernels_again(model: onnx.ModelProto, network: Network) -> None:
    recipe = replace(network.recipe, merge_convolutions=True)
    assert lower_by_recipe(from_onnx(model), recipe).recipe == recipe
    portable = lower_network(from_onnx(model), "portable")
    again = lower_by_recipe(from_onnx(model), portable.recipe)
    assert str(again.host) == str(portable.host) != str(network.host)


def test_compare_runs_the_kernels_of_the_artifact(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are compiled for another target than the host's here."""
    path, artifact = tmp_path / "model.onnx", tmp_path / "model.hios"
    onnx.save(model, path)
    portable = lower_network(from_onnx(model), "portable")
    names = [operator.name for operator in portable.graph.operators]
    write(build(portable, one_after_another(names, "cpu@0")), artifact)
    used = []
    right = virtual_machine.virtual_machine_runner

    def build_and_keep(mod: tvm.IRModule, target: tvm.target.Target, inputs: object) -> object:
        used.append((mod, target))
        return right(mod, target, inputs)

    monkeypatch.setattr(virtual_machine, "virtual_machine_runner", build_and_keep)
    inputs = {"x": np.eye(8, dtype=np.float32)}
    _, run_once = compare.RIVALS["same-kernels"](
        compare.Subject(path, artifact, inputs, {}, None, None)
    )
    ((mod, target),) = used
    assert str(target) == str(portable.host)
    for operator in portable.graph.operators:
        kernel = portable.lowered["cpu"].mod[operator.kernel]
        assert tvm_ffi.structural_equal(mod[operator.kernel], kernel)
    with runtime.load(artifact, devices=[f"cpu@{CORES[0]}"]) as session:
        np.testing.assert_array_equal(run_once()["y"], session.run(inputs)["y"])

    model.graph.node[1].op_type = "Sin"
    onnx.save(model, path)
    model.graph.node[1].op_type = "Tanh"
    with pytest.raises(UsageError, match="was not compiled from"):
        compare.RIVALS["same-kernels"](compare.Subject(path, artifact, inputs, {}, None, None))


@pytest.mark.parametrize(
    ("info", "command"),
    [
        ({}, "hios-tvm compile"),
        ({"command": "hios-tvm profile export net"}, "hios-tvm profile export net"),
    ],
)
def test_artifacts_of_the_format_before_are_refused_with_a_command(
    network: Network, tmp_path: Path, info: dict[str, str], command: str
) -> None:
    schedule = one_after_another([op.name for op in network.graph.operators], "cpu@0")
    built = build(network, schedule)
    manifest = replace(built.manifest, format_version=2)
    write(replace(built, manifest=manifest), tmp_path / "old.hios", info=info)
    message = f"has format version 2, this runtime reads version 4; make it again with '{command}'"
    with pytest.raises(ArtifactError, match=message):
        runtime.load(tmp_path / "old.hios")


@pytest.mark.parametrize(("precision", "code"), [("fp32", 1), ("tf32", 0)])
def test_run_verifies_by_the_recipe(
    network: Network, tmp_path: Path, precision: Precision, code: int
) -> None:
    """Outputs that are 0.5 % off are right where factors were rounded to 11 bits."""
    path, expected = tmp_path / "model.hios", tmp_path / "expected.npz"
    names = [operator.name for operator in network.graph.operators]
    built = build(network, one_after_another(names, f"cpu@{CORES[0]}"))
    recipe = replace(built.manifest.recipe, precision=precision)
    write(replace(built, manifest=replace(built.manifest, recipe=recipe)), path)
    x = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with runtime.load(path) as session:
        np.savez(expected, y=session.run({"x": x})["y"] * np.float32(1.005))
    words = ["run", path, "--input", f"x={tmp_path / 'x.npy'}", "--verify", expected]
    assert run(*words).exit_code == code


# A schedule that is given


@pytest.fixture
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr(pipeline, "network_costs", refuse)


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_placement_alone_measures_nothing_and_needs_no_device(
    model: onnx.ModelProto, network: Network, tmp_path: Path
) -> None:
    path, placement = tmp_path / "model.hios", tmp_path / "placement.json"
    onnx.save(model, tmp_path / "model.onnx")
    placement.write_text(alternating(network, ELSEWHERE).to_json())
    result = run("compile", tmp_path / "model.onnx", "-o", path, "--placement", placement)
    assert result.exit_code == 0, result.output
    assert "predicted" not in result.stdout and "needs core 998" in result.stderr
    manifest = read_manifest(path)
    assert [device.name for device in manifest.devices] == list(ELSEWHERE)
    assert manifest.prediction == Prediction()
    for command in (["inspect"], ["plot", "-o", tmp_path / "x.svg", "--iterations", 0, "--graph"]):
        shown = run(command[0], path, *command[1:])
        assert shown.exit_code == 0, shown.output
    places = [f"cpu@{CORES[i % len(CORES)]}" for i in range(2)]
    with runtime.load(path, devices=places) as session:
        assert session.run({"x": np.eye(8, dtype=np.float32)})["y"].shape == (8, 8)


@pytest.mark.usefixtures("nothing_is_measured")
def test_save_costs_has_nothing_to_write_beside_a_placement(
    model: onnx.ModelProto, network: Network, tmp_path: Path
) -> None:
    placement = tmp_path / "placement.json"
    onnx.save(model, tmp_path / "model.onnx")
    placement.write_text(alternating(network, ELSEWHERE).to_json())
    words = ["compile", tmp_path / "model.onnx", "--placement", placement]
    result = run(*words, "--save-costs", tmp_path / "costs.json")
    assert result.exit_code == 2
    assert "with --placement nothing is measured" in result.stderr


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_placement_in_the_model_is_compiled(
    model: onnx.ModelProto, network: Network, tmp_path: Path
) -> None:
    path, placed, plan_file = (tmp_path / name for name in ("m.onnx", "placed.onnx", "plan.json"))
    onnx.save(model, path)
    schedule = alternating(network, ELSEWHERE)
    plan_file.write_text(schedule.to_json())
    artifact, saved = tmp_path / "m.hios", tmp_path / "saved.json"
    annotated = run("annotate", path, "--placement", plan_file, "-o", placed)
    assert annotated.exit_code == 0, annotated.output
    assert annotated.stdout.endswith("placed.onnx: 5 nodes on cpu@998, cpu@999\n")
    words = ["compile", placed, "-o", artifact, "--save-placement", saved]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert Schedule.from_json(saved.read_text()) == schedule
    again = run("annotate", path, "--placement", artifact, "-o", tmp_path / "again.onnx")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.onnx").read_bytes() == placed.read_bytes()

    devices = f"cpu@{CORES[0]},cpu@{CORES[-1] + 1}"
    assert run(*words, "--devices", devices).exit_code == 0
    assert ",".join(own.device for own in Schedule.from_json(saved.read_text())) == devices
    fewer = run(*words, "--devices", "cpu@0")
    assert fewer.exit_code == 2
    assert "on device 0 (cpu@998), device 1 (cpu@999), and the devices are cpu@0" in fewer.stderr
    two = run(*words, "--configuration", "hios-tvm", "--placement", plan_file)
    assert two.exit_code == 2 and "are two placements" in two.stderr
    costs = run(*words, "--save-costs", tmp_path / "costs.json")
    assert costs.exit_code == 2 and "has nothing to write" in costs.stderr


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_placement_by_another_tool_is_compiled(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Its devices have no names, and it does not say in which order they compute."""
    placed = onnx.ModelProto()
    placed.CopyFrom(model)
    placed.ir_version = 11
    placed.configuration.add(name="pipeline", num_devices=2)
    for node, stage in zip(placed.graph.node, (0, 0, 1, 1, 1), strict=True):
        node.device_configurations.add(configuration_id="pipeline", pipeline_stage=stage)
    onnx.checker.check_model(placed)
    devices = [f"cpu@{CORES[0]}", f"cpu@{CORES[-1]}"] if len(CORES) > 1 else [*ELSEWHERE]
    with pytest.raises(UsageError, match="device 0, device 1: say which devices these are"):
        hios_tvm.compile(placed, tmp_path / "m.hios")
    result = hios_tvm.compile(placed, tmp_path / "m.hios", devices=devices)
    first, second = result.schedule
    assert [name for stage in first.stages for name in stage.operators] == ["p"]
    assert {name for stage in second.stages for name in stage.operators} >= {"r", "y"}
    assert result.manifest.verification.verified == (len(CORES) > 1)
    placed.graph.node[1].device_configurations[0].pipeline_stage = 1
    with pytest.raises(ScheduleError, match=r"one kernel computes node 'p', .* and node 'q'"):
        hios_tvm.compile(placed, tmp_path / "m.hios", devices=devices)


def test_a_placement_with_costs_is_predicted(
    model: onnx.ModelProto, network: Network, cache: Path, tmp_path: Path
) -> None:
    device = (f"cpu@{CORES[0]}",)
    costs, _ = network_costs(network, device, cache_dir=cache)
    schedule = replace(alternating(network, device), makespan_ms=1e9)
    options = CompileOptions(devices=device, schedule=schedule, costs=costs, cache_dir=cache)
    result = compile_model(from_onnx(model), tmp_path / "model.hios", options)
    total = sum(item.cost_ms for item in result.manifest.prediction.operators)
    assert result.manifest.prediction.makespan_ms == pytest.approx(total)
    assert result.schedule.makespan_ms == pytest.approx(total)


def test_a_schedule_on_other_devices_is_refused(
    model: onnx.ModelProto, network: Network, tmp_path: Path
) -> None:
    schedule = alternating(network, ELSEWHERE)
    options = CompileOptions(devices=("cpu@998",), schedule=schedule, cache_dir=None)
    with pytest.raises(ScheduleError, match="uses 'cpu@999', and the devices are cpu@998"):
        compile_model(from_onnx(model), tmp_path / "model.hios", options)


def test_build_refuses_what_cannot_run(network: Network) -> None:
    names = [operator.name for operator in network.graph.operators]
    with pytest.raises(ScheduleError, match="are not scheduled"):
        build(network, one_after_another(names[1:], "cpu@0"))
    with pytest.raises(DeviceError, match="'core 0' is unknown"):
        build(network, one_after_another(names, "core 0"))
    with pytest.raises(ScheduleError, match="both need core 0 and have no position"):
        build(network, alternating(network, ("cpu@0", "cpu@0-1")))
    with pytest.raises(ScheduleError, match="bytes of memory"):
        build(network, one_after_another(names, "cpu@0"), memory={"cpu@0": 10})
    first, last = Stage(((names[0],),)), Stage(((names[-1],),))
    others = tuple(Stage(((name,),)) for name in names[1:-1])
    stuck = (DeviceSchedule("cpu@0", (last, first)), DeviceSchedule("cpu@1", others))
    with pytest.raises(ScheduleError, match="wait for each other in a cycle"):
        build(network, Schedule("by hand", stuck))


# Candidates


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_each_candidate_is_built_once_and_the_winner_is_written(
    model: onnx.ModelProto, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = []

    def build_and_keep(*arguments: object, **options: object) -> object:
        builds.append(build(*arguments, **options))
        return builds[-1]

    monkeypatch.setattr(pipeline, "build", build_and_keep)
    monkeypatch.setattr("hios_tvm.measuring.contest.LEAST_GAIN", -1e9)  # all take part
    options = CompileOptions(
        devices=tuple(f"cpu@{core}" for core in CORES[:2]), scheduler="auto", cache_dir=cache
    )
    result = compile_model(from_onnx(model), tmp_path / "model.hios", options)
    assert len(builds) == len(result.trials) >= 2
    fastest = min(range(len(builds)), key=lambda i: result.trials[i].latency.median_ms)
    assert result.manifest.programs == builds[fastest].manifest.programs
    assert result.manifest.schedule == builds[fastest].manifest.schedule
    assert json.loads(json.dumps(result.manifest.schedule)) == json.loads(result.schedule.to_json())


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_without_a_cache_each_kernel_is_compiled_once(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that are measured before they are compiled for the artifact."""
    compiled: list[str] = []
    original = codegen._compile

    def counted(name: str, *arguments: object) -> bytes:
        compiled.append(name)
        return original(name, *arguments)

    monkeypatch.setattr(codegen, "_compile", counted)
    options = CompileOptions(devices=(f"cpu@{CORES[0]}",), cache_dir=None)
    result = compile_model(from_onnx(model), tmp_path / "once.hios", options)
    of_model = [
        name for name in compiled if any(op.kernel == name for op in result.graph.operators)
    ]
    assert sorted(of_model) == sorted({op.kernel for op in result.graph.operators})


@pytest.mark.parametrize("kind", ["passed on", "constant", "empty"])
def test_models_that_compute_nothing(kind: str, tmp_path: Path) -> None:
    weights = {"w": np.arange(3, dtype=np.float32), "zero": np.zeros(1, np.int64)}
    inputs = {"passed on": ["x"], "constant": ["w"], "empty": ["x", "zero", "zero"]}[kind]
    graph = helper.make_graph(
        [helper.make_node("Slice" if kind == "empty" else "Identity", inputs, ["y"])],
        "nothing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    core = min(os.sched_getaffinity(0))
    options = CompileOptions(devices=(f"cpu@{core}",), scheduler="sequential", cache_dir=None)
    compile_model(from_onnx(model), tmp_path / "nothing.hios", options)
    x = np.array([1, 2], np.float32)
    with runtime.load(tmp_path / "nothing.hios") as session:
        (y,) = session.run(x).values()
    np.testing.assert_array_equal(
        y, {"passed on": x, "constant": weights["w"], "empty": x[:0]}[kind]
    )


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
@pytest.mark.parametrize(("both_ms", "sessions"), [(0.9, 2), (0.4, 1)])
def test_for_throughput_sessions_share_the_cores_where_that_is_predicted_to_be_faster(
    model: onnx.ModelProto,
    network: Network,
    cache: Path,
    tmp_path: Path,
    both_ms: float,
    sessions: int,
) -> None:
    names = [operator.name for operator in network.graph.operators]
    latency = {"cpu/1": 1.0, "cpu/2": both_ms}
    costs = CostTable(
        {device: dict.fromkeys(names, Measurement(ms)) for device, ms in latency.items()}
    )
    devices = tuple(f"cpu@{core}" for core in CORES[:2])
    options = CompileOptions(
        devices=devices, objective="throughput", scheduler="sequential", costs=costs,
        divide=False, cache_dir=cache,
    )  # fmt: skip
    compiled = compile_model(from_onnx(model), tmp_path / "model.hios", options)
    manifest = compiled.manifest
    assert len(manifest.replicas) == sessions - 1
    info = manifest.compile_info["throughput"]
    interval_ms = len(names) * min(both_ms, 0.5)
    assert info["interval_ms"] == pytest.approx(interval_ms)
    assert 0 < info["lower_bound_ms"] <= info["interval_ms"] * (1 + 1e-9)
    assert f"sessions of run_many: {sessions}, on" in compiled.notes[-1]
    inputs = [np.full((8, 8), 0.1 * i, np.float32) for i in range(12)]
    with compiled.load() as session:
        many = list(session.run_many(inputs))
        for x, outputs in zip(inputs, many, strict=True):
            np.testing.assert_array_equal(outputs["y"], session.run(x)["y"])
    with runtime.load(tmp_path / "model.hios", devices=manifest.devices[0].name) as session:
        assert len(list(session.run_many(inputs))) == len(inputs)


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_for_throughput_a_pipeline_is_tried_out(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the last one is kept, whatever is the fastest: it is the pipeline."""
    monkeypatch.setattr(throughput, "winner", lambda trials: len(trials) - 1)
    monkeypatch.setattr(contest, "_TURNS", 1)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((512, 512)).astype(np.float32) for _ in range(2)]
    nodes = [helper.make_node("MatMul", [a, b], [c]) for a, b, c in ("xvh", "hwy")]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 512]) for name in "xy"]
    constants = [numpy_helper.from_array(w, name) for w, name in zip(weights, "vw", strict=True)]
    graph = helper.make_graph(nodes, "two products", shapes[:1], shapes[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    devices = tuple(f"cpu@{core}" for core in CORES[:2])
    options = CompileOptions(
        devices=devices, objective="throughput", scheduler="sequential", divide=False,
        cache_dir=cache,
    )  # fmt: skip
    compiled = compile_model(from_onnx(model), tmp_path / "model.hios", options)
    manifest = compiled.manifest
    assert [device.name for device in manifest.devices] == list(devices)
    assert (manifest.in_flight, manifest.replicas) == (3, ())
    assert {program.device for program in manifest.programs} == set(devices)
    kinds = [note.split(" on ")[0] for note in compiled.notes if note.startswith("tried out")]
    assert kinds == [f"tried out: {kind}" for kind in ("one session", "2 sessions", "one pipeline")]
    assert f"pipelines of run_many: 1, on {devices[0]} and {devices[1]}" in compiled.notes[-1]
    info = manifest.compile_info["throughput"]
    assert 0 < info["lower_bound_ms"] <= info["interval_ms"]
    one_device = replace(options, devices=devices[:1], objective="latency")
    compile_model(from_onnx(model), tmp_path / "one.hios", one_device)
    inputs = [rng.standard_normal((64, 512)).astype(np.float32) for _ in range(12)]
    with compiled.load() as session, runtime.load(tmp_path / "one.hios") as one:
        for x, outputs in zip(inputs, session.run_many(inputs), strict=True):
            np.testing.assert_array_equal(outputs["y"], one.run(x)["y"])


def test_throughput_refuses_what_it_chooses_itself() -> None:
    with pytest.raises(UsageError, match="for CPUs only, not for cuda:0"):
        CompileOptions(devices=("cpu@0", "cuda:0"), objective="throughput")
    with pytest.raises(UsageError, match="neither a schedule nor limits of memory"):
        CompileOptions(devices=("cpu@0",), objective="throughput", memory={"cpu@0": 1})
