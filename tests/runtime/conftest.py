r"""A hand-made artifact for two devices: small, but with everything that a program can hold.

cpu@0      cpu@1        a = x + w    w is a weight
  a          b          b = x * x
  | \      / |          y = a * b
  |   \  /   |          z = b + a
  |   /  \   |
  y          z
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi.libinfo
from tvm import te

from hios_tvm import runtime
from hios_tvm.artifact import write_artifact
from hios_tvm.buffer_plan import plan_buffers
from hios_tvm.library import build_library, link_library
from hios_tvm.runtime.instructions import Call, Copy, Program, Signal, Wait
from hios_tvm.runtime.manifest import Buffer, DeviceSpec, Manifest, TensorSpec

LENGTH = 1000
TARGET = tvm.target.Target("llvm")

PROGRAMS = (
    Program(
        "cpu@0",
        0,
        (
            Call("add1", "add", ("x", "w", "a")),
            Signal(0),
            Wait(1),
            Copy("b", "b@cpu@0"),
            Call("mul2", "mul", ("a", "b@cpu@0", "y")),
        ),
    ),
    Program(
        "cpu@1",
        0,
        (
            Call("mul1", "mul", ("x", "x", "b")),
            Signal(1),
            Wait(0),
            Copy("a", "a@cpu@1"),
            Call("add2", "add", ("b", "a@cpu@1", "z")),
        ),
    ),
)


def _buffer(name: str, device: str | None, space: Any) -> Buffer:
    return Buffer(name, device, space, (LENGTH,), "float32")


BUFFERS = (
    _buffer("x", None, "input"),
    _buffer("w", None, "param"),
    _buffer("a", "cpu@0", "arena"),
    _buffer("b@cpu@0", "cpu@0", "arena"),
    _buffer("b", "cpu@1", "arena"),
    _buffer("a@cpu@1", "cpu@1", "arena"),
    _buffer("y", None, "output"),
    _buffer("z", None, "output"),
)


def make_manifest(programs: tuple[Program, ...] = PROGRAMS) -> Manifest:
    """Return the manifest of the network above, its buffers planned."""
    plan = plan_buffers(programs, BUFFERS)
    spec = {b.name: TensorSpec(b.name, b.name, b.shape, b.dtype) for b in BUFFERS}
    return Manifest(
        tvm_version=tvm.__version__,
        model="hand-made",
        inputs=(replace(spec["x"], name="the input"),),
        outputs=(spec["y"], spec["z"], replace(spec["x"], name="x again")),
        devices=tuple(
            DeviceSpec(name, "cpu", None, str(TARGET), (), plan.arena_bytes[name])
            for name in ("cpu@0", "cpu@1")
        ),
        programs=programs,
        buffers=plan.buffers,
        compile_info={"command": "hios-tvm compile hand-made.onnx"},
    )


def elementwise(name: str, operation: Any, length: int = LENGTH) -> tvm.tirx.PrimFunc:
    """Return a kernel of two inputs and one output."""
    a, b = (te.placeholder((length,), "float32", name=n) for n in "ab")
    c = te.compute((length,), lambda i: operation(a[i], b[i]), name="c")
    return te.create_prim_func([a, b, c]).with_attr("global_symbol", name)


@dataclass(frozen=True)
class HandMade:
    """An artifact on disk, its weights, and two devices of this machine to run it on."""

    path: Path
    weight: np.ndarray
    devices: tuple[str, str]
    library: bytes

    def load(self, **options: Any) -> runtime.Session:
        return runtime.load(self.path, devices=self.devices, **options)

    def expected(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """What NumPy computes, bit for bit."""
        a, b = x + self.weight, x * x
        return {"y": a * b, "z": b + a, "x again": x}


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
    write_artifact(path, make_manifest(), {"cpu@0": library, "cpu@1": library}, {"w": weight})
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
    names = ("x", "s", "s2", "y")
    spaces = (("input", None), ("arena", "cpu@0"), ("arena", "cpu@1"), ("output", None))
    buffers = [_buffer(n, device, space) for n, (space, device) in zip(names, spaces, strict=True)]
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
    write_artifact(path, manifest, dict.fromkeys(("cpu@0", "cpu@1"), faulty_library), {})
    return path
