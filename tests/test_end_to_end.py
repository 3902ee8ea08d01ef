"""The main job: a network in, an artifact out, the same numbers as ONNX Runtime."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax

from hios_tvm import runtime
from hios_tvm.artifact.build import build as build_artifact
from hios_tvm.artifact.write import write
from hios_tvm.backends.cache import kernel_dir
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.network import apply_pass, lower_network
from hios_tvm.backends.virtual_machine import prepare_weights
from hios_tvm.compiler import Compilation, CompileOptions, compile_model
from hios_tvm.errors import CostError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.annotate_schedule import AnnotateSchedule
from hios_tvm.passes.dataflow import bindings
from hios_tvm.passes.extract_operator_graph import is_call_tir
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph, Tensor
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage
from hios_tvm.verification.deviation import deviations
from hios_tvm.verification.inputs import random_inputs
from hios_tvm.verification.onnx_reference import onnxruntime_outputs
from hios_tvm.zoo import NETWORKS, build, densenet, inception_v3, nasnet, randwire, resnet
from hios_tvm.zoo import squeezenet as squeezenet1_1

# Small images: the kernels are the same, and the tests take a minute.
SIZES = {name: max(network.minimum_size, 64) for name, network in NETWORKS.items()}
CORES = sorted(os.sched_getaffinity(0))


def round_robin(graph: OperatorGraph, devices: int) -> Schedule:
    """Three operators here, three there: more transfers than any scheduler would make."""
    stages: list[list[Stage]] = [[] for _ in range(devices)]
    for i, operator in enumerate(graph.operators):
        stages[i // 3 % devices].append(Stage(((operator.name,),)))
    return Schedule(
        "round-robin",
        tuple(DeviceSchedule(f"cpu@{d}", tuple(own)) for d, own in enumerate(stages)),
    )


@pytest.fixture(scope="module")
def squeezenet(
    cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[onnx.ModelProto, Path, Compilation]:
    """SqueezeNet with three modules for two devices, scheduled with measured costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(squeezenet1_1, "STAGES", [squeezenet1_1.STAGES[0][:1]] * 3)
        model = build("squeezenet1_1", height=64, width=64)
    path = tmp_path_factory.mktemp("squeezenet") / "squeezenet.hios"
    options = CompileOptions(
        devices=_devices(2), divide=False, scheduler="hios-lp", cache_dir=cache
    )
    return model, path, compile_model(from_onnx(model), path, options, name="squeezenet")


