"""Quantized models tensor by tensor: a step is allowed where rounding decides, and no more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from hios_tvm.cli import main
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.verification.deviation import SINGLE, Spread, deviations
from hios_tvm.verification.onnx_reference import OnnxReference

CORE = min(os.sched_getaffinity(0))
SCALES = {"sx": 0.02, "sw": 0.01, "st": 0.05, "sy": 0.2}
WIDTH = 32


def node(operator: str, reads: str, writes: str, **attributes: object) -> onnx.NodeProto:
    domain = "com.microsoft" if operator == "QLinearAdd" else ""
    return helper.make_node(operator, reads.split(), writes.split(), domain=domain, **attributes)


def model_of(nodes: Sequence[onnx.NodeProto], outputs: Mapping[str, int]) -> onnx.ModelProto:
    """Return a model of float32 [64, WIDTH] with weights of int8, scales and zero points."""
    rng = np.random.default_rng(0)
    weights = {name: np.float32(scale) for name, scale in SCALES.items()}
    weights |= {"zero": np.uint8(128), "none": np.int8(0), "large": np.float32(1e7)}
    weights |= {name: rng.integers(-99, 99, (WIDTH, WIDTH), np.int8) for name in ("w", "v")}
    read = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (64, WIDTH))],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in weights.items()
            if name in read
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


QDQ = [
    node("QuantizeLinear", "x sx zero", "xq"),
    node("DequantizeLinear", "xq sx zero", "xr"),
    node("DequantizeLinear", "w sw none", "wr"),
    node("MatMul", "xr wr", "t"),
    node("QuantizeLinear", "t st zero", "tq"),
    node("DequantizeLinear", "tq st zero", "tr"),
    node("Transpose", "tr", "tt", perm=[1, 0]),
    node("Transpose", "tt", "back", perm=[1, 0]),
    node("DequantizeLinear", "v sw none", "vr"),
    node("MatMul", "back vr", "y"),
]
REST = [
    node("QuantizeLinear", "y sy zero", "yq"),
    node("DequantizeLinear", "yq sy zero", "z"),
]
QLINEAR = [
    node("QuantizeLinear", "x sx zero", "xq"),
    node("QLinearMatMul", "xq sx zero w sw none st zero", "tq"),
    node("QLinearAdd", "tq st zero tq st zero sy zero", "aq"),
    node("QLinearMatMul", "aq sy zero v sw none sy zero", "y"),
]
DYNAMIC = [
    node("DynamicQuantizeLinear", "x", "xq xs xz"),
    node("MatMulInteger", "xq w xz none", "sums"),
    node("Cast", "sums", "floats", to=TensorProto.FLOAT),
    node("Mul", "floats xs", "y"),
]


@pytest.mark.parametrize(
    ("nodes", "outputs", "cuts", "steps"),
    [
        ([*QDQ, *REST], {"z": TensorProto.FLOAT}, ["xq", "tq"], {"z": 0.2}),
        (QDQ, {"y": TensorProto.FLOAT}, ["xq", "tq"], {}),
        (QLINEAR, {"y": TensorProto.UINT8}, ["xq", "aq"], {"y": 1.0}),
        (DYNAMIC, {"y": TensorProto.FLOAT}, ["xq", "xs", "xz"], {}),
    ],
)
def test_models_are_cut_at_quantized_tensors_that_are_in_memory(
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, int],
    cuts: Sequence[str],
    steps: Mapping[str, float],
) -> None:
    reference = OnnxReference(model_of(nodes, outputs))
    assert reference.output_steps == pytest.approx(steps)
    draws = [
        {"x": np.random.default_rng(i).standard_normal((64, WIDTH), np.float32)} for i in (0, 1)
    ]
    cut = reference.in_layers(draws)
    assert cut is not None
    layers, inputs = cut
    assert list(layers.outputs) == [*outputs, *cuts]
    assert list(inputs[0]) == ["x", *(f"{name} (given)" for name in cuts)]
    for draw, given in zip(draws, inputs, strict=True):
        found = layers.run(given)
        for name in cuts:
            np.testing.assert_array_equal(found[name], given[f"{name} (given)"])
        for name, array in reference.run(draw).items():
            np.testing.assert_array_equal(found[name], array)
    changed = {**inputs[0], f"{cuts[0]} (given)": inputs[1][f"{cuts[0]} (given)"]}
    assert np.array_equal(layers.run(changed)[cuts[0]], layers.run(inputs[0])[cuts[0]])


def test_sums_of_the_reference_do_not_saturate() -> None:
    """On CPUs without VNNI, as scripts/without_avx512.sh shows one, they would."""
    nodes = [
        node("Cast", "x", "bytes", to=TensorProto.UINT8),
        node("MatMulInteger", "bytes w", "y"),
    ]
    model = model_of(nodes, {"y": TensorProto.INT32})
    weight = np.full((WIDTH, WIDTH), 127, np.int8)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    found = OnnxReference(model).run({"x": np.full((64, WIDTH), 255, np.float32)})["y"]
    assert (found == 255 * 127 * WIDTH).all()


def test_models_without_quantized_tensors_have_no_layers() -> None:
    reference = OnnxReference(model_of([node("Relu", "x", "y")], {"y": TensorProto.FLOAT}))
    assert reference.in_layers([{"x": np.zeros((64, WIDTH), np.float32)}]) is None


@pytest.mark.parametrize(
    ("unequal", "by", "rule"),
    [(0, 0, "tolerance"), (10, 1, "one step"), (11, 1, None), (500, 1, None), (1, 2, None)],
)
@pytest.mark.parametrize("step", [1.0, 0.25])
def test_a_seldom_step_is_rounding(unequal: int, by: int, rule: str | None, step: float) -> None:
    reference = np.arange(1000) % 200
    output = reference.copy()
    output[:unequal] += by
    kind = np.uint8 if step == 1.0 else np.float32
    arrays = [{"y": (step * array).astype(kind)} for array in (output, reference)]
    (found,) = deviations(*arrays, {"y": step})
    assert found.rule(SINGLE) == rule
    if unequal:
        assert found.allowed(SINGLE) == pytest.approx(1 / 199)
        assert not deviations(*arrays)[0].within(SINGLE)


def test_a_network_that_amplifies_steps_does_so_in_size_and_number() -> None:
    reference = np.full(1000, 100.0, np.float32)
    output = reference.copy()
    output[:400] += 3
    (found,) = deviations({"y": output}, {"y": reference}, {"y": 1.0})
    assert found.rule(SINGLE, Spread(error=0.01, unequal=200)) == "spread"
    assert found.rule(SINGLE, Spread(error=0.01, unequal=199)) is None
    assert found.rule(SINGLE, Spread(error=0.007, unequal=400)) is None


@pytest.fixture
def chaotic(tmp_path: Path) -> Path:
    """A model whose output is another one for the slightest change of what is before it."""
    rest = [node("Sigmoid", "y", "s"), node("Mul", "s large", "huge"), node("Sin", "huge", "z")]
    nodes = [*QDQ, *rest]
    onnx.save(model_of(nodes, {"z": TensorProto.FLOAT}), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def compiled(model: Path, *words: object) -> Result:
    words = (model, "-o", model.with_suffix(".hios"), "--devices", f"cpu@{CORE}", *words)
    return CliRunner().invoke(main, ["compile", *map(str, words)])


def test_a_chaotic_model_is_compared_tensor_by_tensor(chaotic: Path) -> None:
    result = compiled(chaotic)
    assert result.exit_code == 0, result.output
    assert "output 'z' amplifies rounding" in result.stderr
    assert "2 quantized tensors, each computed on cpu@" in result.stderr
    notes = read_manifest(chaotic.with_suffix(".hios")).verification.notes
    assert any("are within one step of its results: " in text for text in notes)
    again = CliRunner().invoke(
        main, ["run", str(chaotic.with_suffix(".hios")), "--verify", str(chaotic)]
    )
    assert again.exit_code == 0, again.output
    assert "four times what rounding alone does" in again.stdout


def test_a_wrong_requantization_is_found_behind_a_chaotic_output(
    chaotic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relax.op, "round", relax.op.floor)
    result = compiled(chaotic, "--dump-reproducer", tmp_path / "report")
    assert result.exit_code == 1
    assert "quantized output 'xq' differs from the reference by up to 1 steps" in result.stderr
    assert "The first operator that differs is QuantizeLinear" in result.stderr
    assert not chaotic.with_suffix(".hios").exists()
    nodes = onnx.load(tmp_path / "report" / "model.onnx").graph.node
    assert [each.op_type for each in nodes] == ["QuantizeLinear"]
