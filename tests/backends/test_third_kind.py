"""A kind of device that the package does not have takes two entries in tables, nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from lowered_models import model_of, random
from onnx import ModelProto, helper
from toy_kind import LINK, TOY, ToyBackend

from hios_tvm import runtime
from hios_tvm.artifact.programs import programs_of
from hios_tvm.backends import BACKENDS, parse_targets
from hios_tvm.backends.network import Network, lower_network
from hios_tvm.cli import main
from hios_tvm.compiler import CompileOptions, compile_model, plan
from hios_tvm.errors import ArtifactError, DeviceError, HiosError, ScheduleError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.measuring.artifact_costs import measure_artifact
from hios_tvm.measuring.kernel_export import export_kernels
from hios_tvm.measuring.network_costs import network_costs
from hios_tvm.runtime.check_manifest import check_manifest
from hios_tvm.runtime.devices import KINDS
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.program import COPY_STREAM, Copy
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage
from hios_tvm.verification.onnx_reference import OnnxReference, onnxruntime_outputs

CPU = f"cpu@{min(os.sched_getaffinity(0))}"
DEVICES = (CPU, "toy:0", "toy:1")


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKENDS, "toy", ToyBackend())
        patch.setitem(KINDS, "toy", TOY)
        yield


def model() -> ModelProto:
    """Two branches of convolutions whose sum and one of which are outputs."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["a", "v"], ["b"], pads=[1] * 4),
        helper.make_node("MaxPool", ["a"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Conv", ["c", "v"], ["d"], pads=[1] * 4),
        helper.make_node("Add", ["b", "d"], ["y"]),
    ]
    weights = {"w": random(8, 3, 3, 3), "v": random(8, 8, 3, 3, seed=1)}
    return model_of(nodes, {"x": (1, 3, 12, 12)}, weights, outputs=("y", "c"))


@pytest.fixture(scope="module")
def network(toy: None) -> Network:
    targets = parse_targets("host,toy", DEVICES)
    assert {kind: target.kind.name for kind, target in targets.items()} == {
        "cpu": "llvm",
        "toy": "c",
    }
    return lower_network(from_onnx(model()), *targets.values())


def in_turns(network: Network, devices: tuple[str, ...] = DEVICES) -> Schedule:
    """Each operator on the device after that of the one before."""
    names = list(network.graph.operator)
    stages = (tuple(Stage(((n,),)) for n in names[i :: len(devices)]) for i in range(len(devices)))
    return Schedule("by hand", tuple(map(DeviceSchedule, devices, stages)))


@pytest.fixture(scope="module")
def measured(network: Network) -> tuple[CostTable, Platform]:
    return network_costs(network, DEVICES)


@pytest.fixture(scope="module")
def artifact(
    network: Network,
    measured: tuple[CostTable, Platform],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("toy") / "model.hios"
    options = CompileOptions(
        devices=DEVICES,
        target="host,toy",
        schedule=in_turns(network),
        costs=measured[0],
        cache_dir=None,
    )
    compile_model(from_onnx(model()), path, options, reference=OnnxReference(model()))
    return path


@pytest.mark.parametrize("devices", [DEVICES, (CPU, "toy:1", "toy:0")])
def test_a_network_runs_on_a_third_kind_and_a_cpu(artifact: Path, devices: tuple[str, ...]) -> None:
    inputs = {"x": random(1, 3, 12, 12, seed=5)}
    expected = onnxruntime_outputs(model(), inputs)
    with runtime.load(artifact, devices=devices) as session:
        for _ in range(3):
            outputs, trace = session.run_traced(inputs)
            for name in ("y", "c"):
                np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-4, atol=1e-4)
        assert session.traced_devices == DEVICES
        assert {span.device for span in trace.spans} == set(DEVICES)
    assert session.manifest.verification.verified
    assert session.manifest.prediction.makespan_ms is not None


def test_the_third_kind_copies_from_and_to_memory_of_its_own(artifact: Path) -> None:
    manifest = runtime.read_manifest(artifact)
    copies = {p.device: p for p in manifest.programs if p.stream == COPY_STREAM}
    assert copies.keys() == {"toy:0", "toy:1"}
    everywhere = [s for p in manifest.programs for s in p.instructions if isinstance(s, Copy)]
    assert everywhere == [
        s for p in copies.values() for s in p.instructions if isinstance(s, Copy)
    ], "CPUs cannot reach that memory"
    weights = [buffer for buffer in manifest.buffers if buffer.space == "param"]
    assert {buffer.device for buffer in weights} >= {"toy:0"}
    with pytest.raises(DeviceError, match="another kind of device"):
        runtime.load(artifact, devices={"toy:0": CPU})


def test_costs_come_from_the_kind_itself(
    network: Network, measured: tuple[CostTable, Platform]
) -> None:
    costs, platform = measured
    assert platform.default_link == LINK
    assert [device.name for device in platform.devices] == list(DEVICES)
    assert [device.model for device in platform.devices] == ["cpu/1", "toy", "toy"]
    assert costs.latency.keys() == {"cpu/1", "toy"}
    for times in costs.latency.values():
        assert times.keys() == network.graph.operator.keys()
        assert all(measured.ms > 0 for measured in times.values())
    assert {measured.source for measured in costs.latency["toy"].values()} == {"measured on a toy"}
    schedule = plan(network, costs, platform, "hios-lp")
    assert schedule.placement.keys() == network.graph.operator.keys()


def test_kernels_for_another_machine_are_measured_by_the_kind(tmp_path: Path) -> None:
    path = tmp_path / "kernels.hios"
    export_kernels(from_onnx(model()), path, target="toy")
    costs, graph = measure_artifact(path, ["toy:0", "toy:1"])
    assert graph is not None
    assert costs.latency["toy"].keys() == graph.operator.keys()
    assert costs.platform is not None
    assert [device.name for device in costs.platform.devices] == ["toy:0", "toy:1"]


def test_the_command_line_knows_the_third_kind(tmp_path: Path) -> None:
    source, path = tmp_path / "model.onnx", tmp_path / "model.hios"
    source.write_bytes(model().SerializeToString())
    devices = ["--devices", f"{CPU},toy:0", "--target", "host,toy"]
    for command in (
        ["compile", source, "-o", path, *devices],
        ["inspect", path],
        ["run", path],
    ):
        result = CliRunner().invoke(main, list(map(str, command)), catch_exceptions=False)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (("toy:x",), "'toy:x' is no toy"),
        (("toy:0", "npu:0"), "'npu:0' is unknown: write for example cpu@0 or cuda:0 or toy:0"),
    ],
)
def test_wrong_names_are_refused(network: Network, devices: tuple[str, ...], message: str) -> None:
    with pytest.raises(HiosError, match=message):
        network_costs(network, devices)


