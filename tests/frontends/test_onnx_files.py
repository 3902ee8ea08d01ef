from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import Array, make_model, noise, run_module

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx import from_onnx, load_onnx

WEIGHT = noise(4, 3)


def small_model() -> onnx.ModelProto:
    """A little of everything, so that damage to its bytes has something to hit."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="norm"),
        helper.make_node("MaxPool", ["n"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["p", "p"], ["j"], axis=1),
        helper.make_node("Shape", ["j"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["j", "target"], ["f"]),
        helper.make_node("Gemm", ["f", "d"], ["l"], transB=1),
        helper.make_node("Softmax", ["l"], ["y"], axis=-1),
    ]
    weights: dict[str, Array] = {
        "w": noise(2, 3, 3, 3),
        **{name: noise(2) for name in ("s", "b", "m")},
        "v": np.ones(2, np.float32),
        "d": noise(5, 16),
        "zero": np.array(0),
        "axes": np.array([0]),
        "rest": np.array([-1]),
    }
    return make_model(nodes, {"x": (1, 3, 8, 8)}, ["y"], weights)


def external_model(location: str, **entries: object) -> onnx.ModelProto:
    """``y = x @ w`` with `w` of 4x3 in an external file."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = make_model(nodes, {"x": (2, 4)}, ["y"], {"w": WEIGHT})
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def assert_loads(path: Path) -> None:
    (output,) = run_module(load_onnx(path), noise(2, 4))
    np.testing.assert_allclose(output, noise(2, 4) @ WEIGHT, rtol=1e-5, atol=1e-6)


# --- The model's file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"PK\x03\x04rest of an archive", "torch.onnx.export"),
        (b"#!/bin/sh\necho no model\n", "is not an ONNX model"),
        (b"\x00" * 64, "is not an ONNX model"),
        (b'{"model": 1}', "is not an ONNX model"),
        (b"\x08\x08", "it has no graph"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_onnx(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file or directory; check the path"):
        load_onnx(tmp_path / "model.onnx")


def test_folder_names_the_models_in_it(tmp_path: Path) -> None:
    save(small_model(), tmp_path / "b.onnx")
    with pytest.raises(ModelError, match=r"is a folder; give an ONNX file \(in the folder: b.onnx"):
        load_onnx(tmp_path)


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="is not a regular file"):
        load_onnx(tmp_path / "model.onnx")


def test_path_with_a_null_byte() -> None:
    with pytest.raises(ModelError, match="cannot read"):
        load_onnx("mo\0del.onnx")


def test_path_may_be_text(tmp_path: Path) -> None:
    load_onnx(str(save(small_model(), tmp_path / "model.onnx")))


def test_cut_off_file(tmp_path: Path) -> None:
    content = small_model().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(1, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=str(path)):
            load_onnx(path)


@settings(
    deadline=None,
    max_examples=400,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4
    )
)
def test_damaged_bytes_are_a_model_error_or_harmless(
    tmp_path: Path, edits: list[tuple[float, int, bytes]]
) -> None:
    """Replace, cut out or insert some bytes anywhere in a model."""
    content = bytearray(small_model().SerializeToString())
    for where, removed, inserted in edits:
        start = int(where * len(content))
        content[start : start + removed] = inserted
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    try:
        module = load_onnx(path)
    except ModelError as error:
        assert str(path) in str(error)
    else:
        assert "main" in [var.name_hint for var in module.get_global_vars()]


# --- External data


@pytest.mark.parametrize("location", ["w.bin", "weights/w.bin", "./w.bin"])
def test_external_data_beside_the_model(tmp_path: Path, location: str) -> None:
    file = tmp_path / location
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\0" * 16 + WEIGHT.tobytes() + b"\0")
    model = external_model(location, offset=16, length=48, checksum="ignored", unknown="ignored")
    assert_loads(save(model, tmp_path / "model.onnx"))
    (output,) = run_module(from_onnx(model, base_dir=tmp_path), noise(2, 4))
    np.testing.assert_allclose(output, noise(2, 4) @ WEIGHT, rtol=1e-5, atol=1e-6)
    assert model.graph.initializer[0].data_location == TensorProto.EXTERNAL


