"""One artifact with programs for several shapes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

import hios_tvm
from hios_tvm import hios_run
from hios_tvm.artifact.sign import sign_artifact, write_new_key
from hios_tvm.cli import main
from hios_tvm.compiler.shapes import find_batch
from hios_tvm.compiler.source import ModelSource
from hios_tvm.errors import ArtifactError, InputError, UsageError
from hios_tvm.frontends.shapes import one_shape, several_shapes
from hios_tvm.runtime import Session, read_manifest
from hios_tvm.runtime.read_artifact import open_artifact, read_manifests
from hios_tvm.verification.onnx_reference import onnxruntime_outputs

RNG = np.random.default_rng(0)


CORE = f"cpu@{min(os.sched_getaffinity(0))}"


def succeed(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def network(*, apart: bool = True) -> onnx.ModelProto:
    """Tokens and their features; the rows of the batch may be mixed in the end."""
    nodes = [
        make_node("Gather", ["table", "ids"], ["e"]),
        make_node("Add", ["e", "x"], ["s"]),
        make_node("MatMul", ["s", "w"], ["m"]),
        make_node("Relu", ["m"], ["r"]),
        make_node("ReduceMean", ["r"], ["y" if apart else "p"], axes=[1], keepdims=0),
    ]
    if not apart:
        nodes.append(make_node("Softmax", ["p"], ["y"], axis=0))
    weights = {"table": floats(20, 8), "w": floats(8, 48)}
    graph = make_graph(
        nodes,
        "tokens",
        [
            make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"]),
            make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", 8]),
        ],
        [make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 48])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8)


def inputs_of(rows: int, tokens: int) -> dict[str, np.ndarray]:
    return {"ids": RNG.integers(0, 20, (rows, tokens)), "x": floats(rows, tokens, 8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(network(), path)
    return path


@pytest.fixture(scope="module")
def artifact(folder: Path, model: Path, cache: Path) -> Path:
    """Programs for batches of 4, of 4 and 8 tokens; batches from 1 to 4 can be run."""
    path = folder / "m.hios"
    shapes = "--shape", "ids:1..4,{4,8}", "--shape", "x:1..4,{4,8},8", "--programs", "4"
    succeed("compile", model, *shapes, "-o", path, "--devices", CORE, "--cost-cache", cache)
    return path


@pytest.fixture(scope="module")
def session(artifact: Path) -> Session:
    return hios_tvm.load(artifact)


def check(session: Session, model: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    output = session.run(inputs)["y"]
    expected = onnxruntime_outputs(model, inputs)["y"]
    assert output.shape == expected.shape
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    return output


@pytest.mark.parametrize("tokens", [4, 8])
@pytest.mark.parametrize("rows", range(1, 5))
def test_all_sizes_of_the_batch_run(session: Session, model: Path, rows: int, tokens: int) -> None:
    check(session, model, inputs_of(rows, tokens))


def test_rows_are_the_same_whatever_the_batch(session: Session) -> None:
    inputs = inputs_of(4, 8)
    whole = session.run(inputs)["y"]
    for rows in (1, 2, 3):
        part = session.run({name: array[4 - rows :] for name, array in inputs.items()})["y"]
        np.testing.assert_array_equal(part, whole[4 - rows :])


def test_a_session_says_what_it_takes(session: Session) -> None:
    assert [shape["ids"] for shape in session.shapes] == [(4, 4), (4, 8)]
    assert session.inputs[0].shape == (4, 8)
    batch = session.batch
    assert batch is not None
    assert (batch.inputs, batch.outputs) == ({"ids": 0, "x": 0}, {"y": 0})
    assert (batch.smallest, batch.largest) == (1, 4)
    assert session.manifest_of(inputs_of(3, 4)).shape["ids"] == (4, 4)


def test_other_ways_of_giving_tensors(session: Session, model: Path) -> None:
    inputs = inputs_of(3, 4)
    expected = check(session, model, inputs)
    np.testing.assert_array_equal(session.run(list(inputs.values()))["y"], expected)
    out = np.empty((3, 48), np.float32)
    assert session.run(inputs, out=out)["y"] is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(session.submit(inputs).result(60)["y"], expected)
    outputs, trace = session.run_traced(inputs)
    np.testing.assert_array_equal(outputs["y"], expected)
    assert trace.spans


def test_sizes_that_do_not_exist_are_refused(session: Session) -> None:
    for rows, tokens in ((5, 8), (0, 8), (2, 5), (2, 16)):
        with pytest.raises(InputError, match=r"no program for ids .*; the artifact has programs"):
            session.run(inputs_of(rows, tokens))
    with pytest.raises(InputError, match="and runs batches from 1 to 4"):
        session.run(inputs_of(5, 8))
    mixed = {"ids": inputs_of(2, 4)["ids"], "x": inputs_of(3, 4)["x"]}
    with pytest.raises(InputError, match="no program for"):
        session.run(mixed)
    with pytest.raises(InputError, match="'x' is missing"):
        session.run({"ids": inputs_of(2, 4)["ids"]})
    with pytest.raises(InputError, match="'ids' is float64"):
        session.run({"ids": np.zeros((3, 4)), "x": floats(3, 4, 8)})
    with pytest.raises(InputError, match="'y' is float32"):
        session.run(inputs_of(3, 4), out=np.empty((4, 48), np.float32))


def test_values_are_checked_for_given_rows_only(session: Session, model: Path) -> None:
    inputs = inputs_of(3, 4)
    inputs["ids"][1, 2] = 20
    with pytest.raises(InputError, match="20"):
        session.run(inputs)
    check(session, model, inputs_of(3, 4))


def test_equal_weights_are_in_it_once(artifact: Path) -> None:
    opened = open_artifact(artifact)
    assert opened.weights is not None
    arrays = [opened.weights.array(name).tobytes() for name in opened.weights.tensors]
    assert len(set(arrays)) == len(arrays)  # packed in another way, they are others
    assert [len(array) for array in arrays].count(20 * 8 * 4) == 1  # the table
    assert [len(other.libraries) for other in opened.others] == [len(opened.libraries)]


def test_manifests_are_signed_and_checked(artifact: Path, folder: Path) -> None:
    key = folder / "key.pem"
    public = write_new_key(key)
    signed = folder / "signed.hios"
    sign_artifact(artifact, key, signed)
    assert len(read_manifests(signed, verify_key=public)) == 2
    with hios_tvm.load(signed, verify_key=public) as session:
        session.run(inputs_of(1, 8))
    manifest = read_manifest(signed)
    assert manifest.shapes is not None
    content = signed.read_bytes()
    place = content.index(b'"shape":[4,4,8]')
    signed.write_bytes(content[:place] + b'"shape":[4,8,4]' + content[place + 15 :])
    with pytest.raises(ArtifactError, match=r"manifest\d.json' is damaged"):
        hios_tvm.load(signed, verify_key=public)


def test_inspect_shows_all_shapes(artifact: Path, folder: Path) -> None:
    shown = succeed("inspect", artifact)
    assert "program for ids 4x4, x 4x4x8" in shown
    assert "batches from 1 to 4 run" in shown
    succeed("inspect", artifact, "--json", folder / "i.json")
    data = json.loads((folder / "i.json").read_text())
    assert data["batch"]["largest"] == 4
    assert [other["verification"]["verified"] for other in data["other_shapes"]] == [True]


def test_the_runtime_alone_shows_all_shapes(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hios_run.main(["inspect", str(artifact)]) == 0
    shown = capsys.readouterr().out
    assert "also ids 4x4, x 4x4x8" in shown
    assert "batches from 1 to 4 run" in shown


def test_commands_take_one_of_the_shapes(artifact: Path, folder: Path) -> None:
    shape = ["--shape", "ids:3,4", "--shape", "x:3,4,8"]
    succeed("run", artifact, *shape, "--trace", folder / "trace.json", "--json", folder / "r.json")
    assert json.loads((folder / "r.json").read_text())["y"]["shape"] == "3x48"
    succeed("benchmark", artifact, *shape, "--iterations", 2, "--duration", 0)


def test_rows_that_are_mixed_are_not_proven_apart(tmp_path: Path) -> None:
    path = tmp_path / "mixed.onnx"
    onnx.save(network(apart=False), path)
    several = several_shapes({"ids": (range(1, 4), 4), "x": (range(1, 4), 4, 8)}, [1, 3])
    modules = [ModelSource(path, shape).module() for shape in several.shapes]
    batch, (note,) = find_batch(ModelSource(path), several, modules)
    assert batch is None
    assert "only the sizes that have programs can be run" in note


def test_sizes_that_all_have_programs_are_proven_too(model: Path) -> None:
    """A server that joins requests relies on it."""
    several = several_shapes({"ids": (range(1, 3), 4), "x": (range(1, 3), 4, 8)}, [1, 2])
    modules = [ModelSource(model, shape).module() for shape in several.shapes]
    batch, notes = find_batch(ModelSource(model), several, modules)
    assert batch is not None and not notes
    assert (batch.inputs, batch.outputs) == ({"ids": 0, "x": 0}, {"y": 0})


def test_one_program_runs_all_sizes_of_its_batch(model: Path, folder: Path, cache: Path) -> None:
    path = folder / "one.hios"
    shapes = "--shape", "ids:1..2,4", "--shape", "x:1..2,4,8", "--programs", "2"
    succeed("compile", model, *shapes, "-o", path, "--devices", CORE, "--cost-cache", cache)
    with hios_tvm.load(path) as session:
        for rows in (1, 2):
            check(session, model, inputs_of(rows, 4))


def test_what_has_one_shape_refuses_several(model: Path) -> None:
    shapes = {"ids": (range(1, 9), 4), "x": (range(1, 9), 4, 8)}
    with pytest.raises(UsageError, match=r"the ranges 1..8 and 2..3: a batch is one dimension"):
        hios_tvm.compile(model, shapes={**shapes, "x": (range(2, 4), 4, 8)}, devices=CORE)
    with pytest.raises(UsageError, match="give sizes of the range"):
        hios_tvm.compile(model, shapes=shapes, programs=[1, 4], devices=CORE)
    with pytest.raises(UsageError, match="only compile takes several sizes"):
        one_shape(shapes)


def test_for_throughput_the_batch_is_chosen(tmp_path: Path) -> None:
    """Weights of a megabyte are read once for all rows."""
    graph = make_graph(
        [make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 512])],
        [make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 512])],
        [numpy_helper.from_array(floats(512, 512), "w")],
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8)
    options = {"devices": CORE, "objective": "throughput", "scheduler": "sequential"}
    compiled = hios_tvm.compile(
        model, shapes={"x": (range(1, 5), 512)}, programs=[1, 4], output=tmp_path / "m.hios",
        **options,
    )  # fmt: skip
    (note,) = (note for note in compiled.notes if note.startswith("batch of"))
    sizes, times = zip(*re.findall(r"(\d+): ([\d.]+) ms", note), strict=True)
    assert sizes == ("4", "1")
    rows = min(zip(map(float, times), sizes, strict=True))[1]
    assert note.startswith(f"batch of {rows}, by the predicted time of a row (4: ")
    assert read_manifest(tmp_path / "m.hios").shape == {"x": (int(rows), 512)}
    with pytest.raises(UsageError, match="or for the sizes of one batch"):
        hios_tvm.compile(model, shapes={"x": ((1, 2), 512)}, output=tmp_path / "m.hios", **options)