def test_a_machine_without_the_device_does_not_verify(network: Network, tmp_path: Path) -> None:
    devices = (CPU, "toy:7")
    schedule = in_turns(network, devices)
    options = CompileOptions(devices=devices, target="host,toy", schedule=schedule)
    compiled = compile_model(
        from_onnx(model()), tmp_path / "m.hios", options, reference=OnnxReference(model())
    )
    assert compiled.manifest.verification.reason == "there is no device toy:7: this machine has 2"


def test_two_kinds_with_memory_of_their_own_need_the_host_between_them() -> None:
    network = lower_network(from_onnx(model()), "host")
    schedule = in_turns(network, ("toy:0", "cuda:0"))
    with pytest.raises(ScheduleError, match="place an operator on a CPU between them"):
        programs_of(network.graph, schedule, own_memory={"toy:0": "toy", "cuda:0": "cuda"})


def test_manifests_of_a_third_kind_are_checked(artifact: Path) -> None:
    opened = open_artifact(artifact)
    manifest, weights = opened.manifest, opened.weights
    assert weights is not None
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.tensors.items()}
    check_manifest(manifest, shapes)
    copies = next(p for p in manifest.programs if p.stream == COPY_STREAM)
    copy = next(step for step in copies.instructions if isinstance(step, Copy))
    on_cpu = tuple(
        replace(p, instructions=(copy, *p.instructions)) if p.device == CPU else p
        for p in manifest.programs
    )
    with pytest.raises(ArtifactError, match="of another device"):
        check_manifest(replace(manifest, programs=on_cpu), shapes)
    text = manifest.to_json().decode().replace("toy:1", "cuda:0")
    mixed = Manifest.from_json(text.encode())
    kinds = [replace(d, kind="cuda") if d.name == "cuda:0" else d for d in mixed.devices]
    with pytest.raises(ArtifactError, match=r"'(toy|cuda):0' uses buffer .* of another device"):
        check_manifest(replace(mixed, devices=tuple(kinds)), shapes)
    unknown = manifest.to_json().decode().replace("toy:1", "toy:x")
    with pytest.raises(ArtifactError, match="'toy:x' is no toy"):
        check_manifest(Manifest.from_json(unknown.encode()), shapes)
    coded = tuple(replace(device, device_code="x") for device in manifest.devices)
    with pytest.raises(ArtifactError, match="code"):
        check_manifest(replace(manifest, devices=coded), shapes)