def test_external_data_as_the_onnx_package_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(
        small_model(), path, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    expected = run_module(from_onnx(small_model()), noise(1, 3, 8, 8))
    np.testing.assert_array_equal(run_module(load_onnx(path), noise(1, 3, 8, 8)), expected)


def test_external_data_of_attributes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=external_model("w.bin").graph.initializer[0]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    assert_loads(save(make_model(nodes, {"x": (2, 4)}, ["y"]), tmp_path / "model.onnx"))


def test_cache_of_a_model_hub(tmp_path: Path) -> None:
    """Model and weights are links into a folder with the files, under other names."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev" / "onnx"
    save(external_model("model.onnx_data"), blobs / "1a2b")
    (blobs / "3c4d").write_bytes(WEIGHT.tobytes())
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../../blobs/1a2b")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/3c4d")
    assert_loads(snapshot / "model.onnx")


def test_link_to_a_model_with_its_weights_elsewhere(tmp_path: Path) -> None:
    save(external_model("w.bin"), tmp_path / "real" / "model.onnx")
    (tmp_path / "real" / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "link.onnx").symlink_to("real/model.onnx")
    assert_loads(tmp_path / "link.onnx")


def test_folder_behind_a_link(tmp_path: Path) -> None:
    save(external_model("w.bin"), tmp_path / "real" / "model.onnx")
    (tmp_path / "real" / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "alias").symlink_to("real", target_is_directory=True)
    assert_loads(tmp_path / "alias" / "model.onnx")


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "a/../../w.bin",
        "a/../w.bin",
        "..\\w.bin",
        "a\\..\\..\\w.bin",
        "{outside}/w.bin",
        "//w.bin",
        "C:\\w.bin",
        "\\w.bin",
        "C:w.bin",
    ],
)
def test_locations_out_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    for place in (tmp_path, folder):  # the file is there: the path alone is the reason
        (place / "w.bin").write_bytes(WEIGHT.tobytes())
    location = location.format(outside=tmp_path)
    path = save(external_model(location), folder / "model.onnx")
    with pytest.raises(ModelError, match=r"tensor 'w' from .*the path (is not rel|leads out)"):
        load_onnx(path)


def link_file(outside: Path, folder: Path) -> None:
    (folder / "w.bin").symlink_to(outside / "w.bin")


def link_folder(outside: Path, folder: Path) -> None:
    shutil.rmtree(folder / "sub")
    (folder / "sub").symlink_to(outside, target_is_directory=True)


def hard_link(outside: Path, folder: Path) -> None:
    os.link(outside / "w.bin", folder / "w.bin")


@pytest.mark.parametrize(
    ("trick", "location", "message"),
    [
        (link_file, "w.bin", "through a symbolic link"),
        (link_folder, "sub/w.bin", "through a symbolic link"),
        (hard_link, "w.bin", "has hard links"),
    ],
)
def test_links_out_of_the_folder_are_refused(
    tmp_path: Path, trick: Callable[[Path, Path], None], location: str, message: str
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (folder / "sub").mkdir(parents=True)
    (outside / "w.bin").write_bytes(WEIGHT.tobytes())
    trick(outside, folder)
    with pytest.raises(ModelError, match=message):
        load_onnx(save(external_model(location), folder / "model.onnx"))


@pytest.mark.parametrize(
    ("location", "entries", "message"),
    [
        ("missing.bin", {}, "no such file; put it beside the model"),
        ("", {}, "does not name a file"),
        ("a\0b", {}, "does not name a file"),
        ("folder", {}, "Is a directory"),
        ("pipe", {}, "not a regular file"),
        ("w.bin", {"offset": 1}, "the file has 48 bytes, 49 are needed"),
        ("w.bin", {"offset": 2**62}, "48 bytes"),
        ("w.bin", {"offset": "9" * 5000}, "its offset is '999"),
        ("w.bin", {"offset": -1}, "its offset is '-1'"),
        ("w.bin", {"offset": "one"}, "its offset is 'one'"),
        ("w.bin", {"length": 47}, "asks for 48 bytes, its entry says 47"),
        ("w.bin", {"length": 2**50}, "asks for 48 bytes"),
    ],
)
def test_external_data_that_cannot_be_read(
    tmp_path: Path, location: str, entries: dict[str, object], message: str
) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = save(external_model(location, **entries), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=message) as caught:
        load_onnx(path)
    assert f"{path}: cannot read tensor 'w' from " in str(caught.value)


def test_huge_tensor_is_not_allocated(tmp_path: Path) -> None:
    model = external_model("w.bin")
    model.graph.initializer[0].dims[:] = [2**40, 2**40]
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(ModelError, match="the file has 48 bytes"):
        load_onnx(save(model, tmp_path / "model.onnx"))


def test_external_data_needs_a_folder() -> None:
    with pytest.raises(ModelError, match="give its folder as base_dir"):
        from_onnx(external_model("w.bin"))
