"""How the runtime calls the driver, compared with the driver's documented signatures."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from driver_api import ARGUMENTS
from fake_driver import FakeDriver

from hios_tvm.errors import ArtifactError, DeviceError
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
    assert [share.multiprocessors for share in split_gpu(driver, 0, 4)] == [26] * 4
    fake.splits_finely = False
    assert [share.multiprocessors for share in split_gpu(driver, 0, 4)] == [24] * 4
    with pytest.raises(DeviceError, match=r"108 .* cannot be split into 14 parts: .*Split"):
        split_gpu(driver, 0, 14)
    fake.failures["cuDevSmResourceSplitByCount"] = 1
    with pytest.raises(CudaError, match=r"\(719\)"):
        split_gpu(driver, 0, 12)


def test_a_missing_kernel_is_told_from_other_failures() -> None:
    fake = FakeDriver(1)
    gpu = Gpu(CudaDriver(fake), 0, CODE)
    assert gpu.kernel("present", 0)
    with pytest.raises(ArtifactError, match="has no kernel 'missing'"):
        gpu.kernel("missing", 0)
    fake.failures["cuLibraryGetKernel"] = 1
    with pytest.raises(CudaError, match=r"\(719\)"):
        gpu.kernel("missing", 0)
    gpu.close()


def test_code_that_is_refused_when_a_kernel_is_asked_for() -> None:
    """The driver may load code when it is needed first."""
    gpu = Gpu(CudaDriver(FakeDriver(1, fail={"cuKernelGetFunction": 1})), 0, CODE)
    with pytest.raises(ArtifactError, match=r"its code does not run on cuda:0 \(sm_80\)"):
        gpu.kernel("present", 0)
    gpu.close()


def test_a_process_makes_one_context_of_a_gpu() -> None:
    fake = FakeDriver(2)
    driver = CudaDriver(fake)
    for index in (0, 1, 0):
        Gpu(driver, index, CODE).close()
    assert fake.contexts_made == 2


def test_what_can_be_released_is() -> None:
    """After a failed kernel the driver refuses every call."""
    fake = FakeDriver(1, fail={"cuEventDestroy_v2": 1})
    gpu = Gpu(CudaDriver(fake), 0, CODE)
    gpu.allocate(8)
    gpu.event()
    with pytest.raises(CudaError, match="refused cuEventDestroy"):
        gpu.close()
    assert not fake.allocated
