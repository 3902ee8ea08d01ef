"""Fixtures: the hand-made artifact, one whose kernels misbehave, and devices to run them on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi.libinfo
from hand_made import LENGTH, TARGET, HandMade, elementwise, make_buffer, make_manifest

from hios_tvm import runtime
from hios_tvm.artifact.buffer_plan import plan_buffers
from hios_tvm.artifact.write import pack, write
from hios_tvm.backends.cpu.library import build_library, link_library
from hios_tvm.schema.manifest import TensorSpec
from hios_tvm.schema.program import Call, Copy, Program, Signal, Wait

collect_ignore = ["conftest.py"]  # not a module with doctests: its name is not unique


@pytest.fixture(scope="session")
def library() -> bytes:
    operations = {"add": lambda a, b: a + b, "mul": lambda a, b: a * b}
    kernels = {name: elementwise(name, operation) for name, operation in operations.items()}
    return build_library(tvm.IRModule(kernels), TARGET)


@pytest.fixture(scope="session")
def two_devices() -> tuple[str, str]:
    """Two cores that this process may use, or one of them twice."""
    cores = sorted(os.sched_getaffinity(0))
    return f"cpu@{cores[0]}", f"cpu@{cores[-1]}"


@pytest.fixture
def hand_made(tmp_path: Path, library: bytes, two_devices: tuple[str, str]) -> HandMade:
    weight = np.random.default_rng(0).standard_normal(LENGTH).astype(np.float32)
    path = tmp_path / "hand-made.hios"
    write(pack(make_manifest(), {"cpu@0": library, "cpu@1": library}, {"w": weight}), path)
    return HandMade(path, weight, two_devices, library)


@pytest.fixture
def session(hand_made: HandMade) -> Iterator[runtime.Session]:
    with hand_made.load() as session:
        yield session


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(LENGTH).astype(np.float32)


@pytest.fixture(scope="session")
def faulty_library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The kernels of faults.cc."""
    result = tmp_path_factory.mktemp("faults") / "faults.o"
    source = Path(__file__).with_name("faults.cc")
    include = tvm_ffi.libinfo.find_include_path()
    flags = ["-std=c++17", "-O1", "-fPIC", f"-I{include}"]
    subprocess.run(["g++", *flags, "-c", source, "-o", result], check=True)
    return link_library([result.read_bytes()], TARGET)


@pytest.fixture
def faulty(tmp_path: Path, faulty_library: bytes, two_devices: tuple[str, str]) -> Path:
    """An artifact of a kernel that sleeps, then, on another device, one that may raise.

    ``x -> sleep -> s``, copied to the other device, ``-> check -> y``.
    """
    buffers = [
        make_buffer("x", None, "input"),
        make_buffer("s", "cpu@0", "arena"),
        make_buffer("s2", "cpu@1", "arena"),
        make_buffer("y", None, "output"),
    ]
    programs = (
        Program("cpu@0", 0, (Call("sleep1", "sleep", ("x", "s")), Signal(0))),
        Program("cpu@1", 0, (Wait(0), Copy("s", "s2"), Call("check1", "check", ("s2", "y")))),
    )
    plan = plan_buffers(programs, buffers)
    base = make_manifest()
    spec = {b.name: TensorSpec(b.name, b.name, b.shape, b.dtype) for b in buffers}
    devices = tuple(replace(d, arena_bytes=plan.arena_bytes[d.name]) for d in base.devices)
    manifest = replace(
        base,
        inputs=(spec["x"],),
        outputs=(spec["y"],),
        devices=devices,
        programs=programs,
        buffers=plan.buffers,
    )
    path = tmp_path / "faulty.hios"
    write(pack(manifest, dict.fromkeys(("cpu@0", "cpu@1"), faulty_library), {}), path)
    return path
