"""Costs of GPUs: measured on a stand-in for the driver, estimated where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import onnx
import pytest
from fake_driver import FakeDriver
from gpu_network import MODEL

from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.errors import CostError, UsageError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.measuring.artifact_costs import measure_artifact, write_costs
from hios_tvm.measuring.kernel_export import export_kernels
from hios_tvm.runtime.devices.cuda.driver import CudaDriver
from hios_tvm.runtime.devices.cuda.gpu import open_gpus
from hios_tvm.runtime.devices.cuda.kernels import GpuBench
from hios_tvm.runtime.devices.kernel_calls import kernel_calls
from hios_tvm.runtime.native import load_library
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import GpuPlace
from hios_tvm.schema.links import LINKS

Start = Callable[..., FakeDriver]
GPUS = ("cuda:0", "cuda:1")


def graph_of(model: onnx.ModelProto, folder: Path) -> set[str]:
    options = CompileOptions(devices=("cuda:0",), target="sm_80", cache_dir=None)
    result = compile_model(from_onnx(model), folder / "one.hios", options)
    return {operator.name for operator in result.graph.operators}


def test_estimates_are_said_to_be_estimates(start: Start, tmp_path: Path) -> None:
    options = CompileOptions(devices=GPUS, target="sm_90", link="nvlink4")
    result = compile_model(from_onnx(MODEL), tmp_path / "model.hios", options)
    assert "the costs of cuda/sm_90 are estimates, not measured" in result.notes
    assert result.platform.default_link.bandwidth_gb_s == 376.0
    shares = result.costs.utilization["cuda/sm_90"]
    assert all(0 < share <= 1 for share in shares.values())


def test_gpus_that_are_here_are_measured(start: Start, tmp_path: Path) -> None:
    start(gpus=2, here=True)
    options = CompileOptions(devices=GPUS, target="sm_80", scheduler="ios")
    result = compile_model(from_onnx(MODEL), tmp_path / "model.hios", options)
    times = result.costs.latency["cuda/sm_80"]
    assert {time.source for time in times.values()} == {"measured"}
    assert result.costs.joint["cuda/sm_80"], "IOS asks for stream groups"
    assert result.platform.default_link.latency_ms > 0
    assert not [note for note in result.notes if "estimate" in note]


def test_profile_measures_where_there_is_no_compiler(start: Start, tmp_path: Path) -> None:
    fake = start(gpus=2)
    kernels, costs_file = tmp_path / "kernels.hios", tmp_path / "costs.json"
    export_kernels(from_onnx(MODEL), kernels, target="sm_80")
    write_costs(*measure_artifact(kernels, GPUS), costs_file)
    assert not fake.allocated
    costs = CostTable.from_json(costs_file.read_text())
    assert set(costs.latency) == {"cuda/sm_80"}
    assert set(costs.latency["cuda/sm_80"]) == graph_of(MODEL, tmp_path)
    options = CompileOptions(devices=GPUS, target="sm_80", costs=costs)
    result = compile_model(from_onnx(MODEL), tmp_path / "model.hios", options)
    assert not [note for note in result.notes if "estimate" in note]
    with pytest.raises(UsageError, match="one kind of device"):
        measure_artifact(kernels, ("cpu@0", "cuda:0"))


def test_kernels_are_measured_behind_a_long_copy_with_other_weights_each(
    start: Start, tmp_path: Path
) -> None:
    """The host's calls take no time of theirs, and no weight is in the cache from the last call."""
    fake = start(gpus=1)
    kernels = tmp_path / "kernels.hios"
    export_kernels(from_onnx(MODEL), kernels, target="sm_80")
    artifact = open_artifact(kernels)
    calls = [call for _, call in kernel_calls(artifact.manifest).values()]
    product = next(c for c in calls if sum(arg.role == "weight" for arg in c.args) == 1)
    (launch,) = artifact.manifest.gpu_kernels[product.kernel].launches
    by_number = dict(enumerate(product.args))
    fake.access[launch.symbol] = [
        (by_number[number].nbytes, by_number[number].role == "output") for number in launch.args
    ]
    (spec,) = artifact.manifest.devices
    code, library = (artifact.libraries[name or ""] for name in (spec.device_code, spec.library))
    (gpu,) = open_gpus(CudaDriver(fake), [GpuPlace(0)], [code])
    bench = GpuBench(gpu, artifact.manifest.gpu_kernels, load_library(library))
    assert bench.kernel(product).ms >= 0
    assert 0 < bench.utilization(product.kernel) <= 1
    gpu.close()
    run = [step for step in fake.log if step.kind != "wait"][:5]
    assert [step.kind for step in run[:2]] == ["copy", "record"]
    assert [step.kind for step in run[2:4]] == [launch.symbol] * 2
    (weight,) = (arg for arg in product.args if arg.role == "weight")
    (moved,) = set(run[2].reads) - set(run[3].reads)
    assert moved[1] - moved[0] == weight.nbytes


