"""Relay programs for tests: made from an expression, imported, compiled and run."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.network import lower
from hios_tvm.frontends.relay import from_relay, from_relay_json

DATA = Path(__file__).parents[2] / "data" / "relay"

INPUT = re.compile(r"data\d*|x\d*|y")  # of recorded programs; other parameters are weights
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
    return _run(mod, inputs, tvm.compile(mod, "llvm"))


def run_lowered(mod: tvm.IRModule, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compile with the kernels of this project and run once."""
    target = host_target()
    return _run(mod, inputs, tvm.compile(lower(mod, target), target))


def _run(mod: tvm.IRModule, inputs: Mapping[str, np.ndarray], executable: Any) -> list[np.ndarray]:
    names = [str(name) for name in mod["main"].attrs["input_names"]]
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    result = main(*[tvm.runtime.tensor(inputs[name]) for name in names])
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


def reader(path: Path) -> Callable[[str, Mapping[str, np.ndarray]], tvm.IRModule]:
    return from_relay_json if path.suffix == ".json" else from_relay


def arrays_of(mod: tvm.IRModule) -> dict[str, np.ndarray]:
    """The recorded values of all parameters of a module that was imported without any.

    The inputs of the LSTM's steps were all called `data`, and Relay printed data, data1, data2...
    """
    arrays = {}
    for name, var in zip(mod["main"].attrs["input_names"], mod["main"].params, strict=True):
        shape = tuple(int(dimension) for dimension in var.ty.shape)
        key = "data" if re.fullmatch(r"data\d+", name) else str(name)
        arrays[str(name)] = reference_array(key, shape, str(var.ty.dtype))
    return arrays


def imported(path: Path) -> tuple[tvm.IRModule, dict[str, np.ndarray]]:
    """A program with its weights as constants, and its inputs."""
    text = path.read_text()
    arrays = arrays_of(reader(path)(text, {}))
    inputs = {name: array for name, array in arrays.items() if INPUT.fullmatch(name)}
    params = {name: array for name, array in arrays.items() if name not in inputs}
    return reader(path)(text, params), inputs


def check_outputs(path: Path, outputs: list[np.ndarray]) -> None:
    with np.load(path.with_suffix(".npz")) as recorded:
        assert len(outputs) == len(recorded.files)
        for i, output in enumerate(outputs):
            assert_close(output, recorded[f"output_{i}"], 1e-4)
