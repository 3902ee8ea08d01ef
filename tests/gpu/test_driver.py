"""How the runtime calls the driver, compared with the driver's documented signatures."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from driver_api import ARGUMENTS
from fake_driver import FakeDriver

from hios_tvm.errors import ArtifactError
from hios_tvm.runtime.devices.cuda.driver import (
    _FUNCTIONS,
    _PART_FUNCTIONS,
    CudaDriver,
    CudaError,
)
from hios_tvm.runtime.devices.cuda.gpu import Gpu, split_gpu

CODE = b'extern "C" __global__ void __launch_bounds__(1) present(float* x) {\n}\0'


def passed_as(kind: Any) -> tuple[int, bool]:
    """Return the size of an argument, and whether it is signed."""
    return ctypes.sizeof(kind), kind is ctypes.c_int


def test_the_runtime_has_the_documented_signatures() -> None:
    called = _FUNCTIONS | _PART_FUNCTIONS
    assert called.keys() == ARGUMENTS.keys()
    for name, arguments in called.items():
        assert [*map(passed_as, arguments)] == [*map(passed_as, ARGUMENTS[name])], name


def test_a_refused_call_has_the_drivers_result_code() -> None:
    driver = CudaDriver(FakeDriver(1, fail={"cuDeviceGetCount": 1}))
    with pytest.raises(CudaError, match=r"refused cuDeviceGetCount: .* \(719\)") as caught:
        driver.gpu_count()
    assert caught.value.result == 719
    assert driver.gpu_count() == 1


def test_only_a_refused_size_lets_a_split_try_the_next() -> None:
    fake = FakeDriver(1)
    driver = CudaDriver(fake)
    shares = split_gpu(driver, 0, 12)
    assert [share.multiprocessors for share in shares] == [8] * 12
    fake.failures["cuDevSmResourceSplitByCount"] = 1
    with pytest.raises(CudaError, match=r"\(719\)"):
        split_gpu(driver, 0, 12)


def test_a_missing_kernel_is_told_from_other_failures() -> None:
    fake = FakeDriver(1)
    gpu = Gpu(CudaDriver(fake), 0, CODE)
    assert gpu.function("present", 0)
    with pytest.raises(ArtifactError, match="has no kernel 'missing'"):
        gpu.function("missing", 0)
    fake.failures["cuModuleGetFunction"] = 1
    with pytest.raises(CudaError, match=r"\(719\)"):
        gpu.function("missing", 0)
    gpu.close()
