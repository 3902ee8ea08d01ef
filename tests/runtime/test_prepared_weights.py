"""Weights that kernels compute when an artifact is loaded."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from archives import entries_of
from hand_made import LENGTH, TARGET, HandMade, elementwise, make_manifest
from lowered_models import model_of, random, run_onnx_runtime
from onnx import helper
from test_read_artifact import with_manifest
from tvm import te

import hios_tvm
from hios_tvm import runtime
from hios_tvm.artifact.combine import combine
from hios_tvm.artifact.write import pack, write
from hios_tvm.backends.cpu.library import build_library
from hios_tvm.errors import ArtifactError, MemoryLimitError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.measuring import compare
from hios_tvm.passes.cpu_rules import winograd_shape
from hios_tvm.runtime.artifact_format import MANIFEST, PARAMS, SOURCES
from hios_tvm.runtime.devices.cpu import prepare_weights
from hios_tvm.runtime.memory_limit import memory_limit, taken_memory
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.runtime.weights import known_weights
from hios_tvm.schema.manifest import Manifest, PreparedWeight
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

SOURCE = np.random.default_rng(0).standard_normal(LENGTH).astype(np.float32)


def twice() -> tvm.tirx.PrimFunc:
    a = te.placeholder((LENGTH,), "float32", name="a")
    b = te.compute((LENGTH,), lambda i: a[i] * 2.0, name="b")
    return te.create_prim_func([a, b]).with_attr("global_symbol", "twice")


@pytest.fixture(scope="module")
def preparing_library() -> bytes:
    operations = {"add": lambda a, b: a + b, "mul": lambda a, b: a * b}
    kernels = {name: elementwise(name, operation) for name, operation in operations.items()}
    return build_library(tvm.IRModule({**kernels, "twice": twice()}), TARGET)


@pytest.fixture
def prepared(tmp_path: Path, preparing_library: bytes, two_devices: tuple[str, str]) -> HandMade:
    """The hand-made artifact whose weight is twice what the file holds."""
    path = tmp_path / "prepared.hios"
    manifest = replace(make_manifest(), prepared=(PreparedWeight("w", "twice", "s"),))
    libraries = dict.fromkeys(("cpu@0", "cpu@1"), preparing_library)
    write(pack(manifest, libraries, {}, sources={"s": SOURCE}), path)
    return HandMade(path, 2 * SOURCE, two_devices, preparing_library)


def test_a_weight_is_computed_from_what_the_file_holds(prepared: HandMade, x: np.ndarray) -> None:
    assert entries_of(prepared.path).keys() == {MANIFEST, "kernels0.so", SOURCES}
    with prepared.load() as session:
        outputs = session.run({"the input": x})
        for name, expected in prepared.expected(x).items():
            np.testing.assert_array_equal(outputs[name], expected)


def test_sessions_share_what_was_computed_and_keep_no_sources(prepared: HandMade) -> None:
    digest = read_manifest(prepared.path).entries[SOURCES]
    with prepared.load() as first, prepared.load() as second:
        assert first._shapes[0].loaded.prepared is second._shapes[0].loaded.prepared is not None
        gc.collect()
        assert known_weights(digest) is None


def test_memory_is_compared_before_it_is_taken(
    prepared: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hios_tvm.runtime.memory_limit._SMALL", 0)
    artifact = runtime.read_artifact.open_artifact(prepared.path)
    with memory_limit(taken_memory() // 2), pytest.raises(MemoryLimitError):
        runtime.Session(artifact, devices=prepared.devices)


def test_no_memory_while_weights_are_prepared_is_one_error(
    prepared: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception holds an array of the memory, which cannot be closed then."""

    def no_memory(array: np.ndarray) -> int:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(prepare_weights, "address_of", no_memory)
        with pytest.raises(MemoryLimitError, match="too little memory to load"):
            prepared.load()
    prepared.load().close()


