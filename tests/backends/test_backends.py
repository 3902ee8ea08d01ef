"""One backend for each kind of device."""

from __future__ import annotations

import numpy as np
import pytest
import tvm_ffi
from lowered_models import model_of, random
from onnx import ModelProto, helper

from hios_tvm.backends import backend_of, parse_targets
from hios_tvm.backends.cpu.targets import host_target, parse_target
from hios_tvm.backends.cuda.codegen import generate_cuda
from hios_tvm.backends.cuda.targets import cuda_target
from hios_tvm.backends.network import lower_network
from hios_tvm.errors import DeviceError
from hios_tvm.frontends.onnx import from_onnx


def model() -> ModelProto:
    """Two convolutions, of which the first is one that CPUs compute by Winograd's method."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    weights = {"w": random(64, 64, 3, 3), "v": random(20, 64, 3, 3, seed=1)}
    return model_of(nodes, {"x": (1, 64, 56, 56)}, weights)


def test_code_of_gpus_does_not_depend_on_the_cpu_beside_them() -> None:
    sources = []
    for name in ("portable", "nehalem", "aarch64-linux-gnu"):
        cpu = parse_target(name)
        network = lower_network(from_onnx(model()), cpu, cuda_target("sm_80", cpu))
        form = network.lowered["cuda"]
        sources.append(generate_cuda(form.mod, form.target).source)
        graphs = [form.graph for form in network.lowered.values()]
        shapes = {graph.tensor[name].shape for graph in graphs for name in graph.constants}
        assert len(shapes) == 4, "CPUs pack theirs"
    assert "conv2d" in sources[0]
    assert sources[0] == sources[1] == sources[2]


def test_kernels_before_loops_are_the_same_for_all_targets() -> None:
    cpu = host_target()
    networks = [
        lower_network(from_onnx(model()), target)
        for target in (cpu, parse_target("portable"), cuda_target("sm_90", cpu))
    ]
    first, *others = (network.kernels for network in networks)
    assert all(tvm_ffi.structural_equal(first, other) for other in others)


def test_each_operator_reads_the_weights_of_its_device() -> None:
    cpu = host_target()
    network = lower_network(from_onnx(model()), cpu, cuda_target("sm_80", cpu))
    first, second = (op.name for op in network.graph.operators if "conv2d" in op.kernel)
    others = {op.name: "cpu@0" for op in network.graph.operators}
    placed = network.placed({**others, first: "cpu@0", second: "cuda:0"})
    read = {
        binding.var.name: binding.value.args[1].fields[1]
        for binding in placed["main"].body.blocks[0].bindings
        if binding.var.name in (first, second)
    }
    (prepared,) = network.lowered["cpu"].prepared
    assert read[first].name == prepared.name, "packed for the CPU"
    weights = network.weights
    for name, weight in (
        (prepared.source, random(64, 64, 3, 3)),
        (read[second].name, random(20, 64, 3, 3, seed=1)),
    ):
        np.testing.assert_array_equal(weights[name], weight.transpose(2, 3, 1, 0))


def test_a_placement_on_one_kind_takes_its_form_as_it_is() -> None:
    network = lower_network(from_onnx(model()), host_target())
    placement = dict.fromkeys(network.graph.operator, "cpu@0")
    assert network.placed(placement).same_as(network.lowered["cpu"].mod)


def test_a_device_without_a_backend_is_named() -> None:
    with pytest.raises(DeviceError, match="'toy:0' is unknown: write for example cpu@0 or cuda:0"):
        backend_of("toy:0")


@pytest.mark.parametrize(
    ("text", "devices", "kinds"),
    [
        ("host", ["cpu@0"], {"cpu"}),
        ("sm_90", ["cuda:0", "cuda:1"], {"cuda"}),
        ("portable,sm_80", ["cpu@0", "cuda:0"], {"cpu", "cuda"}),
    ],
)
def test_there_is_a_target_for_each_kind(text: str, devices: list[str], kinds: set[str]) -> None:
    targets = parse_targets(text, devices)
    assert targets.keys() == kinds
    if "cuda" in targets:
        host = targets["cuda"].host
        assert host.kind.name == "llvm"
        assert ("x86-64-v3" in str(host)) == ("portable" in text)
