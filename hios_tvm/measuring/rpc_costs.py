"""Costs of kernels on another machine, through TVM's own RPC server or tracker.

A stock server knows nothing of this package, so TVM's time evaluator measures there: kernels find
activations and weights in the cache, and loops run on TVM's thread pool. Where a file can be run on
the deployment machine, ``hios-tvm profile`` measures what a run will take more exactly.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import rpc, te
from tvm.rpc.base import RPC_TRACKER_MAGIC
from tvm.target import Target

from hios_tvm.backends.cpu.codegen import compile_kernels
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.cpu.platform import cpu_platform
from hios_tvm.backends.interface import PhaseProgress
from hios_tvm.errors import DeviceError, UsageError
from hios_tvm.runtime.devices.kernel_calls import KernelCall, kernel_call
from hios_tvm.runtime.devices.samples import fit_link, measurement_of
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.device_names import parse_cores
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Link, Platform

SOURCE = "measured over RPC"
CONNECT_S = 10.0
SESSION_S = 600  # a session that lasts longer is ended by the server

_FILE = "hios_kernels.so"
_COPY = "hios_copy"
_COPY_BYTES = tuple(1 << k for k in range(10, 25, 2))
_REPEATS = 5
_REPEAT_MS = 5


@dataclass(frozen=True)
class RpcAddress:
    """A server, or a tracker that lends servers of `key`."""

    host: str
    port: int
    key: str = ""

    @staticmethod
    def parse(text: str, key: str = "") -> RpcAddress:
        """Read ``HOST:PORT``.

        Raises
        ------
        UsageError
            If `text` is not of that form.
        """
        host, _, port = text.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise UsageError(f"--rpc {text}: write HOST:PORT, for example board.local:9090")
        return RpcAddress(host.strip("[]"), int(port), key)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def remote_costs(
    mod: tvm.IRModule,
    graph: OperatorGraph,
    target: Target,
    devices: Sequence[str],
    address: RpcAddress,
    *,
    kernel_dir: Path | None = None,
    progress: PhaseProgress = lambda phase, done, total: None,
) -> tuple[CostTable, Platform]:
    """Measure every operator on the machine behind `address`.

    Parameters
    ----------
    mod, graph, target
        As in `collect_costs`; `target` describes the other machine.
    devices
        CPU devices of that machine. How independent they are is how well the longest kernel's
        loops scale from one core to all of theirs; transfers cost what a copying kernel takes.

    Raises
    ------
    DeviceError
        If nobody listens at `address`, the key is wrong, or the connection is lost.
    CompileError
        If a kernel cannot be compiled.
    """
    platform = cpu_platform(devices, target, measured=Platform.uniform(len(devices)))
    kernels = {g.name_hint: f for g, f in mod.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    copies = {f"{_COPY}_{nbytes}": _copying(nbytes) for nbytes in _COPY_BYTES}
    objects = compile_kernels(
        tvm.IRModule(
            {n: f.with_attr("global_symbol", n) for n, f in {**kernels, **copies}.items()}
        ),
        target,
        cache_dir=kernel_dir,
        progress=lambda done, total: progress("generate code", done, total),
    )
    library = link_library(objects.values(), target)
    with _connected(address) as session:
        remote = _Remote(session, library)
        times: dict[str, dict[str, Measurement]] = {}
        calls = {op.name: kernel_call(graph, op.name) for op in graph.operators}
        for model in dict.fromkeys(device.model for device in platform.devices):
            cores = next(len(parse_cores(d.name)) for d in platform.devices if d.model == model)
            times[model] = remote.latencies(calls, cores, progress)
        if len(devices) > 1:
            longest = max(next(iter(times.values())).items(), key=lambda item: item[1].ms)[0]
            platform = replace(
                platform,
                default_link=remote.link(),
                independence=remote.independence(calls[longest], devices),
            )
    return CostTable(times, platform=platform), platform


class _Remote:
    """The kernels on the other machine; equal calls are measured once."""

    def __init__(self, session: rpc.RPCSession, library: bytes) -> None:
        session.upload(bytearray(library), _FILE)
        self._module = session.load_module(_FILE)
        self._device = session.cpu(0)
        self._set_threads = session.get_function("runtime.config_threadpool")

    def latencies(
        self, calls: Mapping[str, KernelCall], cores: int, progress: PhaseProgress
    ) -> dict[str, Measurement]:
        known: dict[KernelCall, Measurement] = {}
        for done, call in enumerate(calls.values(), start=1):
            if call not in known:
                known[call] = self._time(call, cores)
            progress("measure", done, len(calls))
        return {name: known[call] for name, call in calls.items()}

    def link(self) -> Link:
        times = {}
        for nbytes in _COPY_BYTES:
            arrays = [self._array((nbytes // 8,), "int64") for _ in range(2)]
            times[nbytes] = self._evaluate(f"{_COPY}_{nbytes}", arrays, 1)
        return fit_link(times)

    def independence(self, call: KernelCall, devices: Sequence[str]) -> float:
        cores = sum(len(parse_cores(name)) for name in devices)
        alone, together = self._time(call, 1).ms, self._time(call, cores).ms
        return min(1.0, alone / cores / together)

    def _time(self, call: KernelCall, cores: int) -> Measurement:
        arrays = [self._array(arg.shape, arg.dtype) for arg in call.args]
        return self._evaluate(call.kernel, arrays, cores)

    def _evaluate(self, kernel: str, arrays: Sequence[Any], cores: int) -> Measurement:
        self._set_threads(1, cores)
        evaluate = self._module.time_evaluator(
            kernel, self._device, number=1, repeat=_REPEATS, min_repeat_ms=_REPEAT_MS
        )
        return measurement_of((1e9 * s for s in evaluate(*arrays).results), SOURCE)

    def _array(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Upload small random floats, or zeros: valid input for every kernel."""
        numbers = np.zeros(shape, numpy_dtype(dtype))
        if dtype in ("float32", "float64"):
            numbers += np.random.default_rng(0).uniform(0.01, 0.1, shape).astype(dtype)
        return tvm.runtime.tensor(numbers, self._device)


