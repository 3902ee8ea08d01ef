"""Quantization from a folder of inputs, what is reported about it, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from hios_tvm.cli import main
from hios_tvm.errors import InputError, ModelError, UsageError
from hios_tvm.quantizing import quantize as quantize_module
from hios_tvm.quantizing.accuracy import AccuracyMeter
from hios_tvm.quantizing.calibration import read_calibration
from hios_tvm.quantizing.quantize import QuantizeOptions, quantize
from hios_tvm.schema.graph import Tensor

SIZE = (3, 8, 8)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def network(batch: int | str = 1, opset: int = 17) -> onnx.ModelProto:
    """Return a classifier: a convolution, its mean over the image, and a product."""
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "classes": (8, 5)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "classes"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, *SIZE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (batch, 5))],
        [
            numpy_helper.from_array(rng.standard_normal(shape, np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(network(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with ten runs in one file, two in another."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.save(folder / "a.npy", rng.standard_normal((10, *SIZE), np.float32))
    np.savez(folder / "b.npz", x=rng.standard_normal((2, *SIZE), np.float32), labels=np.arange(2))
    (folder / "notes.txt").write_text("no inputs")
    return folder


def test_a_quantized_model_is_compiled_verified_and_run(
    model: Path, inputs: Path, tmp_path: Path
) -> None:
    result = run("quantize", model, "--calibration", inputs, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["calibrated"], report["held_out"]) == (10, 2)
    assert (report["quantized"], report["products"]) == (2, 2)
    (output,) = report["outputs"]
    assert output["max_error"] < 0.05 and output["snr_db"] > 25 and output["compared"] == 2
    narrow, artifact = tmp_path / "model.int8.onnx", tmp_path / "model.hios"
    weights = {weight.data_type for weight in onnx.load(narrow).graph.initializer}
    assert TensorProto.INT8 in weights
    result = run("compile", narrow, "-o", artifact, "--scheduler", "sequential", "--no-divide")
    assert result.exit_code == 0, result.output
    assert "verified against ONNX Runtime" in result.stdout
    result = run("run", artifact, "--verify", narrow)
    assert result.exit_code == 0, result.output


def test_the_report_is_printed(model: Path, inputs: Path, tmp_path: Path) -> None:
    path = tmp_path / "narrow.onnx"
    words = ("--per-tensor", "--method", "percentile", "--no-progress")
    result = run("quantize", model, "--calibration", inputs, "-o", path, *words)
    assert result.exit_code == 0, result.output
    assert f"{path}: " in result.stdout and "2 of 2 convolutions and products" in result.stdout
    assert "2 of 12 runs, which were held out" in result.stdout
    assert not result.stderr


def test_symbolic_dimensions_need_a_shape_and_stay_symbolic(inputs: Path, tmp_path: Path) -> None:
    path, narrow = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    onnx.save(network("n", opset=11), path)
    with pytest.raises(UsageError, match=r"x: n; give the inputs' shapes, such as --shape x:1,3"):
        quantize(path, inputs, narrow)
    found = quantize(path, inputs, narrow, QuantizeOptions(shapes={"x": (2, *SIZE)}))
    assert (found.calibrated, found.held_out, found.outputs[0].compared) == (5, 1, 2)
    shape = onnx.load(narrow).graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param == "n"


def refusal(*arguments: object) -> str:
    result = run("quantize", *arguments)
    assert result.exit_code in (1, 2)
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_what_cannot_be_used_is_refused_in_one_line(
    model: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, few, narrow = tmp_path / "empty", tmp_path / "few", tmp_path / "narrow.onnx"
    for folder in (empty, few):
        folder.mkdir()
    np.save(few / "a.npy", np.zeros((1, *SIZE), np.float32))
    assert "has no inputs" in refusal(model, "--calibration", empty)
    assert "there is no such folder" in refusal(model, "--calibration", tmp_path / "none")
    assert "give at least two" in refusal(model, "--calibration", few)
    assert "the model itself" in refusal(model, "--calibration", inputs, "-o", model)
    assert run("quantize", model, "--calibration", inputs, "-o", narrow).exit_code == 0
    assert "is quantized already" in refusal(narrow, "--calibration", inputs)
    assert "not an ONNX model" in refusal(inputs / "notes.txt", "--calibration", inputs)
    onnx.save(only("Relu"), model)
    assert "no convolution or product" in refusal(model, "--calibration", inputs)
    before = narrow.read_bytes()
    onnx.save(network(), model)
    monkeypatch.setattr(quantize_module, "LARGEST_CONTENT", 10)
    assert "an ONNX file holds 2 GB" in refusal(model, "--calibration", inputs, "-o", narrow)
    assert narrow.read_bytes() == before
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime" in refusal(model, "--calibration", inputs)


def only(operator: str) -> onnx.ModelProto:
    """Return a model with one operator, which has no weights."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, *SIZE)) for name in ("x", "y")
    )
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PAIR = (Tensor("a", (2, 3), "float32"), Tensor("b", (), "int64"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((2, 3), np.float32)}, "input 'b' is missing; the file has a"),
        ({"a": np.zeros((2, 3)), "b": np.array(1)}, "'a' is float64"),
        ({"a": np.zeros((3, 3), np.float32), "b": np.array(1)}, r"\[3, 3\], not float32 \[2, 3\]"),
        ({"a": np.zeros((2, 4), np.float32), "b": np.array(1)}, "several of these"),
        ({"a": np.zeros((4, 3), np.float32), "b": np.array(1)}, "2 of 'a', 1 of 'b'"),
        ({"a": np.full((2, 3), np.nan, np.float32), "b": np.array(1)}, "holds NaN"),
    ],
)
def test_inputs_that_do_not_fit(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "0.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_calibration(tmp_path, PAIR)


def test_an_input_without_elements_is_one_run(tmp_path: Path) -> None:
    empty = (Tensor("a", (0, 3), "float32"),)
    np.save(tmp_path / "0.npy", np.zeros((0, 3), np.float32))
    assert len(read_calibration(tmp_path, empty)) == 1
    np.save(tmp_path / "0.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match=r"\[2, 3\], not float32 \[0, 3\]"):
        read_calibration(tmp_path, empty)


def test_one_array_is_not_enough_for_two_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match=r"write \.npz files with a, b"):
        read_calibration(tmp_path, PAIR)


@pytest.mark.parametrize(
    ("sizes", "held_out"), [([1, 1], [1]), ([3], [2]), ([4, 7], [4, 9]), ([5], [4])]
)
def test_every_fifth_run_is_held_out(
    sizes: Sequence[int], held_out: list[int], tmp_path: Path
) -> None:
    first = 0
    for i, size in enumerate(sizes):
        np.save(tmp_path / f"{i}.npy", np.arange(first, first + size, dtype=np.float32)[:, None])
        first += size
    chosen, rest = read_calibration(tmp_path, [Tensor("x", (1, 1), "float32")]).split()
    assert [int(feeds["x"][0, 0]) for feeds in rest] == held_out
    assert len(chosen) + len(rest) == first
    used = {int(feeds["x"][0, 0]) for feeds in chosen}
    assert used == set(range(first)) - set(held_out)


def test_accuracy_is_over_all_runs() -> None:
    meter = AccuracyMeter()
    exact = np.float32([[4.0, 0.0], [1.0, 2.0]])
    other = {"kind": np.array([1, 2, 3, 4]), "map": np.zeros((1, 2, 2), np.float32)}
    meter.add({"y": exact, **other}, {"y": exact + np.float32([[0, 0], [0.5, -0.5]]), **other})
    meter.add({"y": exact, **other}, {"y": exact, **other, "kind": np.array([1, 2, 3, 0])})
    scores, kinds, image = meter.outputs()
    assert scores.max_error == pytest.approx(0.5 / 4)
    assert scores.snr_db == pytest.approx(10 * np.log10(42 / 0.5))
    assert (scores.equal, scores.compared) == (3 / 4, 4)  # 1.5 and 1.5: the first counts
    assert (kinds.equal, kinds.compared) == (7 / 8, 8)
    assert image.snr_db is None and image.equal is None and image.max_error == 0.0


def test_what_onnx_runtime_raises_is_one_line(
    model: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("several\nlines")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fail)
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot quantize it: several lines$"):
        quantize(model, inputs, tmp_path / "narrow.onnx")
    assert not (tmp_path / "narrow.onnx").exists()
