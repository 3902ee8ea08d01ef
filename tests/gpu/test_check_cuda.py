"""The script that checks GPUs, on a stand-in for the driver."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from fake_driver import FakeDriver
from gpu_network import MODEL

import hios_tvm.zoo
from hios_tvm.errors import HiosError
from hios_tvm.schema.device_names import split_devices

SCRIPT = Path(__file__).parents[2] / "scripts/check_cuda.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_cuda", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look themselves up
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_prepare_run_and_prepare_with_costs(
    start: Callable[..., FakeDriver],
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start(gpus=1)
    monkeypatch.setattr(script, "load_driver", script.runtime.devices.cuda.kind.load_driver)
    for name in ("ON_ONE", "ON_SEVERAL"):
        monkeypatch.setattr(script, name, ("hios-lp",))
    monkeypatch.setattr(script, "_export_tvm_default", lambda mod, target, path: None)
    monkeypatch.setattr(script, "RIVALS", {})
    monkeypatch.setattr(hios_tvm.zoo, "build", lambda name, **size: MODEL)  # it is emulated
    options = ["--target", "sm_80", "--networks", "squeezenet1_1", "--sizes", "36"]
    options += ["--parts", "2", "--precision", "tf32"]

    def call(*words: str) -> str:
        result = CliRunner().invoke(script.main, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def in_this_process(
        folder: Path,
        step: Any,
        iterations: int,
        warmup: int,
        timeout: float,
        environment: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        found: dict[str, Any] = script.perform(folder, step, iterations, warmup)
        return found

    monkeypatch.setattr(script, "isolated", in_this_process)
    monkeypatch.setattr(script, "REPEATED", 1)
    call("prepare", str(tmp_path), *options)
    (case,) = tmp_path.iterdir()
    assert [path.name for path in case.glob("*.hios")] == ["kernels.hios"]
    assert len(list(case.glob("*.without-weights"))) == 3
    assert len(list(case.glob("weights-*"))) == 1
    file = tmp_path / "result.jsonl"
    output = call("run", str(tmp_path), "--iterations", "1", "--warmup", "0", "--json", str(file))
    found = {
        (line["name"], line["what"]): line
        for line in map(json.loads, file.read_text().splitlines())
    }
    artifacts = ("hios-lp-1", "hios-lp-2", "hios-lp-parts2")
    for name in artifacts:
        assert found[name, "streams"]["error"] == found[name, "graph"]["error"] < 1e-2
        assert found[name, "overlap"]["overlap"] > 0.999
        assert name in output
    costs = tmp_path / "costs"
    for suffix, model in (("", "cuda/sm_80"), ("-parts2", "cuda/sm_80/2")):
        data = json.loads((costs / f"squeezenet1_1-36-tf32{suffix}.json").read_text())
        assert set(data["latency"]) == {model}
    assert len(found) == 3 * len(artifacts) + 3
    assert found["cuda:0/2", "parts"]["graphs"] == [54, 54]
    call("prepare", str(tmp_path), *options, "--costs", str(costs))


def test_every_step_may_fail(
    start: Callable[..., FakeDriver],
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each failure is one line, and the rest goes on."""
    start(gpus=1)
    monkeypatch.setattr(script, "load_driver", script.runtime.devices.cuda.kind.load_driver)
    steps = [
        script.Step("net", what, "hios-lp-1", ("cuda:0",))
        for what in ("graph", "streams", "overlap", "rival", "costs")
    ]
    monkeypatch.setattr(script, "steps_of", lambda folder, gpus: iter(steps))
    for broken in steps:
        calls = []

        def fail_once(
            folder: Path, step: Any, *rest: object, broken: Any = broken, calls: list[Any] = calls
        ) -> dict[str, Any]:
            calls.append(step)
            if step == broken:
                return {"failed": "the GPU's driver refused cuLaunchKernel (700)"}
            return {"median_ms": 1.0, "spread_ms": 0.1, "error": 0.0, "overlap": 1.0}

        monkeypatch.setattr(script, "isolated", fail_once)
        file = tmp_path / f"{broken.what}.jsonl"
        result = CliRunner().invoke(script.main, ["run", str(tmp_path), "--json", str(file)])
        assert result.exit_code == (broken.what != "rival"), result.output
        lines = list(map(json.loads, file.read_text().splitlines()))
        assert [line["what"] for line in lines] == [step.what for step in steps]
        assert [line["what"] for line in lines if "failed" in line] == [broken.what]
        again = len(calls) - len(steps)
        assert again == (broken.what in ("graph", "streams"))
        assert ("blocking" in lines[steps.index(broken)]) == bool(again)


def test_parts_that_share_multiprocessors_are_found(
    script: ModuleType, start: Callable[..., FakeDriver]
) -> None:
    fake = start(gpus=1)
    driver = script.runtime.devices.cuda.kind.load_driver()
    devices = split_devices("cuda:0/3")
    found = script.check_parts(driver, devices)
    assert found == {"sizes": [36] * 3, "streams": [36] * 3, "graphs": [36] * 3}
    fake.confines = False
    with pytest.raises(HiosError, match=r"with streams, cuda:0.0/3 and cuda:0.1/3 both run on"):
        script.check_parts(driver, devices)
    assert not fake.allocated


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="ptxas is not installed")
def test_the_probe_of_parts_is_for_all_gpus(script: ModuleType, tmp_path: Path) -> None:
    code = tmp_path / "probe.ptx"
    code.write_text(sys.modules["gpu_parts"].CODE)
    for arch in ("sm_75", "sm_90"):
        subprocess.run(["ptxas", f"-arch={arch}", "-o", tmp_path / "probe", code], check=True)


def test_a_step_that_dies_or_hangs_is_one_line(script: ModuleType, tmp_path: Path) -> None:
    step = script.Step("missing", "graph", "hios-lp-1", ("cuda:0",))
    (found,) = script.isolated(tmp_path, step, 1, 0, 60.0).values()
    assert "missing" in found and found.endswith("(exit status 1)")
    assert script.isolated(tmp_path, step, 1, 0, 0.01) == {"failed": "not done after 0.01 s"}
