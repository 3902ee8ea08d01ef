"""NVIDIA's driver library, which comes with the driver: no CUDA toolkit is needed."""

import ctypes
import os
from enum import IntEnum
from functools import cache
from typing import Any

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.abi import NativeDriver

POINTER, _SIZE, INT, _UINT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
ADDRESS, _TEXT, _ULONG = ctypes.c_uint64, ctypes.c_char_p, ctypes.c_ulonglong

_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (_UINT,),
    "cuGetErrorString": (INT, POINTER),
    "cuDeviceGet": (POINTER, INT),
    "cuDeviceGetCount": (POINTER,),
    "cuDeviceGetAttribute": (POINTER, INT, INT),
    "cuDeviceCanAccessPeer": (POINTER, INT, INT),
    "cuDevicePrimaryCtxRetain": (POINTER, INT),
    "cuCtxSetCurrent": (POINTER,),
    "cuCtxEnablePeerAccess": (POINTER, _UINT),
    "cuMemAlloc_v2": (POINTER, _SIZE),
    "cuMemFree_v2": (ADDRESS,),
    "cuOccupancyMaxActiveBlocksPerMultiprocessor": (POINTER, POINTER, INT, _SIZE),
    "cuMemcpyHtoD_v2": (ADDRESS, POINTER, _SIZE),
    "cuMemHostRegister_v2": (POINTER, _SIZE, _UINT),
    "cuMemHostUnregister": (POINTER,),
    "cuLibraryLoadData": (POINTER, POINTER, *[POINTER, POINTER, _UINT] * 2),
    "cuLibraryUnload": (POINTER,),
    "cuLibraryGetKernel": (POINTER, POINTER, _TEXT),
    "cuKernelSetAttribute": (INT, INT, POINTER, INT),
    "cuKernelGetFunction": (POINTER, POINTER),
    "cuStreamCreate": (POINTER, _UINT),
    "cuStreamDestroy_v2": (POINTER,),
    "cuEventCreate": (POINTER, _UINT),
    "cuEventDestroy_v2": (POINTER,),
    "cuEventElapsedTime": (POINTER, POINTER, POINTER),
    "cuStreamBeginCapture_v2": (POINTER, INT),
    "cuStreamEndCapture": (POINTER, POINTER),
    "cuGraphInstantiateWithFlags": (POINTER, POINTER, _ULONG),
    "cuGraphDestroy": (POINTER,),
    "cuGraphExecDestroy": (POINTER,),
    # Called by executor.cc
    "cuLaunchKernel": (POINTER, *[_UINT] * 7, POINTER, POINTER, POINTER),
    "cuMemcpyAsync": (ADDRESS, ADDRESS, _SIZE, POINTER),
    "cuMemcpyPeerAsync": (ADDRESS, POINTER, ADDRESS, POINTER, _SIZE, POINTER),
    "cuEventRecord": (POINTER, POINTER),
    "cuStreamWaitEvent": (POINTER, POINTER, _UINT),
    "cuLaunchHostFunc": (POINTER, POINTER, POINTER),
    "cuGraphLaunch": (POINTER, POINTER),
    "cuStreamSynchronize": (POINTER,),
    "cuStreamQuery": (POINTER,),
    "cuCtxPushCurrent_v2": (POINTER,),
    "cuCtxPopCurrent_v2": (POINTER,),
}
# Parts of a GPU ("green contexts"): drivers of CUDA 12.4 and later
_PART_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuDeviceGetDevResource": (INT, POINTER, INT),
    "cuDevSmResourceSplitByCount": (POINTER, POINTER, POINTER, POINTER, _UINT, _UINT),
    "cuDevResourceGenerateDesc": (POINTER, POINTER, _UINT),
    "cuGreenCtxCreate": (POINTER, POINTER, INT, _UINT),
    "cuGreenCtxDestroy": (POINTER,),
    "cuGreenCtxStreamCreate": (POINTER, POINTER, _UINT, INT),
}
_ENQUEUED = (
    "cuLaunchKernel",
    "cuMemcpyAsync",
    "cuMemcpyPeerAsync",
    "cuEventRecord",
    "cuStreamWaitEvent",
    "cuLaunchHostFunc",
    "cuGraphLaunch",
    "cuStreamSynchronize",
    "cuStreamQuery",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
)

