from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tvm
from lowered_models import kernels, model_of, random, run_onnx_runtime
from onnx import ModelProto, helper
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm import runtime
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.network import lower
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.errors import UsageError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.merge_convolutions import MergeConvolutions, mergeable_convolutions
from hios_tvm.schema.costs import CostTable


def block() -> ModelProto:
    """Two 1x1 convolutions and one 3x3 of one input, each with bias and Relu, and their sum."""
    nodes = []
    weights = {}
    for name, outputs, size in (("a", 5, 1), ("b", 3, 3), ("c", 4, 1)):
        weights |= {f"w{name}": random(outputs, 6, size, size, seed=ord(name))}
        weights |= {f"b{name}": random(outputs, seed=ord(name) + 1)}
        nodes += [
            helper.make_node(
                "Conv", ["x", f"w{name}", f"b{name}"], [f"c{name}"], pads=[size // 2] * 4
            ),
            helper.make_node("Relu", [f"c{name}"], [f"r{name}"]),
        ]
    nodes.append(helper.make_node("Concat", ["ra", "rb", "rc"], ["y"], axis=1))
    return model_of(nodes, {"x": (1, 6, 9, 8)}, weights)


def test_equal_windows_become_one_convolution() -> None:
    first = R.const(random(2, 3, 1, 1, seed=1))
    second = R.const(random(4, 3, 1, 1, seed=2))
    both = R.const(np.concatenate([random(2, 3, 1, 1, seed=1), random(4, 3, 1, 1, seed=2)]))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 5, 5), "float32")):
            with R.dataflow():
                a = R.nn.conv2d(x, first)
                b = R.nn.relu(a)
                c = R.nn.conv2d(x, second)
                y = R.concat([b, c], axis=1)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 5, 5), "float32")):
            with R.dataflow():
                both_outputs = R.nn.conv2d(x, both)
                a = R.strided_slice(both_outputs, [1], [0], [2])
                b = R.nn.relu(a)
                c = R.strided_slice(both_outputs, [1], [2], [6])
                y = R.concat([b, c], axis=1)
                R.output(y)
            return y

    passes = [MergeConvolutions(), relax.transform.CanonicalizeBindings()]
    actual = tvm.transform.Sequential(passes)(Before)
    tvm.ir.assert_structural_equal(actual, Expected)


@pytest.mark.parametrize("change", ["strides", "groups", "weights", "input", "kernel"])
def test_other_convolutions_stay_apart(change: str) -> None:
    attributes = {
        "strides": {"strides": [2, 2]},
        "groups": {"group": 2},
    }.get(change, {})
    data = "z" if change == "input" else "x"
    size = 3 if change == "kernel" else 1
    weight = random(4, 2 if change == "groups" else 4, size, size)
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Conv", [data, "w"], ["b"], **attributes),
    ]
    inputs: dict[str, tuple[int, ...]] = {"x": (1, 4, 8, 8)}
    inputs |= {"z": (1, 4, 8, 8)} if change == "input" else {}
    inputs |= {"w": weight.shape} if change == "weights" else {}
    weights = {"v": random(4, 4, 1, 1)} | ({} if change == "weights" else {"w": weight})
    mod = from_onnx(model_of(nodes, inputs, weights, outputs=["a", "b"]))
    assert mergeable_convolutions(mod) == []


def test_a_weight_of_two_convolutions_names_neither() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["x", "v"], ["b"]),
        helper.make_node("Conv", ["z", "w"], ["c"]),
    ]
    inputs = {"x": (1, 4, 8, 8), "z": (1, 4, 8, 8)}
    weights = {"w": random(4, 4, 1, 1), "v": random(4, 4, 1, 1, seed=1)}
    mod = from_onnx(model_of(nodes, inputs, weights, outputs=["a", "b", "c"]))
    assert mergeable_convolutions(mod) == []


def test_merged_blocks_compute_the_same() -> None:
    model, target = block(), host_target()
    lowered = lower(from_onnx(model), target, merge_convolutions=True)
    assert len([name for name in kernels(lowered) if "conv2d" in name]) == 2
    feeds = {"x": random(1, 6, 9, 8)}
    machine = relax.VirtualMachine(tvm.compile(lowered, target), tvm.cpu())
    result = machine["main"](tvm.runtime.tensor(feeds["x"])).numpy()
    np.testing.assert_allclose(result, run_onnx_runtime(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_the_faster_network_is_compiled(tmp_path: Path) -> None:
    model = block()
    core = min(os.sched_getaffinity(0))
    options = CompileOptions(
        devices=(f"cpu@{core}",), cache_dir=tmp_path / "cache", merge_convolutions=True
    )
    result = compile_model(from_onnx(model), tmp_path / "model.hios", options)
    (note,) = result.notes
    assert note.startswith("3 convolutions merged into 2 should take")
    kept = len([op for op in result.graph.operators if "conv2d" in op.kernel])
    assert kept == (2 if note.endswith(": merged") else 3)
    feeds = {"x": random(1, 6, 9, 8)}
    with runtime.load(tmp_path / "model.hios") as session:
        output = session.run(feeds)["y"]
    np.testing.assert_allclose(output, run_onnx_runtime(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_merging_takes_measured_costs() -> None:
    with pytest.raises(UsageError, match="merging convolutions takes costs of both networks"):
        CompileOptions(devices=("cpu@0",), costs=CostTable({}), merge_convolutions=True)