def test_parts_have_costs_of_their_own(start: Start, tmp_path: Path) -> None:
    start(gpus=1, here=True)
    devices = ("cuda:0", "cuda:0.0/2", "cuda:0.1/2")
    options = CompileOptions(devices=devices, target="sm_80")
    result = compile_model(from_onnx(MODEL), tmp_path / "model.hios", options)
    assert set(result.costs.latency) == {"cuda/sm_80", "cuda/sm_80/2"}
    assert [device.model for device in result.platform.devices] == [
        "cuda/sm_80",
        "cuda/sm_80/2",
        "cuda/sm_80/2",
    ]
    shares = result.costs.utilization
    assert set(shares) == {"cuda/sm_80", "cuda/sm_80/2"}
    for operator, share in shares["cuda/sm_80"].items():  # half of the GPU is fuller
        assert share <= shares["cuda/sm_80/2"][operator] <= 1.0
    assert shares["cuda/sm_80"] != shares["cuda/sm_80/2"]
    links = {result.platform.link(a, b) for a, b in permutations(devices, 2)}
    (handover,) = links
    assert handover.bandwidth_gb_s == math.inf, "nothing is copied"
    assert result.platform.default_link == LINKS["pcie4"]
    assert {device.memory for device in result.platform.devices} == {"cuda:0"}


def test_hand_overs_and_copies_are_told_apart(start: Start, tmp_path: Path) -> None:
    """Parts of one GPU hand over by events, which are measured; GPUs copy."""
    start(gpus=2)
    devices = ("cuda:0.0/2", "cuda:0.1/2", "cuda:1.0/2", "cuda:1.1/2")
    kernels = tmp_path / "kernels.hios"
    export_kernels(from_onnx(MODEL), kernels, target="sm_80")
    costs, graph = measure_artifact(kernels, devices)
    assert costs.platform is not None
    reference = costs.platform.reference
    assert reference is not None and reference.bandwidth_gb_s == math.inf
    assert costs.platform.link(*devices[1:3]).bandwidth_gb_s < math.inf
    # They stay with the costs, for more parts, too
    known = CostTable.from_json(costs.to_json(graph))
    options = CompileOptions(devices=(*devices, "cpu@0"), target="sm_80", costs=known)
    found = compile_model(from_onnx(MODEL), tmp_path / "model.hios", options).platform
    assert found.link(devices[3], devices[2]) == reference
    assert found.link(devices[1], devices[2]) == costs.platform.default_link
    assert found.link("cpu@0", devices[0]) == costs.platform.default_link


def test_cpus_do_not_inherit_what_operators_use_of_a_gpu(start: Start, tmp_path: Path) -> None:
    start()
    options = CompileOptions(devices=("cpu@0", "cuda:0"), target="sm_90", cache_dir=None)
    costs = compile_model(from_onnx(MODEL), tmp_path / "model.hios", options).costs
    assert set(costs.utilization) == {"cuda/sm_90"}
    assert costs.utilization_of(next(iter(costs.utilization["cuda/sm_90"])), "cpu/1") == 1.0


def test_costs_of_another_precision_are_refused(start: Start, tmp_path: Path) -> None:
    start(gpus=1)
    kernels, costs_file = tmp_path / "kernels.hios", tmp_path / "costs.json"
    export_kernels(from_onnx(MODEL), kernels, target="sm_80", precision="tf32")
    write_costs(*measure_artifact(kernels, GPUS[:1]), costs_file)
    costs = CostTable.from_json(costs_file.read_text())
    assert costs.precision == {"cuda/sm_80": "tf32"}
    options = CompileOptions(devices=GPUS[:1], target="sm_80", precision="tf32", costs=costs)
    compile_model(from_onnx(MODEL), tmp_path / "model.hios", options)
    with pytest.raises(CostError, match="measured with tf32 kernels, and these are fp32"):
        compile_model(from_onnx(MODEL), tmp_path / "other.hios", replace(options, precision="fp32"))


def test_an_artifact_for_cpus_has_no_code_for_gpus(start: Start, tmp_path: Path) -> None:
    kernels = tmp_path / "kernels.hios"
    export_kernels(from_onnx(MODEL), kernels)
    with pytest.raises(UsageError, match="no code for GPUs: export it with --target"):
        measure_artifact(kernels, ("cuda:0",))
