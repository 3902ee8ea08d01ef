"""GPUs through NVIDIA's driver library, which comes with the driver; no CUDA toolkit is needed."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any

from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.runtime.abi import NativeDriver
from hios_tvm.runtime.memory import Arena

_POINTER, _SIZE, _INT, _UINT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
_ADDRESS, _TEXT, _ULONG = ctypes.c_uint64, ctypes.c_char_p, ctypes.c_ulonglong

_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (_UINT,),
    "cuGetErrorString": (_INT, _POINTER),
    "cuDeviceGet": (_POINTER, _INT),
    "cuDeviceGetCount": (_POINTER,),
    "cuDeviceGetAttribute": (_POINTER, _INT, _INT),
    "cuDeviceCanAccessPeer": (_POINTER, _INT, _INT),
    "cuDevicePrimaryCtxRetain": (_POINTER, _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxSetCurrent": (_POINTER,),
    "cuCtxEnablePeerAccess": (_POINTER, _UINT),
    "cuMemAlloc_v2": (_POINTER, _SIZE),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyHtoD_v2": (_ADDRESS, _POINTER, _SIZE),
    "cuMemHostRegister_v2": (_POINTER, _SIZE, _UINT),
    "cuMemHostUnregister": (_POINTER,),
    "cuModuleLoadData": (_POINTER, _POINTER),
    "cuModuleUnload": (_POINTER,),
    "cuModuleGetFunction": (_POINTER, _POINTER, _TEXT),
    "cuFuncSetAttribute": (_POINTER, _INT, _INT),
    "cuStreamCreate": (_POINTER, _UINT),
    "cuStreamDestroy_v2": (_POINTER,),
    "cuEventCreate": (_POINTER, _UINT),
    "cuEventDestroy_v2": (_POINTER,),
    "cuEventElapsedTime": (_POINTER, _POINTER, _POINTER),
    "cuStreamBeginCapture_v2": (_POINTER, _INT),
    "cuStreamEndCapture": (_POINTER, _POINTER),
    "cuGraphInstantiateWithFlags": (_POINTER, _POINTER, _ULONG),
    "cuGraphDestroy": (_POINTER,),
    "cuGraphExecDestroy": (_POINTER,),
    # Called by executor.cc
    "cuLaunchKernel": (_POINTER, *[_UINT] * 7, _POINTER, _POINTER, _POINTER),
    "cuMemcpyAsync": (_ADDRESS, _ADDRESS, _SIZE, _POINTER),
    "cuMemcpyPeerAsync": (_ADDRESS, _POINTER, _ADDRESS, _POINTER, _SIZE, _POINTER),
    "cuEventRecord": (_POINTER, _POINTER),
    "cuStreamWaitEvent": (_POINTER, _POINTER, _UINT),
    "cuLaunchHostFunc": (_POINTER, _POINTER, _POINTER),
    "cuGraphLaunch": (_POINTER, _POINTER),
    "cuStreamSynchronize": (_POINTER,),
}
# Parts of a GPU ("green contexts"): drivers of CUDA 12.4 and later
_PART_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuDeviceGetDevResource": (_INT, _POINTER, _INT),
    "cuDevSmResourceSplitByCount": (_POINTER, _POINTER, _POINTER, _POINTER, _UINT, _UINT),
    "cuDevResourceGenerateDesc": (_POINTER, _POINTER, _UINT),
    "cuGreenCtxCreate": (_POINTER, _POINTER, _INT, _UINT),
    "cuGreenCtxDestroy": (_POINTER,),
    "cuGreenCtxStreamCreate": (_POINTER, _POINTER, _UINT, _INT),
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
)

_MAJOR, _MINOR = 75, 76  # attributes of a device: its compute capability
_UNITS, _THREADS_PER_UNIT = 16, 39  # and its multiprocessors
_MULTIPROCESSORS = 1  # a kind of resource
_DYNAMIC_SHARED_BYTES = 8  # attribute of a function
_PORTABLE = 1  # pinned for all contexts
_NON_BLOCKING = 1  # a stream that does not wait for the default one
_NO_TIMING = 2  # an event that only orders
_CAPTURE_RELAXED = 2  # other threads may use the driver meanwhile
_LARGEST_STATIC_SHARED = 48 * 1024  # more must be asked for


class CudaResult(IntEnum):
    """Result codes (CUresult) that are not errors of the caller everywhere."""

    SUCCESS = 0
    INVALID_VALUE = 1
    NOT_FOUND = 500
    PEER_ACCESS_ALREADY_ENABLED = 704
    INVALID_RESOURCE_CONFIGURATION = 914


_NO_SUCH_SPLIT = (CudaResult.INVALID_VALUE, CudaResult.INVALID_RESOURCE_CONFIGURATION)


class CudaError(DeviceError):
    """A call that the driver refused; `result` is the result code (CUresult)."""

    def __init__(self, message: str, *, result: int) -> None:
        super().__init__(message)
        self.result = result


class CudaDriver:
    """The driver's functions; `call` raises `CudaError` with the driver's description."""

    def __init__(self, dll: Any) -> None:
        self._functions: dict[str, Any] = {}
        for name, arguments in (_FUNCTIONS | _PART_FUNCTIONS).items():
            function = getattr(dll, name, None)
            if function is None:
                continue
            function.argtypes, function.restype = arguments, _INT
            self._functions[name] = function
        addresses = [ctypes.cast(self._functions[name], _POINTER).value for name in _ENQUEUED]
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

    def gpu_count(self) -> int:
        """Return how many GPUs this process may use."""
        return int(self.get(_INT, "cuDeviceGetCount"))

    def arch(self, index: int) -> str:
        """Return the architecture of GPU `index`, such as ``sm_90``."""
        device = self.get(_INT, "cuDeviceGet", index)
        major, minor = (
            self.get(_INT, "cuDeviceGetAttribute", attribute, device)
            for attribute in (_MAJOR, _MINOR)
        )
        return f"sm_{major}{minor}"


class _Resource(ctypes.Structure):
    """CUdevResource: multiprocessors of a GPU."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("padding", ctypes.c_ubyte * 92),
        ("multiprocessors", ctypes.c_uint),
        ("rest", ctypes.c_ubyte * 44),
    )


