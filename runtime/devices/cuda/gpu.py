"""A GPU, or a part of one: its context, its code, its memory, streams and events."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.runtime.devices.cuda.driver import (
    ADDRESS,
    INT,
    POINTER,
    CudaDriver,
    CudaError,
    CudaResult,
)
from hios_tvm.runtime.memory import Arena
from hios_tvm.schema.device_names import GpuPlace
from hios_tvm.schema.launches import Launch

_MULTIPROCESSOR_COUNT = 16  # attribute of a device
_MULTIPROCESSORS = 1  # a kind of resource
_DYNAMIC_SHARED_BYTES = 8  # attribute of a function
_PORTABLE = 1  # pinned for all contexts
_NON_BLOCKING = 1  # a stream that does not wait for the default one
_NO_TIMING = 2  # an event that only orders
_CAPTURE_RELAXED = 2  # other threads may use the driver meanwhile
_LARGEST_STATIC_SHARED = 48 * 1024  # more must be asked for
_NO_SUCH_SPLIT = (CudaResult.INVALID_VALUE, CudaResult.INVALID_RESOURCE_CONFIGURATION)
_IGNORE_COSCHEDULING = 1  # smaller steps: 66 and 66 of 132 multiprocessors, not 64 and 64


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
    Clusters of blocks, which smaller steps rule out, are in no kernel of ours.

    Raises
    ------
    DeviceError
        If the GPU cannot be split into so many parts, or the driver is too old.
    """
    whole = _Resource()
    driver.call("cuDeviceGetDevResource", index, ctypes.byref(whole), _MULTIPROCESSORS)
    shares = (_Resource * parts)()
    refusal = ""
    for least in range(whole.multiprocessors // parts, 0, -1):
        for flags in (_IGNORE_COSCHEDULING, 0):
            found = ctypes.c_uint(parts)
            arguments = (shares, ctypes.byref(found), ctypes.byref(whole), None, flags, least)
            try:
                driver.call("cuDevSmResourceSplitByCount", *arguments)
            except CudaError as error:
                if error.result not in _NO_SUCH_SPLIT:
                    raise
                refusal = f": {error}"
                continue
            if found.value == parts:
                return list(shares)
    raise DeviceError(
        f"cuda:{index} has {whole.multiprocessors} multiprocessors, which cannot be split into "
        f"{parts} parts{refusal}"
    )


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
        self._device: int = driver.get(INT, "cuDeviceGet", index)
        self.context = driver.context(index)
        self._undo: list[tuple[str, int]] = []
        self._pinned: list[Arena] = []
        self.close = weakref.finalize(
            self, _release, driver, self.context, self._undo, self._pinned
        )
        self._part: int | None = None
        self._share = share
        if share is not None:
            words = driver.get(POINTER, "cuDevResourceGenerateDesc", ctypes.byref(share), 1)
            made = (words, self._device, 1)
            self._part = self._new("cuGreenCtxDestroy", "cuGreenCtxCreate", *made)
        self._kept = len(self._undo) + 1
        self.make_current()
        options = (None, None, 0) * 2  # of the just-in-time compiler, and of the library
        try:
            # A kernel of a library runs in the context of its stream, which may be that of a part;
            # a function of a module always runs in the one in which the module was loaded
            self._library = self._new("cuLibraryUnload", "cuLibraryLoadData", code, *options)
        except DeviceError as error:
            raise self._foreign_code(error) from error

    def make_current(self) -> None:
        """Make this GPU's context current in the calling thread."""
        self.driver.call("cuCtxSetCurrent", self.context)

    def allocate(self, nbytes: int) -> int:
        """Return the address of new memory on the GPU, aligned to 256 bytes."""
        self.make_current()
        return self._new("cuMemFree_v2", "cuMemAlloc_v2", max(nbytes, 1), kind=ADDRESS)

    def free(self) -> None:
        """Free all memory, streams and events of this object; its code stays."""
        self.make_current()
        _undo(self.driver, self._undo, keep=self._kept)

    def resident_blocks(self, launch: Launch) -> int:
        """Return how many blocks of a launch can be resident on its multiprocessors."""
        kernel = self.kernel(launch.symbol, launch.shared_bytes)
        block = (kernel, math.prod(launch.block), launch.shared_bytes)
        each = self.driver.get(INT, "cuOccupancyMaxActiveBlocksPerMultiprocessor", *block)
        return int(each) * self.multiprocessors

    @property
    def multiprocessors(self) -> int:
        """How many it has, of a part those of the part."""
        if self._share is not None:
            return int(self._share.multiprocessors)
        return int(
            self.driver.get(INT, "cuDeviceGetAttribute", _MULTIPROCESSOR_COUNT, self._device)
        )

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
            graph: int = self.driver.get(POINTER, "cuStreamEndCapture", stream, last=True)
        try:
            return self._new("cuGraphExecDestroy", "cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self.driver.call("cuGraphDestroy", graph)

    def kernel(self, symbol: str, shared_bytes: int) -> int:
        """Return a kernel of the code, which is loaded now: a capture or a run must not wait."""
        self.make_current()
        try:
            kernel: int = self.driver.get(
                POINTER, "cuLibraryGetKernel", self._library, symbol.encode()
            )
        except CudaError as error:
            if error.result != CudaResult.NOT_FOUND:
                raise
            raise ArtifactError(f"the code of a GPU has no kernel {symbol!r}") from error
        if shared_bytes > _LARGEST_STATIC_SHARED:
            asked = (_DYNAMIC_SHARED_BYTES, shared_bytes, kernel, self._device)
            self.driver.call("cuKernelSetAttribute", *asked)
        try:
            self.driver.get(POINTER, "cuKernelGetFunction", kernel)
        except CudaError as error:  # which the driver may find out now only
            raise self._foreign_code(error) from error
        return kernel

    def pin(self, memory: Arena) -> None:
        """Page-lock memory of the host, so that GPUs copy from and to it while kernels run."""
        self.make_current()
        self.driver.call("cuMemHostRegister_v2", memory.address, memory.bytes.nbytes, _PORTABLE)
        self._undo.append(("cuMemHostUnregister", memory.address))
        self._pinned.append(memory)

    def reach(self, other: Gpu) -> None:
        """Let this GPU copy from and to `other` directly, where the machine supports it."""
        able = self.driver.get(INT, "cuDeviceCanAccessPeer", self.index, other.index)
        if not able:
            return  # the driver copies through the host
        self.make_current()
        try:
            self.driver.call("cuCtxEnablePeerAccess", other.context, 0)
        except CudaError as error:
            if error.result != CudaResult.PEER_ACCESS_ALREADY_ENABLED:
                raise

    def _foreign_code(self, error: DeviceError) -> ArtifactError:
        place = f"cuda:{self.index} ({self.driver.arch(self.index)})"
        return ArtifactError(f"its code does not run on {place}: {error}")

    def _new(self, undo: str, name: str, *arguments: Any, kind: type[Any] = POINTER) -> int:
        made: int = self.driver.get(kind, name, *arguments)
        self._undo.append((undo, made))
        return made


def open_gpus(driver: CudaDriver, places: Sequence[GpuPlace], codes: Sequence[bytes]) -> list[Gpu]:
    """Return GPUs, or disjoint parts of them, that reach each other's memory.

    `codes` are for one each. The errors are those of `Gpu` and `split_gpu`.
    """
    split = {(place.index, place.parts) for place in places if place.parts > 1}
    shares = {key: split_gpu(driver, *key) for key in sorted(split)}
    gpus: list[Gpu] = []
    try:
        for place, code in zip(places, codes, strict=True):
            share = shares[place.index, place.parts][place.part] if place.parts > 1 else None
            gpus.append(Gpu(driver, place.index, code, share))
        for first, second in permutations(gpus, 2):
            if first.index != second.index:
                first.reach(second)
    except BaseException:
        for gpu in gpus:
            gpu.close()
        raise
    return gpus


def _release(
    driver: CudaDriver,
    context: int,
    undo: list[tuple[str, int]],
    pinned: list[Arena],
) -> None:
    """Release everything; pinned memory must live until then."""
    driver.call("cuCtxSetCurrent", context)
    try:
        _undo(driver, undo)
    finally:
        pinned.clear()


def _undo(driver: CudaDriver, undo: list[tuple[str, int]], keep: int = 0) -> None:
    """Release what was made in reverse order, but for the first `keep`.

    All of it, even where the driver refuses some; the first refusal is raised at the end.
    """
    refusals = []
    while len(undo) > keep:
        try:
            driver.call(*undo.pop())
        except DeviceError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]
