"""Artifacts for GPUs are checked by the same verifier as those for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_driver import FakeDriver
from gpu_network import MODEL
from test_gpu_execution import PARTS, compiled, random_schedule

from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.errors import ArtifactError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime.check_manifest import check_manifest
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.schema.launches import Launch
from hios_tvm.schema.manifest import Buffer, DeviceSpec, Manifest
from hios_tvm.schema.program import Call, Copy

Shapes = dict[str, tuple[tuple[int, ...], str]]
DEVICES = ("cuda:0", "cpu@0")


@pytest.fixture
def artifact(start: Callable[..., FakeDriver], tmp_path: Path) -> tuple[Manifest, Shapes]:
    start()
    path = tmp_path / "model.hios"
    schedule = random_schedule(DEVICES, seed=2)
    options = CompileOptions(devices=DEVICES, target="sm_80", schedule=schedule)
    compile_model(from_onnx(MODEL), path, options)
    opened = open_artifact(path)
    assert opened.weights is not None
    tensors = opened.weights.tensors
    return opened.manifest, {name: (t.shape, t.dtype) for name, t in tensors.items()}


def with_launch(manifest: Manifest, **changes: object) -> Manifest:
    name, kernel = next(iter(manifest.gpu_kernels.items()))
    launch: Launch = replace(kernel.launches[0], **changes)
    changed = replace(kernel, launches=(launch, *kernel.launches[1:]))
    return replace(manifest, gpu_kernels={**manifest.gpu_kernels, name: changed})


def with_device(manifest: Manifest, index: int, **changes: object) -> Manifest:
    devices: list[DeviceSpec] = list(manifest.devices)
    devices[index] = replace(devices[index], **changes)
    return replace(manifest, devices=tuple(devices))


def with_buffers(manifest: Manifest, change: Callable[[Buffer], Buffer]) -> Manifest:
    return replace(manifest, buffers=tuple(map(change, manifest.buffers)))


def copy_on_cpu(manifest: Manifest) -> Manifest:
    """Let the CPU make a copy that a GPU makes."""
    programs = list(manifest.programs)
    cpu = next(i for i, program in enumerate(programs) if program.device == "cpu@0")
    copy = next(
        step
        for program in programs
        for step in program.instructions
        if isinstance(step, Copy) and manifest.buffer[step.src].device == "cuda:0"
    )
    steps = (copy, *programs[cpu].instructions)
    programs[cpu] = replace(programs[cpu], instructions=steps)
    return replace(manifest, programs=tuple(programs))


def call_on_host_memory(manifest: Manifest) -> Manifest:
    """Let a GPU's kernel read a weight where only CPUs can."""
    programs = []
    for program in manifest.programs:
        steps = tuple(
            replace(step, args=tuple(arg.removesuffix("@cuda:0") for arg in step.args))
            if isinstance(step, Call) and program.device == "cuda:0"
            else step
            for step in program.instructions
        )
        programs.append(replace(program, instructions=steps))
    host = [
        replace(buffer, name=buffer.weight, device=None)
        for buffer in manifest.buffers
        if buffer.space == "param" and buffer.device is not None
    ]
    known = manifest.buffer
    added = tuple(buffer for buffer in host if buffer.name not in known)
    return replace(manifest, programs=tuple(programs), buffers=(*manifest.buffers, *added))


DEFECTS: dict[str, tuple[Callable[[Manifest], Manifest], str]] = {
    "threads": (lambda m: with_launch(m, block=(1024, 2, 1)), "no GPU runs"),
    "no block": (lambda m: with_launch(m, grid=(0, 1, 1)), "no GPU runs"),
    "grid": (lambda m: with_launch(m, grid=(1, 65536, 1)), "no GPU runs"),
    "dimensions": (lambda m: with_launch(m, grid=(1, 1)), "no GPU runs"),
    "shared memory": (lambda m: with_launch(m, shared_bytes=1 << 20), "no GPU runs"),
    "argument": (lambda m: with_launch(m, args=(99,)), "argument that it is not given"),
    "no kernel": (lambda m: replace(m, gpu_kernels={}), "calls the unknown"),
    "kind": (lambda m: with_device(m, 0, kind="cpu"), "has the kind 'cpu'"),
    "no code": (lambda m: with_device(m, 0, device_code=None), "work but no library"),
    "code of a CPU": (lambda m: with_device(m, 1, device_code="x"), "has code for a GPU"),
    "name": (lambda m: with_device(m, 0, name="cuda:x"), "is no GPU"),
    "copy": (copy_on_cpu, "of another device"),
    "host memory": (call_on_host_memory, "of another device"),
    "weight": (
        lambda m: with_buffers(m, lambda b: replace(b, shape=(1, *b.shape)) if b.device else b),
        "shape",
    ),
    "size": (
        lambda m: replace(
            m,
            gpu_kernels={
                name: replace(kernel, nbytes=tuple(n + 4 for n in kernel.nbytes))
                for name, kernel in m.gpu_kernels.items()
            },
        ),
        "arguments of other sizes",
    ),
}


def test_the_artifact_is_right(artifact: tuple[Manifest, Shapes]) -> None:
    manifest, weights = artifact
    check_manifest(manifest, weights)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_another_gpu_does_not_share_memory(
    start: Callable[..., FakeDriver], tmp_path: Path
) -> None:
    """Parts of one GPU read each other's buffers; what is said to be another one does not."""
    start()
    opened = open_artifact(compiled(tmp_path, PARTS, seed=1))
    assert opened.weights is not None
    weights = {name: (t.shape, t.dtype) for name, t in opened.weights.tensors.items()}
    check_manifest(opened.manifest, weights)
    text = opened.manifest.to_json().replace(b'"cuda:0.1/2"', b'"cuda:1.1/2"')
    with pytest.raises(ArtifactError, match=r"of 'cuda:1\.1/2' uses buffer .* of another device"):
        check_manifest(Manifest.from_json(text), weights)


def test_each_rule_has_its_message(artifact: tuple[Manifest, Shapes]) -> None:
    manifest, weights = artifact
    for name, (change, message) in DEFECTS.items():
        with pytest.raises(ArtifactError, match=message):
            check_manifest(change(manifest), weights)
            pytest.fail(name)