def split_gpu(driver: CudaDriver, index: int, parts: int) -> list[ctypes.Structure]:
    """Return disjoint shares of a GPU's multiprocessors, all of one size and from one split.

    Not every size is possible: it is the largest that is, and some multiprocessors may be left.

    Raises
    ------
    DeviceError
        If the GPU cannot be split into so many parts, or the driver is too old.
    """
    whole = _Resource()
    driver.call("cuDeviceGetDevResource", index, ctypes.byref(whole), _MULTIPROCESSORS)
    shares = (_Resource * parts)()
    for least in range(whole.multiprocessors // parts, 0, -1):
        found = ctypes.c_uint(parts)
        arguments = (shares, ctypes.byref(found), ctypes.byref(whole), None, 0, least)
        try:
            driver.call("cuDevSmResourceSplitByCount", *arguments)
        except CudaError as error:
            if error.result not in _NO_SUCH_SPLIT:
                raise
            continue
        if found.value == parts:
            return list(shares)
    raise DeviceError(
        f"cuda:{index} has {whole.multiprocessors} multiprocessors, which cannot be split into "
        f"{parts} parts"
    )


@cache
def load_driver() -> CudaDriver:
    """Return the driver of this machine; `DeviceError` where there is none."""
    try:
        dll = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError(f"this machine has no NVIDIA driver: {error}") from error
    return CudaDriver(dll)


class Gpu:
    """One GPU, or a part of one: its context, its code, and what was allocated for it.

    Parameters
    ----------
    driver, index, code
        The driver, which GPU, and the code for it.
    share : SM resource of CUDA, optional
        Of `split_gpu`: the multiprocessors that it runs on. Its streams alone belong to them;
        memory and code are those of the GPU.

    Raises
    ------
    DeviceError
        If there is no such GPU, or it lacks memory.
    ArtifactError
        If the code is not for it.
    """

    def __init__(
        self, driver: CudaDriver, index: int, code: bytes, share: ctypes.Structure | None = None
    ) -> None:
        count = driver.gpu_count()
        if index >= count:
            raise DeviceError(f"there is no GPU cuda:{index}: this process may use {count}")
        self.driver = driver
        self.index = index
        device = driver.get(_INT, "cuDeviceGet", index)
        self.context: int = driver.get(_POINTER, "cuDevicePrimaryCtxRetain", device)
        self._undo: list[tuple[str, int]] = []
        self._pinned: list[Arena] = []
        self.close = weakref.finalize(
            self, _release, driver, self.context, device, self._undo, self._pinned
        )
        self._part: int | None = None
        self._share = share
        if share is not None:
            words = driver.get(_POINTER, "cuDevResourceGenerateDesc", ctypes.byref(share), 1)
            self._part = self._new("cuGreenCtxDestroy", "cuGreenCtxCreate", words, device, 1)
        self._kept = len(self._undo) + 1
        self.make_current()
        try:
            self._module = self._new("cuModuleUnload", "cuModuleLoadData", code)
        except DeviceError as error:
            raise ArtifactError(
                f"its code does not run on cuda:{index} ({driver.arch(index)}): {error}"
            ) from error

    def make_current(self) -> None:
        """Make this GPU's context current in the calling thread."""
        self.driver.call("cuCtxSetCurrent", self.context)

    def allocate(self, nbytes: int) -> int:
        """Return the address of new memory on the GPU, aligned to 256 bytes."""
        self.make_current()
        return self._new("cuMemFree_v2", "cuMemAlloc_v2", max(nbytes, 1), kind=_ADDRESS)

    def free(self) -> None:
        """Free all memory, streams and events of this object; its code stays."""
        self.make_current()
        _undo(self.driver, self._undo, keep=self._kept)

    def threads(self) -> int:
        """Return how many threads can be resident on its multiprocessors."""
        per_unit, units = (
            self.driver.get(_INT, "cuDeviceGetAttribute", attribute, self.index)
            for attribute in (_THREADS_PER_UNIT, _UNITS)
        )
        return int(per_unit * (units if self._share is None else self._share.multiprocessors))

    def upload(self, address: int, source: int, nbytes: int) -> None:
        """Copy bytes of the host to `address`, now."""
        self.make_current()
        self.driver.call("cuMemcpyHtoD_v2", address, source, nbytes)
        # The copy may return before it has ended, and streams of ours do not wait for it
        self.driver.call("cuStreamSynchronize", None)

    def stream(self) -> int:
        """Return a new stream."""
        self.make_current()
        if self._part is not None:
            made = (self._part, _NON_BLOCKING, 0)
            return self._new("cuStreamDestroy_v2", "cuGreenCtxStreamCreate", *made)
        return self._new("cuStreamDestroy_v2", "cuStreamCreate", _NON_BLOCKING)

    def event(self, *, timing: bool = False) -> int:
        """Return a new event; one with `timing` also remembers when it was reached."""
        self.make_current()
        return self._new("cuEventDestroy_v2", "cuEventCreate", 0 if timing else _NO_TIMING)

    def elapsed_ms(self, first: int, second: int) -> float:
        """Return the milliseconds between two events with timing, both of the past."""
        self.make_current()
        return float(self.driver.get(ctypes.c_float, "cuEventElapsedTime", first, second))

    def capture(self, stream: int, issue: Callable[[], None]) -> int:
        """Return an executable graph of what `issue` enqueues, beginning and ending on `stream`."""
        self.make_current()
        self.driver.call("cuStreamBeginCapture_v2", stream, _CAPTURE_RELAXED)
        try:
            issue()
        finally:
            graph: int = self.driver.get(_POINTER, "cuStreamEndCapture", stream, last=True)
        try:
            return self._new("cuGraphExecDestroy", "cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self.driver.call("cuGraphDestroy", graph)

    def function(self, symbol: str, shared_bytes: int) -> int:
        """Return a function of the code."""
        self.make_current()
        try:
            function: int = self.driver.get(
                _POINTER, "cuModuleGetFunction", self._module, symbol.encode()
            )
        except CudaError as error:
            if error.result != CudaResult.NOT_FOUND:
                raise
            raise ArtifactError(f"the code of a GPU has no kernel {symbol!r}") from error
        if shared_bytes > _LARGEST_STATIC_SHARED:
            self.driver.call("cuFuncSetAttribute", function, _DYNAMIC_SHARED_BYTES, shared_bytes)
        return function

    def pin(self, memory: Arena) -> None:
        """Page-lock memory of the host, so that GPUs copy from and to it while kernels run."""
        self.make_current()
        self.driver.call("cuMemHostRegister_v2", memory.address, memory.bytes.nbytes, _PORTABLE)
        self._undo.append(("cuMemHostUnregister", memory.address))
        self._pinned.append(memory)

    def reach(self, other: Gpu) -> None:
        """Let this GPU copy from and to `other` directly, where the machine supports it."""
        able = self.driver.get(_INT, "cuDeviceCanAccessPeer", self.index, other.index)
        if not able:
            return  # the driver copies through the host
        self.make_current()
        try:
            self.driver.call("cuCtxEnablePeerAccess", other.context, 0)
        except CudaError as error:
            if error.result != CudaResult.PEER_ACCESS_ALREADY_ENABLED:
                raise

    def _new(self, undo: str, name: str, *arguments: Any, kind: type[Any] = _POINTER) -> int:
        made: int = self.driver.get(kind, name, *arguments)
        self._undo.append((undo, made))
        return made


def _release(
    driver: CudaDriver,
    context: int,
    device: int,
    undo: list[tuple[str, int]],
    pinned: list[Arena],
) -> None:
    """Release everything; pinned memory must live until then."""
    driver.call("cuCtxSetCurrent", context)
    _undo(driver, undo)
    driver.call("cuDevicePrimaryCtxRelease_v2", device)
    pinned.clear()


def _undo(driver: CudaDriver, undo: list[tuple[str, int]], keep: int = 0) -> None:
    """Release what was made in reverse order, but for the first `keep`."""
    while len(undo) > keep:
        driver.call(*undo.pop())
