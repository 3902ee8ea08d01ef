from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import tvm
from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import NodeProto, helper

from hios_tvm.backends.cpu.targets import host_target, parse_target
from hios_tvm.backends.network import lower
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.zoo import NETWORKS, build


def test_images_that_are_not_square() -> None:
    size = NETWORKS["squeezenet1_1"].minimum_size
    model = build("squeezenet1_1", height=size, width=size + 9)
    assert_lowers_right(model, tolerance=1e-4)


def test_main_is_calls_of_kernels() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Split", ["a"], ["b", "c"], axis=1, num_outputs=2),
        helper.make_node("Relu", ["b"], ["y"]),
        helper.make_node("TopK", ["c", "k"], ["z", "i"], axis=3),
    ]
    model = model_of(nodes, {"x": (1, 3, 4, 6)}, {"w": random(8, 3, 1, 1)}, outputs=("y", "z", "i"))
    model.opset_import[0].version = 18
    model.graph.initializer.append(helper.make_tensor("k", 7, [1], [2]))
    mod = lowered(model)
    main = mod["main"]
    assert list(main.attrs["input_names"]) == ["x"]
    assert list(main.attrs["output_names"]) == ["y", "z", "i"]
    (block,) = main.body.blocks
    for binding in block.bindings:
        if isinstance(binding.value, tvm.ir.Call):
            assert binding.value.op.name == "relax.call_tir"
            assert mod[binding.value.args[0]].attrs["tirx.is_scheduled"]
        else:
            assert isinstance(binding.value, tvm.relax.TupleGetItem | tvm.relax.Tuple)


def test_equal_kernels_are_one() -> None:
    nodes = [
        helper.make_node("Conv", [source, f"w{i}"], [target], pads=[1, 1, 1, 1])
        for i, (source, target) in enumerate(itertools.pairwise("xabcy"))
    ]
    weights = {f"w{i}": random(6, 6, 3, 3, seed=i) for i in range(4)}
    model = model_of(nodes, {"x": (1, 6, 7, 7)}, weights)
    mod = lowered(model)
    called = Counter(name for name in kernels(mod) if "conv2d" in name)
    assert list(called.values()) == [4]
    assert set(kernels(mod)) == {var.name_hint for var in mod.get_global_vars()} - {"main"}


def test_phases_can_be_read(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)})
    lower(from_onnx(model), host_target(), dump_dir=tmp_path / "ir")
    names = sorted(path.name for path in (tmp_path / "ir").iterdir())
    assert [name.partition("-")[0] for name in names] == ["phase1", "phase2", "phase3", "phase4"]
    assert "R.nn.relu" in (tmp_path / "ir" / names[0]).read_text()


@pytest.mark.parametrize("target", ["aarch64-linux-gnu", "nehalem", "portable"])
def test_code_for_other_machines(target: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"]),
    ]
    weights = {"w": random(20, 3, 3, 3), "v": random(320, 10)}
    model = model_of(nodes, {"x": (1, 3, 8, 8)}, weights)
    compiled = parse_target(target)
    executable = tvm.compile(lowered(model, compiled), compiled)
    executable.mod.imports[0].write_to_file(str(tmp_path / "kernels.o"))
    machine = (tmp_path / "kernels.o").read_bytes()[18:20]
    assert machine == (b"\xb7\x00" if target.startswith("aarch64") else b"\x3e\x00")


@pytest.mark.parametrize("target", ["nehalem", "portable"])
def test_code_for_older_machines_runs_here(target: str) -> None:
    model = build("squeezenet1_1", height=64, width=71)
    assert_lowers_right(model, target=parse_target(target), tolerance=1e-4)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"]),
        helper.make_node("Softmax", ["x"], ["y"], axis=1),
        helper.make_node("CumSum", ["x", "axis"], ["y"]),
        helper.make_node("ReduceProd", ["x"], ["y"], axes=[0, 2], keepdims=0),
        helper.make_node("MatMul", ["x", "x2"], ["y"]),
        helper.make_node("Einsum", ["x", "x2"], ["y"], equation="abc,acd->bd"),
        helper.make_node("Erf", ["x"], ["y"]),
    ],
    ids=lambda node: node.op_type,
)
def test_operators_without_a_rule_of_their_own(node: NodeProto) -> None:
    inputs = {"x": (3, 5, 37)}
    if "x2" in node.input:
        inputs["x2"] = (3, 37, 11)
    model = model_of([node], inputs, {"s": random(37), "b": random(37, seed=1)})
    if "axis" in node.input:
        model.graph.initializer.append(helper.make_tensor("axis", 7, [], [1]))
    assert_lowers_right(model)


def test_transposed_convolutions() -> None:
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 0, 1, 2], output_padding=[1, 0]
    )
    assert_lowers_right(model_of([node], {"x": (1, 4, 5, 6)}, {"w": random(4, 3, 3, 3)}))


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_other_dimensions(dimensions: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1] * dimensions)
    shape = (2, 4, *[7, 6, 5][:dimensions])
    assert_lowers_right(model_of([node], {"x": shape}, {"w": random(5, 4, *[3] * dimensions)}))
