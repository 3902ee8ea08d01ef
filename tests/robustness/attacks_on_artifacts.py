"""Attacks on artifacts: damaged bytes; manifests, weights and signed files that were edited."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import onnx
from archives import archive_of, entries_of, with_entry
from attack_runner import Attack, Attempt, ForeignBytesError
from index_cases import Array
from mutations import damage, edit_json
from onnx import TensorProto, helper, numpy_helper
from onnx_models import make_model, node, noise

import hios_tvm
from hios_tvm.artifact.combine import combine
from hios_tvm.artifact.sign import public_key_path, sign_artifact, write_new_key
from hios_tvm.artifact.write import Build, write
from hios_tvm.errors import InputError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime.artifact_format import PARAMS, SOURCES
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.runtime.memory import aligned_empty
from hios_tvm.schema.device_names import cpu_device_name
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import Batch
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

_POISONS = (0x5A, 0xA5)
_MOST_BYTES = 1 << 26


def attack_network() -> onnx.ModelProto:
    """Return a network with branches, weights, and an index that has to be checked."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("Softmax", "a", "b", axis=-1),
        node("Gather", "a i", "c", axis=0),
        node("MatMul", "c v", "d"),
        node("ReduceSum", "b", "e", keepdims=0),
        node("Mul", "d e", "y"),
    ]
    weights = {"w": noise(8, 8), "v": noise(8, 5, seed=1)}
    model = make_model(nodes, {"x": (6, 8)}, ["y"], weights)
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [3]))
    return model


