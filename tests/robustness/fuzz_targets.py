"""What reads foreign bytes, as functions for fuzzers.

A target returns, or raises an error of `hios_tvm.errors`; any other exception is a defect, and so
is a crash or a hang.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import safetensors.numpy
import tvm
from archives import archive_of, entries_of, with_entry
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hand_made import LENGTH, make_manifest
from mutations import damage, edit_json
from onnx import TensorProto, helper, numpy_helper

from hios_tvm.artifact.combine import combine
from hios_tvm.artifact.write import Build, pack, write
from hios_tvm.errors import HiosError
from hios_tvm.frontends.onnx import load_onnx
from hios_tvm.frontends.params import load_params
from hios_tvm.frontends.relay import from_relay, from_relay_json
from hios_tvm.runtime.artifact_format import MANIFEST, PARAMS, SOURCES
from hios_tvm.runtime.choose_shape import ShapeChooser
from hios_tvm.runtime.memory_limit import memory_limit, taken_memory
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.runtime.signature import check_signature, read_public_key, signed_message
from hios_tvm.schema.instance import Instance, read_instance
from hios_tvm.schema.manifest import Batch, PreparedWeight, TensorSpec
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage
from hios_tvm.serving.map_files import read_rows, write_parquet
from hios_tvm.serving.map_job import MapJob, RowsOfRun

INPUTS = Path(__file__).parent / "inputs"
"""Inputs that once failed, in a folder for each target."""

_RELAY = Path(__file__).parents[1] / "data" / "relay"
_MEMORY = 1 << 30  # bytes that a model may ask for beyond what the process has taken
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes
    ----------
    read : callable
        Takes the bytes.
    seeds : callable
        Returns valid files.
    mutate : callable
        Damages a file.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, random.Random], bytes] = damage

    def accepts(self, content: bytes) -> bool:
        """Whether `content` is read, and not refused with an error of this project."""
        try:
            self.read(content)
        except HiosError:
            return False
        return True

    def inputs(self, name: str) -> list[bytes]:
        """Return the seeds, and the kept inputs of the target called `name`."""
        kept = sorted((INPUTS / name).glob("*")) if (INPUTS / name).is_dir() else []
        return [*self.seeds(), *(path.read_bytes() for path in kept)]


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """Yield the path of a file in memory."""
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _edit_or_damage(content: bytes, rng: random.Random) -> bytes:
    try:
        return (edit_json if rng.randrange(4) else damage)(content, rng)
    except (ValueError, RecursionError):  # it is no JSON any more
        return damage(content, rng)


# --- Artifacts


_LIBRARIES = {"cpu@0": b"code", "cpu@1": b"other"}
_WEIGHTS = np.ones(LENGTH, np.float32)


def _bytes_of(build: Build) -> bytes:
    with TemporaryDirectory() as folder:
        write(build, path := Path(folder, "small.hios"))
        return path.read_bytes()


@functools.cache
def _archive() -> bytes:
    return _bytes_of(pack(make_manifest(), _LIBRARIES, {"w": _WEIGHTS}))


@functools.cache
def _several() -> bytes:
    """Return an archive of two shapes; the weight of the second one is prepared."""
    half = LENGTH // 2
    second = replace(make_manifest(length=half), prepared=(PreparedWeight("w", "twice", "s"),))
    builds = [
        pack(make_manifest(), _LIBRARIES, {"w": _WEIGHTS}),
        pack(second, _LIBRARIES, {}, sources={"s": _WEIGHTS[:half]}),
    ]
    batch = Batch({"the input": 0}, dict.fromkeys(("y", "z", "x again"), 0), 1, LENGTH)
    return _bytes_of(combine(builds, batch))


@functools.cache
def _entries(archive: Callable[[], bytes]) -> dict[str, bytes]:
    return entries_of(archive())


def _open(content: bytes) -> object:
    with _file(content) as path:
        artifact = open_artifact(path)
    if artifact.manifest.shapes is None:
        return artifact
    manifests = [each.manifest for each in (artifact, *artifact.others)]
    return ShapeChooser(manifests).choose([np.empty(LENGTH // 3, np.float32)])


def _read_manifest(content: bytes) -> object:
    archive = _several if b'"others"' in content else _archive
    return _open(archive_of({**_entries(archive), MANIFEST: content}))


def _read_entry(name: str, content: bytes) -> object:
    return _open(archive_of(with_entry(_entries(_several), name, content)))


def _entry_target(name: str, mutate: Callable[[bytes, random.Random], bytes] = damage) -> Target:
    """Return a target for an entry of an archive of several shapes, its hash the right one."""
    return Target(functools.partial(_read_entry, name), lambda: [_entries(_several)[name]], mutate)


def _read_signature(content: bytes) -> object:
    """Read a key where the bytes begin as one does, else a signature with its message."""
    if content.startswith(b"-----"):
        with _file(content) as path:
            return read_public_key(path)
    return check_signature(content[64:], content[:64], _KEY.public_key())


def _signatures() -> list[bytes]:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    message = b'{"a": 1}'
    key = _KEY.public_key().public_bytes(encoding, form)
    return [_KEY.sign(signed_message(message)) + message, key]


# --- JSON files of commands


def _instance(content: bytes) -> Instance:
    with _file(content) as path:
        return read_instance(path)


def _read_json(content: bytes) -> object:
    """Read a schedule where the bytes say so, else a cost file or a plain graph."""
    return Schedule.from_json(content) if b'"stages"' in content else _instance(content)


def _json_files() -> list[bytes]:
    stages = (Stage((("a",), ("b",)), 0), Stage((("c",),), 1))
    schedule = Schedule("hand", (DeviceSchedule("cpu@0", stages),))
    times = [("a", 2.0), ("b", 0.5), ("c", 1.0)]
    graph = {
        "operators": [{"name": name, "latency_ms": ms, "utilization": 0.5} for name, ms in times],
        "edges": [{"src": "a", "dst": dst, "transfer_ms": 0.1} for dst in "bc"],
        "num_devices": 2,
    }
    plain = json.dumps(graph).encode()
    costs = _instance(plain).to_json().encode()
    return [schedule.to_json().encode(), plain, costs, gzip.compress(plain, mtime=0)]


# --- Models


def _relay_texts() -> list[bytes]:
    paths = sorted((_RELAY / "operators").glob("*.relay"))
    return [path.read_bytes() for path in [*paths, _RELAY / "models" / "mlp.relay"]]


def _read_relay(content: bytes) -> object:
    with memory_limit(taken_memory() + _MEMORY):
        return from_relay(content.decode("utf-8", errors="replace"))


def _read_relay_json(content: bytes) -> object:
    with memory_limit(taken_memory() + _MEMORY):
        return from_relay_json(content.decode("utf-8", errors="replace"))


def _read_params(content: bytes) -> object:
    with _file(content) as path:
        return load_params(path)


def _params() -> list[bytes]:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "é": np.array(2, np.int64)}
    plain, compressed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **arrays)
    np.savez_compressed(compressed, **arrays)
    tensors = {name: tvm.runtime.tensor(array) for name, array in arrays.items()}
    of_tvm = bytes(tvm.runtime.save_param_dict(tensors))
    return [plain.getvalue(), compressed.getvalue(), of_tvm, safetensors.numpy.save(arrays)]


_ROWS = (
    TensorSpec("x", "x", (2, 3), "float32"),
    TensorSpec("n", "n", (2,), "int64"),
)


def _read_rows(content: bytes) -> object:
    """Plan a job over a file of rows, and read those of its first parts."""
    suffixes = {b"PK": ".npz", b"PA": ".parquet"}
    with TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder, "rows").with_suffix(suffixes.get(content[:2], ".npy"))
        path.write_bytes(content)
        specs = _ROWS[:1] if path.suffix == ".npy" else _ROWS
        job = MapJob.plan("", path, specs, RowsOfRun(1, 2), part_rows=2)
        return [read_rows(path, specs, part.start, part.stop) for part in job.parts[:3]]


def _files_of_rows() -> list[bytes]:
    arrays = {"x": np.arange(15, dtype=np.float32).reshape(5, 3), "n": np.arange(5)}
    plain, whole, compressed, parquet = (io.BytesIO() for _ in range(4))
    np.save(plain, arrays["x"])
    np.savez(whole, **arrays)
    np.savez_compressed(compressed, **arrays)
    files = [plain, whole, compressed]
    if find_spec("pyarrow"):
        write_parquet(parquet, arrays)
        files.append(parquet)
    return [file.getvalue() for file in files]


def _read_onnx(content: bytes) -> object:
    with memory_limit(taken_memory() + _MEMORY), _file(content) as path:
        return load_onnx(path)


def _networks() -> list[bytes]:
    """Return a network of common operators, one with a loop, and one with a function."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6, 6])
    weights = {"w": np.ones((4, 2, 3, 3), np.float32), "shape": np.array([1, -1]), "n": np.array(3)}
    common = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("Concat", ["p", "p"], ["k"], axis=1),
        helper.make_node("Reshape", ["k", "shape"], ["f"]),
        helper.make_node("Softmax", ["f"], ["y"], axis=-1),
    ]
    scalar = [helper.make_tensor_value_info(*v, []) for v in (("i", 7), ("go", 9), ("went", 9))]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "vu"]
    steps = [helper.make_node("Identity", ["go"], ["went"]), helper.make_node("Exp", ["v"], ["u"])]
    body = helper.make_graph(steps, "body", [*scalar[:2], value[0]], [scalar[2], value[1]])
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    own = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Abs", "a", "b")], imports
    )
    call = helper.make_node("F", ["x"], ["y"], domain="own")
    models = []
    for nodes in (common, [loop], [call]):
        constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
        graph = helper.make_graph(nodes, "g", [x], [onnx.ValueInfoProto(name="y")], constants)
        model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=[own])
        models.append(model.SerializeToString())
    return models


TARGETS = {
    "archive": Target(_open, lambda: [_archive(), _several()]),
    "manifest": Target(
        _read_manifest,
        lambda: [_entries(archive)[MANIFEST] for archive in (_archive, _several)],
        _edit_or_damage,
    ),
    "shape": _entry_target("manifest1.json", _edit_or_damage),
    "weights": _entry_target(PARAMS),
    "sources": _entry_target(SOURCES),
    "signature": Target(_read_signature, _signatures),
    "json": Target(_read_json, _json_files, _edit_or_damage),
    "relay": Target(_read_relay, _relay_texts),
    "relay_json": Target(
        _read_relay_json, lambda: [(_RELAY / "models" / "mlp.json").read_bytes()], _edit_or_damage
    ),
    "params": Target(_read_params, _params),
    "rows": Target(_read_rows, _files_of_rows),
    "onnx": Target(_read_onnx, _networks),
}
"""Every target by the name that `scripts/fuzz.py` takes."""