_MAJOR, _MINOR = 75, 76  # attributes of a device: its compute capability

_QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS"
"""Of the environment: how many hardware queues streams are put into. By default 8, and streams
that share a queue wait for each other."""


class CudaResult(IntEnum):
    """Result codes (CUresult) that are not errors of the caller everywhere."""

    SUCCESS = 0
    INVALID_VALUE = 1
    NOT_FOUND = 500
    PEER_ACCESS_ALREADY_ENABLED = 704
    NOT_SUPPORTED = 801
    STREAM_CAPTURE_UNSUPPORTED = 900
    INVALID_RESOURCE_CONFIGURATION = 914


class CudaError(DeviceError):
    """A call that the driver refused; `result` is the result code (CUresult)."""

    def __init__(self, message: str, *, result: int) -> None:
        super().__init__(message)
        self.result = result


class CudaDriver:
    """The driver's functions; `call` raises `CudaError` with the driver's description."""

    def __init__(self, dll: Any) -> None:
        self._functions: dict[str, Any] = {}
        self._contexts: dict[int, int] = {}
        for name, arguments in (_FUNCTIONS | _PART_FUNCTIONS).items():
            function = getattr(dll, name, None)
            if function is None:
                continue
            function.argtypes, function.restype = arguments, INT
            self._functions[name] = function
        addresses = [ctypes.cast(self._functions[name], POINTER).value for name in _ENQUEUED]
        self.native = NativeDriver(*addresses)
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver."""
        if name not in self._functions:
            raise DeviceError(f"the GPU's driver is too old: it has no function {name}")
        result = self._functions[name](*arguments)
        if result != CudaResult.SUCCESS:
            message = f"the GPU's driver refused {name}: {self.error_text(result)}"
            raise CudaError(message, result=result)

    def get(self, kind: type[Any], name: str, *arguments: Any, last: bool = False) -> Any:
        """Call a function that writes its result where its first (or `last`) argument points."""
        result = kind()
        pointer = ctypes.byref(result)
        self.call(name, *((*arguments, pointer) if last else (pointer, *arguments)))
        return result.value

    def error_text(self, result: int) -> str:
        """Return the driver's description of a result code, and the code."""
        text = ctypes.c_char_p()
        self._functions["cuGetErrorString"](result, ctypes.byref(text))
        return f"{(text.value or b'unknown error').decode(errors='replace')} ({result})"

    def context(self, index: int) -> int:
        """Return the primary context of GPU `index`, which this process keeps from now on.

        Making one takes some tenths of a second, and every session would otherwise make its own.
        """
        if index not in self._contexts:
            device = self.get(INT, "cuDeviceGet", index)
            self._contexts[index] = self.get(POINTER, "cuDevicePrimaryCtxRetain", device)
        return self._contexts[index]

    def gpu_count(self) -> int:
        """Return how many GPUs this process may use."""
        return int(self.get(INT, "cuDeviceGetCount"))

    def arch(self, index: int) -> str:
        """Return the architecture of GPU `index`, such as ``sm_90``."""
        device = self.get(INT, "cuDeviceGet", index)
        major, minor = (
            self.get(INT, "cuDeviceGetAttribute", attribute, device)
            for attribute in (_MAJOR, _MINOR)
        )
        return f"sm_{major}{minor}"


@cache
def load_driver() -> CudaDriver:
    """Return the driver of this machine; `DeviceError` where there is none."""
    os.environ.setdefault(_QUEUES, "32")  # the driver reads it when it starts
    try:
        dll = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError(f"this machine has no NVIDIA driver: {error}") from error
    return CudaDriver(dll)