def test_one_of_several_shapes_may_prepare_weights(
    tmp_path: Path, preparing_library: bytes, two_devices: tuple[str, str]
) -> None:
    path = tmp_path / "several.hios"
    libraries = dict.fromkeys(("cpu@0", "cpu@1"), preparing_library)
    preparing = replace(make_manifest(), prepared=(PreparedWeight("w", "twice", "s"),))
    half = LENGTH // 2
    builds = [
        pack(preparing, libraries, {}, sources={"s": SOURCE}),
        pack(make_manifest(length=half), libraries, {"w": SOURCE[:half]}),
    ]
    write(combine(builds, None), path)
    with runtime.load(path, devices=two_devices) as session:
        assert len(session.shapes) == 2
        outputs = session.run(np.zeros(LENGTH, np.float32))
        np.testing.assert_array_equal(outputs["z"], 2 * SOURCE)


def change_prepared(**fields: object) -> Callable[[Manifest], Manifest]:
    return lambda m: replace(m, prepared=(replace(m.prepared[0], **fields),))


def of_shape(*shape: int) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        buffers = (replace(b, shape=shape) if b.name == "w" else b for b in manifest.buffers)
        return replace(manifest, buffers=tuple(buffers))

    return change


def returned(manifest: Manifest) -> Manifest:
    again = replace(manifest.outputs[-1], buffer="w")
    return replace(manifest, outputs=(*manifest.outputs[:-1], again))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: replace(m, prepared=()), "'w' is no weight of that shape"),
        (lambda m: replace(m, prepared=2 * m.prepared), "'w' is named 2 times"),
        (change_prepared(source="t"), "'w' has no source 't'"),
        (change_prepared(name="v"), "'v' has no buffer"),
        (change_prepared(name="a"), "'a' has no buffer"),
        (change_prepared(kernel="thrice"), "no kernel called 'thrice'"),
        (change_prepared(kernel="add"), "cannot be prepared: .*'w'.*3 arguments"),
        (of_shape(LENGTH + 1), "cannot be prepared: .*'w'.*shape"),
        (of_shape(2**40), "GiB of memory"),
        (returned, "'w' is an output"),
    ],
)
def test_manifests_that_prepare_wrongly_are_refused(
    prepared: HandMade, change: Callable[[Manifest], Manifest], message: str
) -> None:
    path = with_manifest(prepared.path, change)
    with pytest.raises((ArtifactError, MemoryLimitError), match=message):
        runtime.load(path, devices=prepared.devices)


def test_artifacts_hold_3x3_weights_as_the_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_devices: tuple[str, str]
) -> None:
    """Convolutions on two devices, one of which fills no block of channels."""
    monkeypatch.setattr(winograd_shape, "_LEAST_GAIN", np.inf)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "u"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["y"]),
    ]
    shapes = {"w": (32, 16, 3, 3), "u": (32, 32, 3, 3), "v": (5, 32, 3, 3)}
    weights = {name: random(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    data = random(1, 16, 9, 9, seed=9)
    model = model_of(nodes, {"x": data.shape}, weights)
    network = hios_tvm.lower_network(from_onnx(model), "host")
    names = [operator.name for operator in network.graph.operators]
    devices = dict.fromkeys(two_devices)
    stages = {
        device: tuple(Stage(((name,),), i) for i, name in enumerate(names) if i % len(devices) == n)
        for n, device in enumerate(devices)
    }
    schedule = Schedule("in-turn", tuple(DeviceSchedule(d, own) for d, own in stages.items()))
    path = tmp_path / "m.hios"
    manifest = write(hios_tvm.build(network, schedule), path)
    assert len(manifest.prepared) == 3
    entries = entries_of(path)
    stored = len(entries[SOURCES]) + len(entries.get(PARAMS, b""))
    assert stored < 1.1 * sum(weight.nbytes for weight in weights.values())
    with runtime.load(path) as session:
        (result,) = session.run(data).values()
    (expected,) = run_onnx_runtime(model, {"x": data})
    np.testing.assert_allclose(result, expected, atol=2e-5 * np.abs(expected).max())

    onnx.save(model, tmp_path / "m.onnx")
    subject = compare.Subject(tmp_path / "m.onnx", path, {"x": data}, {}, None, None)
    _, run_once = compare.RIVALS["same-kernels"](subject)
    np.testing.assert_array_equal(run_once()["y"], result)
