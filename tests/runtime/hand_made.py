r"""A hand-made artifact for two devices: small, but with everything that a program can hold.

cpu@0      cpu@1        a = x + w    w is a weight
  a          b          b = x * x
  | \      / |          y = a * b
  |   \  /   |          z = b + a
  |   /  \   |
  y          z
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import te

from hios_tvm import runtime
from hios_tvm.artifact.buffer_plan import plan_buffers
from hios_tvm.schema.manifest import Buffer, DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.program import Call, Copy, Program, Signal, Wait

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


def make_buffer(name: str, device: str | None, space: Any) -> Buffer:
    return Buffer(name, device, space, (LENGTH,), "float32")


BUFFERS = (
    make_buffer("x", None, "input"),
    make_buffer("w", None, "param"),
    make_buffer("a", "cpu@0", "arena"),
    make_buffer("b@cpu@0", "cpu@0", "arena"),
    make_buffer("b", "cpu@1", "arena"),
    make_buffer("a@cpu@1", "cpu@1", "arena"),
    make_buffer("y", None, "output"),
    make_buffer("z", None, "output"),
)


def make_manifest(programs: tuple[Program, ...] = PROGRAMS, length: int = LENGTH) -> Manifest:
    """Return the manifest of the network above, its buffers planned."""
    buffers = tuple(replace(buffer, shape=(length,)) for buffer in BUFFERS)
    plan = plan_buffers(programs, buffers)
    spec = {b.name: TensorSpec(b.name, b.name, b.shape, b.dtype) for b in buffers}
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
