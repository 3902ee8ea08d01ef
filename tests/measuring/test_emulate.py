"""The real executor on emulated devices, and the graph that an artifact holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from hios_tvm.artifact.programs import programs_of
from hios_tvm.cli import main
from hios_tvm.compiler import Compilation, CompileOptions, compile_model
from hios_tvm.errors import UsageError
from hios_tvm.experiments.core_scaling import ScalingModel, on_cores
from hios_tvm.experiments.random_graphs import LayeredGraphOptions, layered_graph
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.measuring.emulate import emulate, emulation_of
from hios_tvm.schedulers import make_schedule
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.instance import Instance, read_instance
from hios_tvm.schema.plain_graph import graph_of_edges
from hios_tvm.schema.platform import Link, Platform
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage
from hios_tvm.zoo.costs import cost_file

NOISE = 2.0
"""How much later than predicted the fastest of several runs may end, with other work around."""


@pytest.mark.parametrize(("devices", "grouped"), [(4, True), (8, False)])
def test_random_graph_takes_its_makespan(devices: int, grouped: bool) -> None:
    options = LayeredGraphOptions(operators=40, edges=80, layers=5, devices=devices)
    instance = layered_graph(options, seed=devices)
    graph, costs, platform = instance.graph, instance.costs, instance.platform
    schedule = make_schedule("hios-lp", graph, costs, platform)
    stages = [stage for device in schedule for stage in device.stages]
    assert any(len(stage.groups) > 1 for stage in stages) == grouped
    result = emulate(instance, schedule, iterations=4)
    work_ms = sum(time.ms for times in costs.latency.values() for time in times.values())
    assert work_ms > 2 * result.predicted_ms
    # Nearer to the makespan than to devices that take turns.
    assert 0.999 * result.predicted_ms < result.latency.min_ms
    assert result.latency.min_ms < (result.predicted_ms + work_ms) / 2


def test_devices_that_share_cores_take_the_makespan() -> None:
    """Four cores, in halves and alone: no operator starts before its cores are free."""
    instance = on_cores(read_instance(cost_file("squeezenet1_1", 2)), 4, "choice", ScalingModel())
    graph, costs, platform = instance.graph, instance.costs, instance.platform
    schedule = make_schedule("heft", graph, costs, platform)
    assert sum(bool(device.stages) for device in schedule) > 2
    result = emulate(instance, schedule, iterations=3)
    assert 0.999 < result.latency.min_ms / result.predicted_ms < NOISE


def test_transfers_and_stream_groups_take_their_time() -> None:
    """Two groups of 20 and 10 ms side by side in 24 ms, then 30 ms of copying, then 10 ms."""
    graph = graph_of_edges(["a", "b", "c"], [("a", "c"), ("b", "c")], name="g")
    times = {"a": Measurement(20.0), "b": Measurement(10.0), "c": Measurement(10.0)}
    stage = (("a",), ("b",))
    costs = CostTable({"device": times}, joint={"device": {stage: Measurement(24.0)}})
    link = Link(latency_ms=30.0, bandwidth_gb_s=float("inf"))
    instance = Instance(graph, costs, Platform.uniform(2, link=link, independence=0.5))
    schedule = Schedule(
        "hand",
        (
            DeviceSchedule("device0", (Stage(stage),)),
            DeviceSchedule("device1", (Stage((("c",),)),)),
        ),
    )
    result = emulate(instance, schedule, scale=2.0, iterations=3)
    assert result.predicted_ms == pytest.approx(64.0)
    assert 0.999 < result.latency.min_ms / 64.0 < NOISE


def test_nothing_to_emulate_is_an_error() -> None:
    graph = graph_of_edges(["a"], [], name="g")
    costs = CostTable({"device": {"a": Measurement(0.0)}})
    instance = Instance(graph, costs, Platform.uniform(1))
    schedule = Schedule("hand", (DeviceSchedule("device0", (Stage((("a",),)),)),))
    with pytest.raises(UsageError, match="nothing to emulate"):
        emulate(instance, schedule)


@pytest.fixture(scope="module")
def compilation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compilation, Path]:
    """Four products of x, side by side: on four devices, which need not exist here."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((8, 8)).astype(np.float32) for i in range(4)}
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"m{i}"]) for i in range(4)]
    nodes.append(helper.make_node("Concat", [f"m{i}" for i in range(4)], ["y"], axis=1))
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 32])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    module = from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    path = tmp_path_factory.mktemp("emulate") / "wide.hios"
    first = compile_model(module, path, CompileOptions(devices=("cpu@0",), cache_dir=None))
    names = [operator.name for operator in first.graph.operators]
    times = {name: Measurement(5.0 + i) for i, name in enumerate(names)}
    model = first.platform.devices[0].model
    costs = CostTable({model: times}, platform=Platform.uniform(1))
    options = CompileOptions(
        devices=tuple(f"cpu@{i}" for i in range(4)), costs=costs, cache_dir=None
    )
    return compile_model(module, path, options), path


def test_programs_of_a_graph_are_those_of_the_module(
    compilation: tuple[Compilation, Path],
) -> None:
    result, _ = compilation
    assert len({program.device for program in result.manifest.programs}) > 1
    assert programs_of(result.graph, result.schedule) == result.manifest.programs


def test_artifact_holds_graph_costs_and_schedule(compilation: tuple[Compilation, Path]) -> None:
    result, _ = compilation
    instance, schedule = emulation_of(result.manifest)
    assert schedule == result.schedule
    assert set(instance.graph.edges) == set(result.graph.edges)
    assert instance.graph.outputs == result.graph.outputs
    again = evaluate(instance.graph, instance.costs, instance.platform, schedule)
    assert again.makespan_ms == pytest.approx(result.manifest.prediction.makespan_ms)


def test_command_emulates_devices_that_do_not_exist(compilation: tuple[Compilation, Path]) -> None:
    result, path = compilation
    arguments = ["benchmark", str(path), "--emulate", "--emulate-scale", "2", "--json"]
    output = CliRunner().invoke(main, arguments)
    assert output.exit_code == 0, output.output
    data = json.loads(output.stdout)
    assert data["predicted_ms"] == pytest.approx(result.manifest.prediction.makespan_ms)
    assert 0.999 < data["latency"]["min_ms"] / data["predicted_ms"] < NOISE
