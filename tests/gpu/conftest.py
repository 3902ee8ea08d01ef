from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_driver import FakeDriver

import hios_tvm.backends.cuda.backend
import hios_tvm.backends.cuda.costs
import hios_tvm.runtime.devices.cuda.kernels
import hios_tvm.runtime.devices.cuda.kind
import hios_tvm.runtime.devices.cuda.measure
from hios_tvm.compiled_code import default_cache_dir
from hios_tvm.runtime.devices.cuda.driver import CudaDriver

collect_ignore = ["conftest.py"]  # not a module with doctests: its name is not unique


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of measurements and kernels that all tests of GPUs share, and nobody else."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    assert default_cache_dir().is_relative_to(folder)
    return folder


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeDriver]:
    """Puts a stand-in where the runtime looks for the driver, and the compiler with `here`."""

    def begin(gpus: int = 3, seed: int = 0, *, here: bool = False, **fail: int) -> FakeDriver:
        fake = FakeDriver(gpus, seed, fail)
        driver = CudaDriver(fake)
        users = [hios_tvm.runtime.devices.cuda.kind, hios_tvm.runtime.devices.cuda.measure]
        for module in [*users, *[hios_tvm.backends.cuda.costs] * here]:
            monkeypatch.setattr(module, "load_driver", lambda: driver)
        return fake

    # The stand-in executes CUDA's source
    for module in (hios_tvm.backends.cuda.backend, hios_tvm.backends.cuda.costs):
        monkeypatch.setattr(module, "build_device_code", _source_as_code)
    # The emulator is slow, and its times say nothing
    fewer = {"_CALLS": 2, "_ROUNDS": 2, "_WARM_UP_S": 0.0, "_RUNWAY_BYTES": 1 << 10}
    for constant, value in {**fewer, "_TRANSFER_BYTES": (1 << 10, 1 << 16)}.items():
        monkeypatch.setattr(hios_tvm.runtime.devices.cuda.kernels, constant, value)
    return begin


def _source_as_code(source: str, target: object, *, cache_dir: Path | None) -> bytes:
    return source.encode() + b"\0"