def _copying(nbytes: int) -> tvm.tirx.PrimFunc:
    source = te.placeholder((nbytes // 8,), "int64", name="source")
    words = te.compute(source.shape, lambda i: source[i], name="copy")
    return te.create_prim_func([source, words])


@contextmanager
def _connected(address: RpcAddress) -> Iterator[rpc.RPCSession]:
    """Connect to a server or through a tracker; whatever goes wrong is one `DeviceError`."""
    session = _connect(address)
    try:
        yield session
    except (OSError, EOFError, RuntimeError, tvm.error.RPCError) as error:
        raise DeviceError(
            f"measuring at {address} failed: {_reason(error)}; is the server still there, and its "
            "TVM of this version?"
        ) from error


def _connect(address: RpcAddress) -> rpc.RPCSession:
    try:
        if not _is_tracker(address):
            return rpc.connect(address.host, address.port, address.key, session_timeout=SESSION_S)
        tracker = rpc.connect_tracker(address.host, address.port)
        _check_key(tracker, address)
        return tracker.request(address.key, session_timeout=SESSION_S, max_retry=1)
    except DeviceError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, tvm.error.RPCError) as error:
        raise DeviceError(
            f"{address} refuses the key {address.key!r}: {_reason(error)}; give the server's with "
            "--rpc-key"
        ) from error


def _is_tracker(address: RpcAddress) -> bool:
    """Greet as a client of trackers: a tracker returns the greeting, a server hangs up."""
    try:
        with socket.create_connection((address.host, address.port), timeout=CONNECT_S) as peer:
            peer.sendall(struct.pack("<i", RPC_TRACKER_MAGIC))
            return peer.recv(4) == struct.pack("<i", RPC_TRACKER_MAGIC)
    except ConnectionResetError:
        return False
    except OSError as error:
        raise DeviceError(
            f"nobody answers at {address}: {error.strerror or error}; start "
            "python -m tvm.exec.rpc_server there"
        ) from error


def _check_key(tracker: rpc.TrackerSession, address: RpcAddress) -> None:
    """Asking a tracker for a key that no server has would wait for one."""
    servers = tracker.summary()["server_info"]
    keys = sorted({str(server["key"]).removeprefix("server:") for server in servers})
    if address.key not in keys:
        raise DeviceError(
            f"the tracker at {address} has no server with the key {address.key!r}; it has "
            f"{', '.join(map(repr, keys)) or 'none'}: give one with --rpc-key"
        )


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
