"""The script that checks GPUs, on a stand-in for the driver."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from fake_driver import FakeDriver

from hios_tvm.zoo import squeezenet

SCRIPT = Path(__file__).parents[2] / "scripts/check_cuda.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_cuda", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
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
    monkeypatch.setattr(squeezenet, "STAGES", [squeezenet.STAGES[0][:1]] * 3)  # it is emulated
    options = ["--target", "sm_80", "--networks", "squeezenet1_1", "--sizes", "36"]
    options += ["--parts", "2", "--precision", "tf32"]

    def call(*words: str) -> str:
        result = CliRunner().invoke(script.main, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    call("prepare", str(tmp_path), *options)
    result = tmp_path / "result.json"
    call("run", str(tmp_path), "--iterations", "1", "--warmup", "0", "--json", str(result))
    cases = json.loads(result.read_text())["cases"]
    results = cases["squeezenet1_1-36-tf32"]
    assert set(results) == {"hios-lp-1", "hios-lp-2", "hios-lp-parts2"}
    for found in results.values():
        assert 1e-5 < found["streams"]["error"] == found["graph"]["error"] < 1e-2
        assert found["overlap"] > 0.999
    costs = tmp_path / "costs"
    for file, model in (("", "cuda/sm_80"), ("-parts2", "cuda/sm_80/2")):
        data = json.loads((costs / f"squeezenet1_1-36-tf32{file}.json").read_text())
        assert set(data["latency"]) == {model}
    call("prepare", str(tmp_path), *options, "--costs", str(costs))
