"""Parameter files: three formats, and what damage does to them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from hios_tvm.errors import ModelError
from hios_tvm.frontends.params import load_params, read_tvm_params

RNG = np.random.default_rng(0)
PARAMS = {
    "weight": RNG.standard_normal((3, 4)).astype("float32"),
    "größe": np.arange(6, dtype="int64").reshape(1, 2, 3),
    "scalar": np.array(2.5, "float64"),
    "flags": np.array([True, False]),
    "half": RNG.standard_normal(3).astype("float16"),
    "bytes": np.arange(5, dtype="uint8"),
    "empty": np.zeros((0, 3), "int8"),
}


def tvm_bytes(params: dict[str, np.ndarray]) -> bytes:
    tensors = {name: tvm.runtime.tensor(array) for name, array in params.items()}
    return bytes(tvm.runtime.save_param_dict(tensors))


def npz_bytes(params: dict[str, np.ndarray], *, compressed: bool) -> bytes:
    buffer = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(buffer, **params)
    return buffer.getvalue()


def assert_same(read: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        assert read[name].shape == array.shape
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
        assert read[name].flags.writeable


def test_file_of_tvm(tmp_path: Path) -> None:
    params = {**PARAMS, "brain": PARAMS["weight"].astype(ml_dtypes.bfloat16)}
    path = tmp_path / "model.params"
    path.write_bytes(tvm_bytes(params))
    assert_same(load_params(path), params)


def test_npz_and_safetensors(tmp_path: Path) -> None:
    (tmp_path / "plain.npz").write_bytes(npz_bytes(PARAMS, compressed=False))
    (tmp_path / "compressed.npz").write_bytes(npz_bytes(PARAMS, compressed=True))
    save_file(PARAMS, tmp_path / "model.safetensors")
    brain = {"brain": PARAMS["weight"].astype(ml_dtypes.bfloat16)}
    save_file(brain, tmp_path / "brain.safetensors")
    for name in ("plain.npz", "compressed.npz", "model.safetensors"):
        assert_same(load_params(tmp_path / name), PARAMS)
    assert_same(load_params(tmp_path / "brain.safetensors"), brain)


def test_pickles_are_refused(tmp_path: Path) -> None:
    array = np.array([{"an": "object"}], object)
    np.savez(tmp_path / "objects.npz", array=array)
    with pytest.raises(ModelError, match="Object arrays cannot be loaded"):
        load_params(tmp_path / "objects.npz")
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError, match="none of them"):
        load_params(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_params(tmp_path / "missing.params")
    for content in (b"", b"PK", b"hello", struct.pack("<QQQ", 0xF7E58D4F05049CB7, 0, 2**60)):
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=str(path)):
            load_params(path)
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("a.npy", b"not an array")
    with pytest.raises(ModelError):
        load_params(tmp_path / "other.npz")


CONTENT = tvm_bytes({name: PARAMS[name] for name in ("weight", "scalar", "flags")})


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.integers(0, len(CONTENT) - 1), st.binary(min_size=1, max_size=9), st.booleans())
def test_damage_gives_parameters_or_an_error(at: int, junk: bytes, cut: bool) -> None:
    damaged = CONTENT[:at] + junk + (b"" if cut else CONTENT[at + len(junk) :])
    try:
        params = read_tvm_params(damaged)
    except ModelError:
        return
    assert all(isinstance(array, np.ndarray) for array in params.values())


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_truncated_archives_give_an_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    if suffix == "npz":
        path.write_bytes(npz_bytes(PARAMS, compressed=True))
    else:
        save_file(PARAMS, path)
    content = path.read_bytes()
    for end in range(0, len(content), 37):
        path.write_bytes(content[:end])
        with pytest.raises(ModelError):
            load_params(path)
    for at in range(0, len(content), 41):
        path.write_bytes(content[:at] + b"\xff\x00\x81" + content[at + 3 :])
        try:
            load_params(path)
        except ModelError:
            continue
