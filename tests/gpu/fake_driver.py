"""A stand-in for NVIDIA's driver library: streams, events and copies, in this process's memory.

A thread executes what is in the streams, as the driver would: in the order of each stream, behind
the events that it waits for, and otherwise at random. Kernels run in the emulator. Every operation
also remembers which others must have ended before, so that a test can ask whether two that touch
the same bytes are ordered in every legal interleaving, and not in this one only.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from driver_api import ARGUMENTS
from emulator import EmulatedCode

Span = tuple[int, int]
_MULTIPROCESSORS = 108


@dataclass(eq=False)
class Operation:
    """What a stream executes; `before` is the bit set of operations that end earlier, always."""

    number: int
    kind: str
    stream: int
    action: Callable[[], None]
    reads: list[Span] = field(default_factory=list)
    writes: list[Span] = field(default_factory=list)
    awaits: Operation | None = None
    before: int = 0
    done: bool = False
    ended: float = 0.0


class PartsProbe:
    """The kernel of scripts/gpu_parts.py, whose PTX cannot be executed here."""

    def __init__(self) -> None:
        self.dll = SimpleNamespace(launch_record_multiprocessors=None)
        self.parameters = {"record_multiprocessors": 1}

    def record(self, counts: int, units: range) -> None:
        """Count a block on each multiprocessor that the stream may use."""
        for unit in units:
            ctypes.c_uint.from_address(counts + 4 * unit).value += 1


class FakeDriver:
    """Has the functions of libcuda as attributes, as `ctypes.CDLL` would."""

    def __init__(self, gpus: int, seed: int = 0, fail: dict[str, int] | None = None) -> None:
        self.gpus = gpus
        self.log: list[Operation] = []
        self.allocated: dict[int, np.ndarray] = {}
        self.access: dict[str, list[tuple[int, bool]]] = {}
        self.failures = dict(fail or {})
        self.unordered_waits = 0
        self.split: list[int] = []
        self.splits_finely = True  # as newer drivers
        self.contexts_made = 0
        self.streams_of_parts = 0
        self.captures = True
        self.feeders: set[int] = set()  # threads that have started kernels or graphs
        self.hang: threading.Event | None = None  # the next kernels wait for it
        self._random = random.Random(seed)
        self._handles = itertools.count(1000)
        self._queues: dict[int, deque[Operation]] = {}
        self._last: dict[int, Operation] = {}
        self._recorded: dict[int, Operation] = {}
        self._libraries: dict[int, EmulatedCode | PartsProbe] = {}
        self._graph: list[Operation] | None = None
        self._graphs: dict[int, list[Operation]] = {}
        self._capturing: set[int] = set()
        self._kernels: dict[int, tuple[EmulatedCode | PartsProbe, str]] = {}
        self._units: dict[int, range] = {}  # multiprocessors of parts
        self._part_of_stream: dict[int, range] = {}
        self.confines = True  # streams to the multiprocessors of their part
        self._current = threading.local()  # the context of each thread
        self._peers: set[tuple[int, int]] = set()
        self._condition = threading.Condition()
        self._kept: list[Any] = []
        for name, arguments in ARGUMENTS.items():
            method = getattr(self, f"_{name.removesuffix('_v2')}")
            setattr(self, name, self._exported(name, method, arguments))
        threading.Thread(target=self._execute, daemon=True).start()

    def hazards(self) -> list[tuple[str, str]]:
        """Pairs of operations on the same bytes, one of them a write, in no fixed order."""
        found = []
        for later in self.log:
            for earlier in self.log[: later.number]:
                if later.before >> earlier.number & 1:
                    continue
                touches = _overlap(earlier.writes, later.reads + later.writes)
                if touches or _overlap(earlier.reads, later.writes):
                    found.append((earlier.kind, later.kind))
        return found

    def forget(self) -> None:
        """Forget what was executed: the next operations are those of another run."""
        with self._condition:
            assert not any(self._queues.values())
            self.log.clear()
            self._last.clear()
            self._recorded.clear()

    def _exported(self, name: str, method: Callable[..., int], arguments: tuple[Any, ...]) -> Any:
        def call(*values: Any) -> int:
            if self.failures.get(name):
                self.failures[name] -= 1
                if not self.failures[name]:
                    return 719
            return method(*values) or 0

        function = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(call)
        self._kept.append(function)
        return function

    def _enqueue(self, kind: str, stream: int, action: Callable[[], None], **kind_of: Any) -> None:
        with self._condition:
            log = self.log if self._graph is None else self._graph
            operation = Operation(len(log), kind, stream, action, **kind_of)
            if self._graph is not None:
                joins = operation.awaits is not None and operation.awaits in self._graph
                assert stream in self._capturing or joins, f"{kind} is not part of the capture"
                self._capturing.add(stream)
            for other in (self._last.get(stream), operation.awaits):
                if other is not None:
                    operation.before |= other.before | 1 << other.number
            self._last[stream] = operation
            log.append(operation)
            if self._graph is not None:
                return
            self._queues[stream].append(operation)
            self._condition.notify_all()

    def _execute(self) -> None:
        while True:
            with self._condition:
                heads = [queue[0] for queue in self._queues.values() if queue]
                ready = [o for o in heads if o.awaits is None or o.awaits.done]
                if not ready:
                    self._condition.wait()
                    continue
                operation = self._random.choice(ready)
            operation.action()
            with self._condition:
                operation.done, operation.ended = True, time.monotonic()
                self._queues[operation.stream].popleft()
                self._condition.notify_all()

    def _is_fed(self) -> None:
        assert self._current.context, "no context is current in this thread"
        self.feeders.add(threading.get_ident())

    def _handle(self, result: int, value: int | None = None) -> int:
        handle = next(self._handles) if value is None else value
        ctypes.c_uint64.from_address(result).value = handle
        return handle

    def _cuInit(self, flags: int) -> None:
        pass

    def _cuGetErrorString(self, status: int, result: int) -> None:
        text = ctypes.c_char_p(b"a failure that was asked for")
        self._kept.append(text)
        ctypes.c_char_p.from_address(result).value = text.value

    def _cuDeviceGet(self, result: int, index: int) -> None:
        ctypes.c_int.from_address(result).value = index

    def _cuDeviceGetCount(self, result: int) -> None:
        ctypes.c_int.from_address(result).value = self.gpus

    def _cuDeviceGetAttribute(self, result: int, attribute: int, device: int) -> None:
        ctypes.c_int.from_address(result).value = {75: 8, 76: 0, 16: _MULTIPROCESSORS}[attribute]

    def _cuDeviceCanAccessPeer(self, result: int, device: int, other: int) -> None:
        ctypes.c_int.from_address(result).value = 1

    def _cuDevicePrimaryCtxRetain(self, result: int, device: int) -> None:
        self.contexts_made += 1
        self._handle(result, 1 + device)

    def _cuCtxSetCurrent(self, context: int) -> None:
        self._current.context = context

    def _cuCtxPushCurrent(self, context: int) -> None:
        before = getattr(self._current, "context", None)
        self._current.below = [*getattr(self._current, "below", []), before]
        self._current.context = context

    def _cuCtxPopCurrent(self, result: int) -> None:
        ctypes.c_uint64.from_address(result).value = self._current.context
        self._current.context = self._current.below.pop()

    def _cuCtxEnablePeerAccess(self, context: int, flags: int) -> int:
        pair = (self._current.context, context)
        if pair in self._peers:
            return 704  # CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED
        self._peers.add(pair)
        return 0

    def _cuMemAlloc(self, result: int, nbytes: int) -> None:
        memory = np.full(nbytes, 0xFF, np.uint8)  # NaN, where it is read before it is written
        self.allocated[self._handle(result, memory.ctypes.data)] = memory

    def _cuMemFree(self, address: int) -> None:
        del self.allocated[address]

    def _cuOccupancyMaxActiveBlocksPerMultiprocessor(
        self, result: int, kernel: int, threads: int, shared_bytes: int
    ) -> None:
        assert kernel in self._kernels
        ctypes.c_int.from_address(result).value = 2048 // threads

    def _cuMemcpyHtoD(self, destination: int, source: int, nbytes: int) -> None:
        ctypes.memmove(destination, source, nbytes)

    def _cuMemHostRegister(self, address: int, nbytes: int, flags: int) -> None:
        pass

    def _cuMemHostUnregister(self, address: int) -> None:
        pass

    def _cuLibraryLoadData(self, result: int, code: int, *options: int | None) -> None:
        assert options == (None, None, 0) * 2
        source = ctypes.string_at(code).decode()
        made = PartsProbe() if source.startswith(".version") else EmulatedCode(source)
        self._libraries[self._handle(result)] = made

    def _cuLibraryUnload(self, library: int) -> None:
        del self._libraries[library]

    def _cuLibraryGetKernel(self, result: int, library: int, name: bytes) -> int:
        code = self._libraries[library]
        if not hasattr(code.dll, f"launch_{name.decode()}"):
            return 500
        self._kernels[self._handle(result)] = (code, name.decode())
        return 0

    def _cuKernelSetAttribute(self, attribute: int, value: int, kernel: int, device: int) -> None:
        assert kernel in self._kernels and device < self.gpus

    def _cuKernelGetFunction(self, result: int, kernel: int) -> None:
        assert kernel in self._kernels and self._current.context
        self._handle(result)

    def _cuStreamCreate(self, result: int, flags: int) -> None:
        with self._condition:
            self._queues[self._handle(result)] = deque()

    def _cuStreamDestroy(self, stream: int) -> None:
        with self._condition:
            assert not self._queues.pop(stream)

    def _cuDeviceGetDevResource(self, device: int, result: int, kind: int) -> None:
        ctypes.c_uint.from_address(result + 96).value = _MULTIPROCESSORS

    def _cuDevSmResourceSplitByCount(
        self, result: int, count: int, whole: int, rest: int | None, flags: int, least: int
    ) -> int:
        """As the driver: sizes are in steps, and there may be fewer groups than asked for."""
        if flags and not self.splits_finely:
            return 1
        step = 2 if flags else 8
        size = -(-least // step) * step
        total = ctypes.c_uint.from_address(whole + 96).value
        groups = min(ctypes.c_uint.from_address(count).value, total // size)
        for i in range(groups):
            ctypes.c_uint.from_address(result + 144 * i).value = 1
            ctypes.c_uint.from_address(result + 144 * i + 96).value = size
            ctypes.c_uint.from_address(result + 144 * i + 100).value = i * size  # the first one
        ctypes.c_uint.from_address(count).value = groups
        return 0 if groups else 914

    def _cuDevResourceGenerateDesc(self, result: int, resources: int, count: int) -> None:
        size, first = (ctypes.c_uint.from_address(resources + at).value for at in (96, 100))
        self.split.append(size)
        self._units[self._handle(result)] = range(first, first + size)

    def _cuGreenCtxCreate(self, result: int, words: int, device: int, flags: int) -> None:
        self._units[self._handle(result)] = self._units[words]

    def _cuGreenCtxDestroy(self, context: int) -> None:
        pass

    def _cuGreenCtxStreamCreate(self, result: int, context: int, flags: int, priority: int) -> None:
        self._cuStreamCreate(result, flags)
        self.streams_of_parts += 1
        if self.confines:
            stream = ctypes.c_uint64.from_address(result).value
            self._part_of_stream[stream] = self._units[context]

    def _cuEventCreate(self, result: int, flags: int) -> None:
        self._handle(result)

    def _cuEventDestroy(self, event: int) -> None:
        self._recorded.pop(event, None)

    def _cuLaunchKernel(self, kernel: int, *rest: int) -> None:
        *sizes, shared_bytes, stream, params, _extra = rest
        self._is_fed()
        code, symbol = self._kernels[kernel]
        units = self._part_of_stream.get(stream, range(_MULTIPROCESSORS))
        access = self.access.get(symbol, [])
        count = code.parameters[symbol]
        slots = (ctypes.c_void_p * count).from_address(params)
        values = [ctypes.c_void_p.from_address(slot).value or 0 for slot in slots]  # copied now

        def run() -> None:
            if self.hang is not None:
                self.hang.wait()
            kept = [ctypes.c_void_p(value) for value in values]
            copied = (ctypes.c_void_p * count)(*map(ctypes.addressof, kept))
            if isinstance(code, PartsProbe):
                code.record(values[0], units)
            else:
                code.launch(symbol, sizes[:3], sizes[3:], shared_bytes, copied)

        spans = [
            (value, value + nbytes) for value, (nbytes, _) in zip(values, access, strict=False)
        ]
        written = [writes for _, writes in access]
        self._enqueue(
            symbol,
            stream,
            run,
            reads=[span for span, writes in zip(spans, written, strict=True) if not writes],
            writes=[span for span, writes in zip(spans, written, strict=True) if writes],
        )

    def _cuMemcpyAsync(self, destination: int, source: int, nbytes: int, stream: int) -> None:
        self._enqueue(
            "copy",
            stream,
            lambda: ctypes.memmove(destination, source, nbytes),
            reads=[(source, source + nbytes)],
            writes=[(destination, destination + nbytes)],
        )

    def _cuMemcpyPeerAsync(
        self, destination: int, to: int, source: int, origin: int, nbytes: int, stream: int
    ) -> None:
        assert to and origin and to != origin
        self._cuMemcpyAsync(destination, source, nbytes, stream)

    def _cuEventRecord(self, event: int, stream: int) -> None:
        self._enqueue("record", stream, lambda: None)
        self._recorded[event] = self._last[stream]

    def _cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        recorded = self._recorded.get(event)
        self.unordered_waits += recorded is None
        self._enqueue("wait", stream, lambda: None, awaits=recorded)

    def _cuEventElapsedTime(self, result: int, first: int, second: int) -> None:
        times = [self._recorded[event].ended for event in (first, second)]
        ctypes.c_float.from_address(result).value = 1e3 * (times[1] - times[0])

    def _cuStreamBeginCapture(self, stream: int, mode: int) -> int:
        if not self.captures:
            return 801
        assert self._graph is None
        self._graph, self._capturing = [], {stream}
        return 0

    def _cuStreamEndCapture(self, stream: int, result: int) -> int:
        graph, self._graph = self._graph, None
        assert graph is not None
        # All that was captured must have joined the stream that the capture began with
        joined = self._last[stream]
        for operation in graph:
            assert operation is joined or joined.before >> operation.number & 1, operation.kind
        self._last = {}
        self._recorded = {}
        self._graphs[self._handle(result)] = graph
        return 0

    def _cuGraphInstantiateWithFlags(self, result: int, graph: int, flags: int) -> None:
        self._graphs[self._handle(result)] = self._graphs[graph]

    def _cuGraphDestroy(self, graph: int) -> None:
        del self._graphs[graph]

    def _cuGraphExecDestroy(self, graph: int) -> None:
        del self._graphs[graph]

    def _cuGraphLaunch(self, graph: int, stream: int) -> None:
        """Put the nodes into streams again; a last one lets `stream` wait for them all."""
        self._is_fed()
        first = self._last.get(stream)
        copies: dict[int, Operation] = {}
        for node in self._graphs[graph]:
            awaits = first if node.awaits is None else copies[node.awaits.number]
            self._enqueue(
                node.kind,
                node.stream,
                node.action,
                reads=node.reads,
                writes=node.writes,
                awaits=awaits,
            )
            copies[node.number] = self._last[node.stream]
        self._enqueue("join", stream, lambda: None, awaits=copies[max(copies)])

    def _cuLaunchHostFunc(self, stream: int, function: int, data: int) -> None:
        callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)
        self._enqueue("host", stream, lambda: callback(data))

    def _cuStreamSynchronize(self, stream: int) -> None:
        with self._condition:
            while self._queues.get(stream):  # the default stream has no queue
                self._condition.wait()

    def _cuStreamQuery(self, stream: int) -> int:
        with self._condition:  # waits a little, for the interpreter executes streams meanwhile
            is_empty = self._condition.wait_for(lambda: not self._queues[stream], timeout=0.0002)
            return 0 if is_empty else 600


def _overlap(first: list[Span], second: list[Span]) -> bool:
    return any(a < d and c < b for a, b in first for c, d in second)