def _devices(count: int) -> tuple[str, ...]:
    if len(CORES) < count:
        pytest.skip(f"this process may use {len(CORES)} cores, the test needs {count}")
    return tuple(f"cpu@{core}" for core in CORES[:count])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_outputs_equal_onnxruntime_on_one_two_and_four_devices(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer of the layers that are alike: tests/zoo has the networks as published.
    monkeypatch.setattr(nasnet, "CELLS", 1)
    monkeypatch.setattr(densenet, "BLOCKS", (3, 3, 3, 3))
    monkeypatch.setattr(randwire, "NODES", 12)
    monkeypatch.setattr(inception_v3, "BLOCKS_17", inception_v3.BLOCKS_17[:1])
    monkeypatch.setattr(resnet, "STAGES", tuple((2, channels) for _, channels in resnet.STAGES))
    monkeypatch.setitem(NETWORKS, name, replace(NETWORKS[name], calibration_size=SIZES[name]))
    model = build(name, height=SIZES[name], width=SIZES[name], seed=3)
    network = lower_network(from_onnx(model), "host")
    path = tmp_path / "model.hios"
    expected = None
    for devices in (1, 2, 4):
        schedule = round_robin(network.graph, devices)
        write(build_artifact(network, schedule, kernel_dir=kernel_dir(cache)), path)
        # Four devices share the cores of this machine; what runs where stays the same.
        places = [f"cpu@{CORES[d % len(CORES)]}" for d in range(devices)]
        with runtime.load(path, devices=places) as session:
            inputs = random_inputs(session.inputs, seed=5)
            outputs = session.run(inputs)
        if expected is None:
            expected = onnxruntime_outputs(model, inputs)
        (deviation,) = deviations(outputs, expected)
        assert deviation.within(1e-4), deviation


def test_annotated_module_on_the_stock_virtual_machine_equals_the_artifact(
    squeezenet: tuple[onnx.ModelProto, Path, Compilation],
) -> None:
    model, path, compilation = squeezenet
    with runtime.load(path) as session:
        inputs = random_inputs(session.inputs, seed=1)
        outputs = session.run(inputs)
    network = lower_network(from_onnx(model), "host")
    targets = {device.device: network.host for device in compilation.schedule}
    placed = network.placed(compilation.schedule.placement)
    annotated = apply_pass(AnnotateSchedule(compilation.schedule, targets), placed)
    parsed = tvm.script.from_source(annotated.script(show_meta=True))
    tvm.ir.assert_structural_equal(parsed, annotated)
    prepared = prepare_weights(network.lowered["cpu"], network.weights)
    arrays = {**inputs, **network.weights, **prepared}
    arguments = [
        tvm.runtime.tensor(arrays[param.name], tvm.cpu(param.ty.vdevice.vdevice_id))
        for param in parsed["main"].params
    ]
    devices = [tvm.cpu(i) for i in range(len(compilation.platform.devices))]
    machine = relax.VirtualMachine(tvm.compile(parsed, host_target()), devices)
    result = machine["main"](*arguments).numpy()
    (deviation,) = deviations({"output": result}, outputs)
    assert deviation.within(1e-6)  # the same kernels, in another order
    operators = {b.var.name for b in bindings(parsed["main"]) if is_call_tir(b.value)}
    assert operators == set(compilation.schedule.placement)


def test_artifact_runs_elsewhere_with_the_runtime_only(
    squeezenet: tuple[onnx.ModelProto, Path, Compilation], tmp_path: Path
) -> None:
    """Another folder, no compiler, no onnx, no networkx."""
    model, path, _ = squeezenet
    moved = tmp_path / "moved.hios"
    shutil.copy(path, moved)
    code = """
import sys
for name in ("onnx", "networkx", "click", "rich", "lark", "onnxruntime"):
    sys.modules[name] = None
import numpy as np
import hios_tvm.runtime
with hios_tvm.runtime.load("moved.hios") as session:
    np.save("y.npy", session.run({"input": np.load("x.npy")})["output"])
assert "tvm" not in sys.modules
"""
    inputs = random_inputs([Tensor("input", (1, 3, 64, 64), "float32")], seed=2)
    np.save(tmp_path / "x.npy", inputs["input"])
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    outputs = {"output": np.load(tmp_path / "y.npy")}
    (deviation,) = deviations(outputs, onnxruntime_outputs(model, inputs))
    assert deviation.within(1e-4)


def test_second_compile_measures_nothing(
    squeezenet: tuple[onnx.ModelProto, Path, Compilation],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was measured")

    for name in ("measure_kernels", "measure_joint"):
        monkeypatch.setattr(f"hios_tvm.backends.cpu.costs.{name}", refuse)
    monkeypatch.setattr("hios_tvm.backends.cpu.platform.measure_together", refuse)
    model, _, first = squeezenet
    options = CompileOptions(
        devices=_devices(2), divide=False, scheduler="hios-lp", cache_dir=cache
    )
    again = compile_model(from_onnx(model), tmp_path / "again.hios", options, name="squeezenet")
    assert again.costs.latency == first.costs.latency
    assert again.schedule == first.schedule


def test_saved_costs_reproduce_the_schedule(
    squeezenet: tuple[onnx.ModelProto, Path, Compilation], tmp_path: Path
) -> None:
    model, _, first = squeezenet
    costs = CostTable.from_json(first.costs.to_json())
    options = CompileOptions(
        devices=_devices(2), divide=False, scheduler="hios-lp", costs=costs, cache_dir=None
    )
    again = compile_model(from_onnx(model), tmp_path / "again.hios", options, name="squeezenet")
    assert again.schedule == first.schedule


def test_costs_of_another_network_are_refused(
    squeezenet: tuple[onnx.ModelProto, Path, Compilation], tmp_path: Path
) -> None:
    costs = squeezenet[2].costs  # of fewer modules
    module = from_onnx(build("squeezenet1_1", height=64, width=64))
    options = CompileOptions(devices=_devices(1), costs=costs, cache_dir=None)
    with pytest.raises(CostError, match="no time for"):
        compile_model(module, tmp_path / "x.hios", options)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_this_machine_cannot_run_needs_given_costs(tmp_path: Path) -> None:
    module = from_onnx(build("squeezenet1_1", height=64, width=64))
    options = CompileOptions(devices=_devices(1), target="neoverse-n1", cache_dir=None)
    with pytest.raises(CostError, match="cannot measure code for the target"):
        compile_model(module, tmp_path / "x.hios", options)


def test_a_compile_that_is_interrupted_at_its_end_leaves_nothing(
    squeezenet: tuple[onnx.ModelProto, Path, Compilation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the whole artifact is about to get its name; tests/cli has earlier interrupts."""
    model, _, first = squeezenet
    output, replace_file = tmp_path / "x.hios", os.replace

    def interrupted(source: str, target: Path) -> None:
        if Path(target) == output:
            signal.raise_signal(signal.SIGINT)
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    options = CompileOptions(
        devices=_devices(2), divide=False, scheduler="hios-lp", costs=first.costs, cache_dir=None
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            compile_model(from_onnx(model), output, options)
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(tmp_path.iterdir()) == []
