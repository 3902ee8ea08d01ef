"""Random networks compute what ONNX Runtime computes; scripts/fuzz_networks.py runs any number."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from random_networks import Network, Verdict, judge, random_network, reference_of
from random_networks.generate import MENU
from random_networks.judge import verdict_of
from random_networks.network import Array
from random_networks.shrink import shrink
from random_networks.worker import Judge

from hios_tvm import build, plan, write
from hios_tvm.backends.cache import kernel_dir
from hios_tvm.backends.cpu.platform import cpu_platform
from hios_tvm.backends.network import lower_network
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime import load
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.device_names import cpu_device_name
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

SEEDS = range(45)
SCHEDULED = (4, 20, 24, 37)
"""Networks of several branches (residuals, gates, attention), for several schedules."""


@pytest.mark.parametrize("seed", SEEDS)
def test_network_computes_what_onnx_runtime_computes(seed: int, cache: Path) -> None:
    network, _ = random_network(seed)
    verdict = judge(network, cache_dir=cache)
    assert verdict == Verdict("right"), f"{verdict}\n{onnx.printer.to_text(network.model)}"


def test_a_number_always_gives_the_same_network() -> None:
    (first, _), (second, _) = random_network(5), random_network(5)
    assert first.model == second.model
    for name, value in first.inputs.items():
        np.testing.assert_array_equal(second.inputs[name], value)
    assert random_network(6)[0].model != first.model


def test_menu_has_no_pattern_twice() -> None:
    names = [pattern.name for pattern in MENU]
    assert len(set(names)) == len(names) > 80


# Schedules


def sequential(graph: OperatorGraph, devices: Sequence[str]) -> Schedule:
    stages = tuple(Stage(((operator.name,),)) for operator in graph.operators)
    return on_devices(devices, [stages, ()])


def taking_turns(graph: OperatorGraph, devices: Sequence[str]) -> Schedule:
    stages = [Stage(((operator.name,),)) for operator in graph.operators]
    return on_devices(devices, [tuple(stages[0::2]), tuple(stages[1::2])])


def one_stage(graph: OperatorGraph, devices: Sequence[str]) -> Schedule:
    """One device; one stream group that holds all operators."""
    group = tuple(operator.name for operator in graph.operators)
    return on_devices(devices, [(Stage((group,)),), ()])


def on_devices(devices: Sequence[str], stages: Sequence[tuple[Stage, ...]]) -> Schedule:
    return Schedule("by hand", tuple(map(DeviceSchedule, devices, stages)))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("seed", SCHEDULED)
def test_every_schedule_gives_the_same_bits(seed: int, tmp_path: Path, cache: Path) -> None:
    network, _ = random_network(seed)
    lowered = lower_network(from_onnx(network.model), "host", name="random")
    graph = lowered.graph
    devices = tuple(cpu_device_name([core]) for core in sorted(allowed_cores())[:2])
    platform = cpu_platform(devices, lowered.host, measured=Platform.uniform(2))
    times = {operator.name: Measurement(1.0) for operator in graph.operators}
    costs = CostTable({device.model: times for device in platform.devices}, platform=platform)
    results = []
    for i, make in enumerate((sequential, taking_turns, one_stage, None)):
        schedule = plan(lowered, costs, platform) if make is None else make(graph, devices)
        artifact = tmp_path / f"{i}.hios"
        write(build(lowered, schedule, kernel_dir=kernel_dir(cache)), artifact)
        with load(artifact) as session:
            results.append(session.run(dict(network.inputs)))
    assert reference_of(network).difference(results[0]) is None
    for outputs in results[1:]:
        for name, value in outputs.items():
            assert value.tobytes() == results[0][name].tobytes(), name


# The judge itself


def small_network(dtype: type = np.float32) -> Network:
    """y = relu(x + x), z = -y."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Add", ["x", "x"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
        helper.make_node("Neg", ["y"], ["z"]),
    ]
    values = [helper.make_tensor_value_info(name, element, [3]) for name in "xyz"]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return Network(model, {"x": np.array([-1, 2, 3], dtype)})


def outputs_of(network: Network) -> dict[str, Array]:
    x = network.inputs["x"]
    y = np.maximum(x + x, 0)
    return {"y": y, "z": -y}


def test_right_outputs_and_small_errors_are_right() -> None:
    network = small_network()
    outputs = outputs_of(network)
    outputs["y"] = outputs["y"] + np.float32(6e-5)  # within 2e-5 of the largest, which is 6
    assert verdict_of(lambda: outputs, reference_of(network)) == Verdict("right")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y + np.float32(1e-3), "3 of 3 are wrong"),
        (lambda y: np.where(y == 4, np.float32(np.nan), y), "nan at"),
        (lambda y: y.astype(np.float64), "float64"),
        (lambda y: y[:2], "not float32(3,)"),
    ],
)
def test_other_outputs_are_wrong(change: object, reason: str) -> None:
    assert callable(change)
    network = small_network()
    outputs = outputs_of(network)
    outputs["y"] = change(outputs["y"])
    verdict = verdict_of(lambda: outputs, reference_of(network))
    assert verdict.kind == "wrong" and reason in verdict.reason


def test_integers_are_compared_exactly() -> None:
    network = small_network(np.int32)
    outputs = outputs_of(network)
    outputs["z"] = outputs["z"] + np.int32(1)
    verdict = verdict_of(lambda: outputs, reference_of(network))
    assert verdict.kind == "wrong" and "'z'" in verdict.reason


def test_only_errors_of_the_compiler_are_refusals() -> None:
    network = small_network()

    def fails() -> dict[str, Array]:
        raise ZeroDivisionError("by 7")

    verdict = verdict_of(fails, reference_of(network))
    assert verdict.kind == "crashed" and "ZeroDivisionError in" in verdict.reason
    unknown = Network(onnx.ModelProto(), {})
    unknown.model.CopyFrom(network.model)
    verdict = verdict_of(
        lambda: dict(from_onnx(unknown.model, shapes={"q": (1,)}).attrs), reference_of(network)
    )
    assert verdict.kind == "refused"


def test_failures_shrink_to_the_node_that_fails() -> None:
    """Networks with a Relu fail here; all but that node goes."""
    network = small_network()

    def judge_relu(candidate: Network) -> Verdict:
        return Verdict("wrong" if "Relu" in candidate.operators else "right")

    small = shrink(network, Verdict("wrong"), judge_relu)
    assert small.operators == ["Relu"]
    np.testing.assert_array_equal(small.inputs["s"], [-2, 4, 6])
    onnx.checker.check_model(small.model, full_check=True)


def test_judge_in_a_process_starts_again_after_a_time_limit() -> None:
    network = small_network()
    with Judge(limit_s=0.0) as judge_at_once:
        late = judge_at_once(network)
        assert late.kind == "crashed" and "no end within" in late.reason
        judge_at_once.limit_s = 120.0
        assert judge_at_once(network) == Verdict("right")