def artifact_network() -> onnx.ModelProto:
    """Return that network with a convolution whose weights are prepared when it is loaded."""
    model = attack_network()
    model.graph.node.extend(
        [
            node("Reshape", "x shape", "f"),
            node("Tile", "f repeats", "g"),
            node("Conv", "g k", "z", pads=[1, 1, 1, 1]),
        ]
    )
    weights = {"shape": np.array([1, 1, 6, 8]), "repeats": np.array([1, 64, 3, 2])}
    for name, array in (weights | {"k": noise(64, 64, 3, 3)}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return model


def batch_network(rows: int) -> onnx.ModelProto:
    """Return a network whose rows are computed apart; a weight is prepared, an index checked."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("Gather", "table i", "b", axis=0),
        node("Add", "a b", "y"),
        node("Reshape", "x shape", "f"),
        node("Tile", "f repeats", "g"),
        node("Conv", "g k", "z", pads=[1, 1, 1, 1]),
    ]
    weights = {"w": noise(8, 5), "table": noise(7, 5, seed=1), "k": noise(64, 64, 3, 3)}
    weights |= {"shape": np.array([rows, 1, 2, 4]), "repeats": np.array([1, 64, 9, 4])}
    model = make_model(nodes, {"x": (rows, 8)}, ["y", "z"], weights)
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [rows]))
    return model


def write_artifact(path: Path) -> None:
    """Compile a network for two cores, alone and together, whose operators take turns."""
    write(_build(artifact_network()), path)


def write_several(path: Path) -> None:
    """Compile programs for batches of one and of three rows."""
    batch = Batch({"x": 0, "i": 0}, {"y": 0, "z": 0}, 1, 3)
    write(combine([_build(batch_network(rows)) for rows in (3, 1)], batch), path)


def _build(model: onnx.ModelProto) -> Build:
    network = hios_tvm.lower_network(from_onnx(model), "host")
    cores = sorted(allowed_cores())[:2]
    devices = list(dict.fromkeys([*(cpu_device_name([c]) for c in cores), cpu_device_name(cores)]))
    names = [operator.name for operator in network.graph.operators]
    stages = {
        device: tuple(
            Stage(((name,),), position)
            for position, name in enumerate(names)
            if position % len(devices) == number
        )
        for number, device in enumerate(devices)
    }
    parts = tuple(DeviceSchedule(device, own) for device, own in stages.items())
    return hios_tvm.build(network, Schedule("taking-turns", parts))


def _both(folder: Path) -> list[bytes]:
    """Return artifacts of one shape and of several."""
    path = folder / "whole.hios"
    found = []
    for make in (write_artifact, write_several):
        make(path)
        found.append(path.read_bytes())
    return found


def _inputs(session: hios_tvm.Session) -> list[dict[str, Array]]:
    """Return inputs of each shape of an artifact, perhaps an edited one, then of fewer rows."""
    manifests = [shape.manifest for shape in session._shapes]
    tensors = [spec for each in manifests for spec in (*each.inputs, *each.outputs)]
    if sum(spec.nbytes for spec in tensors) > _MOST_BYTES:
        raise InputError("the artifact's inputs and outputs are too large for this attack")
    shapes = [each.shape for each in manifests]
    batch = session.batch
    if batch is not None:
        fewer = {name: list(shape) for name, shape in shapes[0].items()}
        for name, axis in batch.inputs.items():
            fewer[name][axis] -= 1
        shapes.append({name: tuple(shape) for name, shape in fewer.items()})
    return [
        {
            spec.name: (np.arange(math.prod(shape[spec.name])) % 3)
            .astype(numpy_dtype(spec.dtype))
            .reshape(shape[spec.name])
            for spec in session.inputs
        }
        for shape in shapes
    ]


def _run(path: Path) -> list[bytes]:
    """Run all shapes twice, in memory with other bytes: equal outputs hold none of those."""
    found: list[list[bytes]] = []
    with hios_tvm.load(path) as session:
        requests = _inputs(session)
        for poison in _POISONS:
            found.append([])
            for inputs in requests:
                outputs = _run_in(poison, session, inputs)
                found[-1].extend(array.tobytes() for array in outputs.values())
    if found[0] != found[1]:
        raise ForeignBytesError("outputs depend on bytes that nobody wrote")
    return found[0]


def _run_in(poison: int, session: hios_tvm.Session, inputs: dict[str, Array]) -> dict[str, Array]:
    """Run inputs where all memory, but for outputs of fewer rows, has been filled with a byte."""
    for shape in session._shapes:
        for arena in shape.loaded.request.arenas.values():
            arena.bytes[:] = poison
    manifest = session.manifest_of(inputs)
    if {name: array.shape for name, array in inputs.items()} != manifest.shape:
        return session.run(inputs)
    out = {spec.name: aligned_empty(spec.shape, spec.dtype) for spec in manifest.outputs}
    for array in out.values():
        array.reshape(-1).view(np.uint8).fill(poison)
    return session.run(inputs, out=out)


def _damaged(folder: Path) -> Attempt:
    path = folder / "model.hios"
    pairs = []
    for whole in _both(folder):
        path.write_bytes(whole)
        pairs.append((whole, _run(path)))

    def attempt(rng: random.Random) -> None:
        whole, expected = rng.choice(pairs)
        path.write_bytes(damage(whole, rng))
        if _run(path) != expected:
            raise ForeignBytesError("a damaged artifact gives other outputs")

    return attempt


def _edited_manifest(folder: Path) -> Attempt:
    path = folder / "model.hios"
    artifacts = [entries_of(whole) for whole in _both(folder)]

    def attempt(rng: random.Random) -> None:
        entries = rng.choice(artifacts)
        name = rng.choice([name for name in entries if name.endswith(".json")])
        edited = edit_json(entries[name], rng)
        path.write_bytes(archive_of(with_entry(entries, name, edited)))
        _run(path)

    return attempt


def _edited_weights(folder: Path) -> Attempt:
    path = folder / "model.hios"
    artifacts = [entries_of(whole) for whole in _both(folder)]

    def attempt(rng: random.Random) -> None:
        entries, name = rng.choice(artifacts), rng.choice([PARAMS, SOURCES])
        path.write_bytes(archive_of(with_entry(entries, name, damage(entries[name], rng))))
        _run(path)

    return attempt


def _signed(folder: Path) -> Attempt:
    path, signed, key = folder / "model.hios", folder / "signed.hios", folder / "build.pem"
    write_new_key(key)
    artifacts = []
    for unsigned in _both(folder):
        path.write_bytes(unsigned)
        sign_artifact(path, key, signed)
        artifacts.append(signed.read_bytes())

    def attempt(rng: random.Random) -> None:
        whole = rng.choice(artifacts)
        entries = entries_of(whole)
        if rng.randrange(2):
            content = damage(whole, rng)
        else:
            name = rng.choice(sorted(entries))
            content = archive_of({**entries, name: damage(entries[name], rng)})
        path.write_bytes(content)
        hios_tvm.load(path, verify_key=public_key_path(key)).close()
        if content != whole:
            raise ForeignBytesError("an artifact that the key's owner did not sign was loaded")

    return attempt


ATTACKS = (
    Attack("artifact: damaged bytes", _damaged, 2000),
    Attack("artifact: edited manifest", _edited_manifest, 2000),
    Attack("artifact: edited weights", _edited_weights, 500),
    Attack("artifact: edited after it was signed", _signed, 1000),
)
