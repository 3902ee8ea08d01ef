"""Attacks on artifacts: damaged bytes; manifests, weights and signed files that were edited."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from archives import archive_of, entries_of
from attack_runner import Attack, Attempt, ForeignBytesError
from index_cases import Array
from mutations import damage, edit_json
from onnx import TensorProto, helper, numpy_helper
from onnx_models import make_model, node, noise

import hios_tvm
from hios_tvm.artifact.sign import public_key_path, sign_artifact, write_new_key
from hios_tvm.artifact.write import write
from hios_tvm.errors import InputError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime.artifact_format import MANIFEST, PARAMS, SOURCES
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.runtime.memory import aligned_empty
from hios_tvm.schema.device_names import cpu_device_name
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import Manifest
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


def write_artifact(path: Path) -> None:
    """Compile the network for two cores, alone and together, whose operators take turns."""
    network = hios_tvm.lower_network(from_onnx(artifact_network()), "host")
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
    write(hios_tvm.build(network, Schedule("taking-turns", parts)), path)


def _inputs(session: hios_tvm.Session) -> dict[str, Array]:
    """Return inputs of the names and shapes that the artifact has, perhaps an edited one."""
    if sum(spec.nbytes for spec in (*session.inputs, *session.outputs)) > _MOST_BYTES:
        raise InputError("the artifact's inputs and outputs are too large for this attack")
    return {
        spec.name: (np.arange(math.prod(spec.shape)) % 3)
        .astype(numpy_dtype(spec.dtype))
        .reshape(spec.shape)
        for spec in session.inputs
    }


def _run(path: Path) -> dict[str, bytes]:
    """Run an artifact twice, in memory with other bytes: equal outputs hold none of those."""
    found: list[dict[str, bytes]] = []
    with hios_tvm.load(path) as session:
        inputs = _inputs(session)
        for poison in _POISONS:
            for arena in session._shapes[0].loaded.request.arenas.values():
                arena.bytes[:] = poison
            out = {spec.name: aligned_empty(spec.shape, spec.dtype) for spec in session.outputs}
            for array in out.values():
                array.reshape(-1).view(np.uint8).fill(poison)
            outputs = session.run(inputs, out=out)
            found.append({name: array.tobytes() for name, array in outputs.items()})
    if found[0] != found[1]:
        raise ForeignBytesError("outputs depend on bytes that nobody wrote")
    return found[0]


def _damaged(folder: Path) -> Attempt:
    path = folder / "model.hios"
    write_artifact(path)
    whole, expected = path.read_bytes(), _run(path)

    def attempt(rng: random.Random) -> None:
        damaged = damage(whole, rng)
        path.write_bytes(damaged)
        if _run(path) != expected:
            raise ForeignBytesError("a damaged artifact gives other outputs")

    return attempt


def _edited_manifest(folder: Path) -> Attempt:
    path = folder / "model.hios"
    write_artifact(path)
    entries = entries_of(path)

    def attempt(rng: random.Random) -> None:
        edited = edit_json(entries[MANIFEST], rng)
        path.write_bytes(archive_of({**entries, MANIFEST: edited}))
        _run(path)

    return attempt


def _edited_weights(folder: Path) -> Attempt:
    path = folder / "model.hios"
    write_artifact(path)
    entries = entries_of(path)
    manifest = Manifest.from_json(entries[MANIFEST])

    def attempt(rng: random.Random) -> None:
        name = rng.choice([PARAMS, SOURCES])
        weights = damage(entries[name], rng)
        digest = hashlib.sha256(weights).hexdigest()
        text = replace(manifest, entries={**manifest.entries, name: digest}).to_json()
        path.write_bytes(archive_of({**entries, MANIFEST: text, name: weights}))
        _run(path)

    return attempt


def _signed(folder: Path) -> Attempt:
    path, signed, key = folder / "model.hios", folder / "signed.hios", folder / "build.pem"
    write_artifact(path)
    write_new_key(key)
    sign_artifact(path, key, signed)
    whole, entries = signed.read_bytes(), entries_of(signed)

    def attempt(rng: random.Random) -> None:
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
