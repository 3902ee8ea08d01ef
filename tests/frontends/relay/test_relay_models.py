"""Models that Relay 0.17 printed give the outputs that it computed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tvm
from relay_programs import (
    DATA,
    check_outputs,
    imported,
    reference_array,
    run_module,
)

from hios_tvm.artifact.build import build
from hios_tvm.artifact.write import write
from hios_tvm.backends.cache import kernel_dir
from hios_tvm.backends.network import lower_network
from hios_tvm.compiler import plan
from hios_tvm.frontends.relay import from_relay, from_relay_json, load_relay
from hios_tvm.frontends.relay.parser import parse_program
from hios_tvm.frontends.relay.syntax import Block
from hios_tvm.runtime import load
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.platform import Device, Platform

FOLDER = DATA / "models"


NAMES = sorted(path.stem for path in FOLDER.glob("*.relay"))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("inception_v3", "resnet18")]
)
def test_model_in_relax_alone(name: str) -> None:
    mod, inputs = imported(FOLDER / f"{name}.relay")
    check_outputs(FOLDER / f"{name}.relay", run_module(mod, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "squeezenet"])
def test_model_in_an_artifact_for_two_devices(name: str, tmp_path: Path, cache: Path) -> None:
    mod, inputs = imported(FOLDER / f"{name}.relay")
    network = lower_network(mod, "host")
    latency = {op.name: Measurement(1.0) for op in network.graph.operators}
    platform = Platform(tuple(Device(f"cpu@{core}", model="cpu/1") for core in range(2)))
    schedule = plan(network, CostTable({"cpu/1": latency}), platform)
    path = tmp_path / "model.hios"
    write(build(network, schedule, kernel_dir=kernel_dir(cache)), path)
    cores = sorted(os.sched_getaffinity(0))
    with load(path, devices=[f"cpu@{cores[0]}", f"cpu@{cores[-1]}"]) as session:
        outputs = session.run(inputs)
    check_outputs(FOLDER / f"{name}.relay", list(outputs.values()))


@pytest.mark.parametrize("suffix", ["relay", "json"])
def test_files_of_program_and_parameters(suffix: str) -> None:
    """The inputs of all steps were called `data`; Relay printed data, data1, data2, data3."""
    mod = load_relay(FOLDER / f"lstm.{suffix}", FOLDER / "lstm.params")
    names = [str(name) for name in mod["main"].attrs["input_names"]]
    assert names == ["data", "data1", "data2", "data3"]
    inputs = dict.fromkeys(names, reference_array("data", (1, 8)))
    check_outputs(FOLDER / "lstm.relay", run_module(mod, inputs))


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_text_and_json_of_a_program_are_the_same(name: str) -> None:
    text, table = ((FOLDER / f"{name}.{suffix}").read_text() for suffix in ("relay", "json"))
    tvm.ir.assert_structural_equal(from_relay(text), from_relay_json(table))


def test_the_largest_text() -> None:
    program, source = parse_program((FOLDER / "inception_v3.relay").read_text())
    body = program.functions["main"].body
    assert isinstance(body, Block)
    assert len(body.bindings) == 414
    assert source.metadata is None
