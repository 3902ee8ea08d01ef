"""Relay programs for tests: made from an expression, imported, compiled and run."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from hios_tvm.frontends.relay import from_relay

DATA = Path(__file__).parents[2] / "data" / "relay"
SHARED = Path(__file__).parents[4] / "shared" / "relay"  # larger fixtures, where they are present

HEADER = '#[version = "0.0.5"]\n'


def relay_type(array: np.ndarray) -> str:
    if array.ndim == 0:
        return str(array.dtype)
    return f"Tensor[({', '.join(map(str, array.shape))}), {array.dtype}]"


def relay_text(body: str, inputs: Mapping[str, np.ndarray]) -> str:
    """A module whose `@main` has the inputs and the body."""
    parameters = ", ".join(f"%{name}: {relay_type(array)}" for name, array in inputs.items())
    return f"{HEADER}def @main({parameters}) {{\n{body}\n}}\n"


def run_module(mod: tvm.IRModule, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compile with TVM's default pipeline and run once."""
    machine = relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())
    names = [str(name) for name in mod["main"].attrs["input_names"]]
    result = machine["main"](*[tvm.runtime.tensor(inputs[name]) for name in names])
    outputs = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [output.numpy() for output in outputs]


def compute(
    body: str, inputs: Mapping[str, np.ndarray], constants: tuple[str, ...] = ()
) -> list[np.ndarray]:
    """Run a Relay expression; the inputs named in `constants` are given as parameters."""
    params = {name: inputs[name] for name in constants}
    return run_module(from_relay(relay_text(body, inputs), params), inputs)


def numbers(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """Normally distributed numbers; small ones for integers."""
    rng = np.random.default_rng(seed)
    if "int" in dtype:
        return rng.integers(0 if dtype[0] == "u" else -8, 8, shape).astype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    return rng.standard_normal(shape).astype(dtype)


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Same shape and type, and within `tolerance` of the largest magnitude."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.dtype.kind in "iub":
        np.testing.assert_array_equal(actual, expected)
    else:
        finite = np.abs(expected[np.isfinite(expected)])
        scale = max(float(finite.max(initial=0)), 1e-6)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def reference_array(name: str, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """The array from which Relay computed the recorded outputs: a function of its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if "int" in dtype:
        return rng.integers(0, 4, size=shape).astype(dtype)
    if name.endswith(("_var", "_gamma")):
        return rng.uniform(0.5, 1.5, size=shape).astype(dtype)
    if name.endswith(("_mean", "_beta", "_bias")) or len(shape) == 1:
        return (0.1 * rng.standard_normal(size=shape)).astype(dtype)
    if name in ("data", "x"):
        return rng.standard_normal(size=shape).astype(dtype)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return np.asarray(rng.standard_normal(size=shape) * np.sqrt(2.0 / max(fan_in, 1)), dtype)
