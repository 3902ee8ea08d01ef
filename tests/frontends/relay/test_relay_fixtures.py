"""Programs that Relay 0.17 printed give the outputs that it computed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tvm
from relay_programs import DATA, SHARED, assert_close, reference_array, run_module
from tvm import relax
from tvm.ir import IRModule

from hios_tvm.frontends.relay import from_relay, from_relay_json, load_relay
from hios_tvm.passes.pipeline import lower
from hios_tvm.passes.targets import host_target

OPERATORS = sorted((DATA / "operators").glob("*.relay"))
MODELS = ["dcgan.relay", "lstm.relay", "mlp.relay", "squeezenet.relay", "resnet18.relay"]
INPUT = re.compile(r"data\d*|x\d*|y")  # all other parameters are weights

Reader = Callable[[str, Mapping[str, np.ndarray]], IRModule]


def reader(path: Path) -> Reader:
    return from_relay_json if path.suffix == ".json" else from_relay


def arrays_of(mod: IRModule) -> dict[str, np.ndarray]:
    """The recorded values of all parameters of a module that was imported without any.

    The inputs of the LSTM's steps were all called `data`, and Relay printed data, data1, data2...
    """
    arrays = {}
    for name, var in zip(mod["main"].attrs["input_names"], mod["main"].params, strict=True):
        shape = tuple(int(dimension) for dimension in var.ty.shape)
        key = "data" if re.fullmatch(r"data\d+", name) else str(name)
        arrays[str(name)] = reference_array(key, shape, str(var.ty.dtype))
    return arrays


def imported(path: Path) -> tuple[IRModule, dict[str, np.ndarray]]:
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


def run_lowered(mod: IRModule, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    names = [str(name) for name in mod["main"].attrs["input_names"]]
    target = host_target()
    machine = relax.VirtualMachine(tvm.compile(lower(mod, target), target), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(inputs[name]) for name in names])
    outputs = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [output.numpy() for output in outputs]


@pytest.mark.parametrize("path", OPERATORS, ids=lambda path: path.stem)
def test_operator(path: Path) -> None:
    mod, inputs = imported(path)
    check_outputs(path, run_module(mod, inputs))
    check_outputs(path, run_lowered(mod, inputs))


@pytest.mark.parametrize("name", [*MODELS, "lstm.json", "mlp.json"])
def test_model(name: str) -> None:
    mod, inputs = imported(DATA / "models" / name)
    check_outputs(DATA / "models" / name, run_lowered(mod, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3.relay", "dcgan.json", "squeezenet.json"])
def test_large_model(name: str) -> None:
    path = next(
        (f / "models" / name for f in (DATA, SHARED) if (f / "models" / name).exists()), None
    )
    if path is None:
        pytest.skip(f"{name} is too large to be kept with the tests")
    mod, inputs = imported(path)
    check_outputs(path, run_lowered(mod, inputs))


@pytest.mark.parametrize("suffix", ["relay", "json"])
def test_files_of_program_and_parameters(suffix: str) -> None:
    folder = DATA / "models"
    mod = load_relay(folder / f"lstm.{suffix}", folder / "lstm.params")
    names = [str(name) for name in mod["main"].attrs["input_names"]]
    assert names == ["data", "data1", "data2", "data3"]
    data = reference_array("data", (1, 8))
    check_outputs(folder / "lstm.relay", run_module(mod, dict.fromkeys(names, data)))


def test_text_and_json_of_a_program_are_the_same() -> None:
    for name in ("mlp", "lstm"):
        text, table = ((DATA / "models" / f"{name}.{s}").read_text() for s in ("relay", "json"))
        tvm.ir.assert_structural_equal(from_relay(text), from_relay_json(table))
