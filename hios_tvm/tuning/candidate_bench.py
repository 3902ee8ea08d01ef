"""Candidates are built, checked and timed; a process of their own may crash or hang."""

import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import IRModule
from tvm.target import Target

from hios_tvm.backends.cpu.codegen import compile_kernels
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.cpu.tuning_database import Trial
from hios_tvm.errors import CompileError, HiosError
from hios_tvm.measuring.latency import measure_in_turn
from hios_tvm.passes.apply_traces import apply_trace
from hios_tvm.passes.schedule_kernels import Packing
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram, core_tasks
from hios_tvm.runtime.devices.cpu.kernels import measure_kernels
from hios_tvm.runtime.devices.kernel_calls import KernelCall
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.memory import TensorTable, address_of, aligned_empty
from hios_tvm.runtime.native import load_library
from hios_tvm.schema.graph import Tensor
from hios_tvm.schema.program import Call
from hios_tvm.verification.deviation import SINGLE, deviations
from hios_tvm.verification.inputs import random_inputs

_KERNEL = "kernel"
_TIMEOUT_S = 60.0
_TURNS = 7


@dataclass(frozen=True)
class _Job:
    """What the other process is asked: times of kernels that give the results of `default`."""

    default: bytes
    timed: tuple[bytes, ...]
    turns: int


@dataclass(frozen=True)
class _Calls:
    """How candidates and the default kernel are called, whose constants are packed."""

    candidate: KernelCall
    default: KernelCall
    packings: Mapping[int, Packing]

    def packed(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the default kernel's inputs for those of candidates."""
        return {**inputs} | {str(i): pack(inputs[str(i)]) for i, pack in self.packings.items()}


class CandidateBench:
    """Times candidates of one kernel as the default kernel is timed.

    Parameters
    ----------
    kernel : tirx.PrimFunc
        The kernel before any rule has scheduled it.
    default : tirx.PrimFunc
        What the rules made of it.
    call : KernelCall
        How `default` is called.
    cores
        Of the device that it runs on.
    packings
        How constants that `kernel` reads are packed for `default`, by parameter.
    """

    def __init__(
        self,
        kernel: tirx.PrimFunc,
        default: tirx.PrimFunc,
        call: KernelCall,
        target: Target,
        cores: tuple[int, ...],
        packings: Mapping[int, Packing] = MappingProxyType({}),
    ) -> None:
        self._kernel = kernel
        self._target = target
        self._default = self._library(default)
        shapes = [tuple(map(int, param.shape)) for param in kernel.params]
        args = [replace(arg, shape=s) for arg, s in zip(call.args, shapes, strict=True)]
        calls = _Calls(
            KernelCall(_KERNEL, tuple(args)), replace(call, kernel=_KERNEL), dict(packings)
        )
        self._worker = _Worker(calls, cores)

    def close(self) -> None:
        """End the process that measures."""
        self._worker.close()

    def build(self, traces: Sequence[str]) -> list[bytes | str]:
        """Compile candidates, in parallel; what fails is the reason."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self._build, traces))

    def measure(self, trace: str, library: bytes | str) -> Trial:
        """Check a candidate's results against the default kernel's, and time it."""
        if isinstance(library, str):
            return Trial(trace, None, library)
        times = self._worker.ask(_Job(self._default, (library,), turns=1))
        return Trial(trace, None, times) if isinstance(times, str) else Trial(trace, times[0])

    def compare(self, traces: Sequence[str]) -> list[float]:
        """Return the times of the default kernel and of candidates, measured in turns, in ms.

        The best of some turns counts: other processes only ever make a kernel slower.
        """
        built = self.build(traces)
        libraries = [library for library in built if isinstance(library, bytes)]
        if len(libraries) < len(built):
            raise CompileError("a kernel that was measured before cannot be built again")
        times = self._worker.ask(_Job(self._default, (self._default, *libraries), _TURNS))
        if isinstance(times, str):
            raise CompileError(f"kernels that were measured before fail together: {times}")
        return times

    def _build(self, trace: str) -> bytes | str:
        try:
            return self._library(apply_trace(self._kernel, trace))
        except HiosError as error:
            return str(error)

    def _library(self, kernel: tirx.PrimFunc) -> bytes:
        objects = compile_kernels(IRModule({_KERNEL: kernel}), self._target)
        return link_library(objects.values(), self._target)


class _Worker:
    """A process that times kernels; it is started when it is needed, and again after a crash."""

    def __init__(self, calls: _Calls, cores: tuple[int, ...]) -> None:
        self._arguments = (calls, cores)
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Connection | None = None

    def ask(self, job: _Job) -> list[float] | str:
        """Return milliseconds of each library, or why there are none."""
        if self._connection is None:
            self._start()
        connection = self._connection
        assert connection is not None
        try:
            connection.send(job)
            if connection.poll(_TIMEOUT_S):
                answer: list[float] | str = connection.recv()
                return answer
            answer = f"took longer than {_TIMEOUT_S:.0f} s"
        except (EOFError, OSError):
            self._process.join(1.0)
            answer = f"crashed with exit code {self._process.exitcode}"
        self.close()
        return answer

    def close(self) -> None:
        """End the process."""
        if self._connection is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._connection = None

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(theirs, *self._arguments), daemon=True
        )
        self._process.start()
        theirs.close()


def _serve(connection: Connection, calls: _Calls, cores: tuple[int, ...]) -> None:
    """Answer jobs until the other end is closed, also by its death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both; the owner decides
    args = calls.candidate.args
    outputs = [arg for arg in args if arg.role == "output"]
    specs = [Tensor(str(i), arg.shape, arg.dtype) for i, arg in enumerate(args)]
    inputs = random_inputs(specs[: len(args) - len(outputs)], seed=0)
    known: dict[bytes, dict[str, np.ndarray]] = {}
    while True:
        try:
            job: _Job = connection.recv()
        except EOFError:
            return
        try:
            if job.default not in known:
                packed = calls.packed(inputs)
                known[job.default] = _outputs(job.default, calls.default, cores, packed)
            connection.send(_answer(job, calls, cores, inputs, known[job.default]))
        except HiosError as error:
            connection.send(str(error))


def _answer(
    job: _Job,
    calls: _Calls,
    cores: tuple[int, ...],
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
) -> list[float] | str:
    call_of = {library: calls.candidate for library in job.timed} | {job.default: calls.default}
    for library in job.timed:
        if library == job.default:
            continue
        actual = _outputs(library, calls.candidate, cores, inputs)
        for deviation in deviations(actual, expected):
            if not deviation.within(SINGLE):
                error = deviation.max_error
                return f"its results differ from the default kernel's by {error:.1e} of the largest"

    def burst(library: bytes, _: Sequence[float]) -> list[float]:
        return [measure_kernels(library, [(call_of[library], cores)])[0].ms]

    bursts = [partial(burst, library) for library in job.timed]
    times = measure_in_turn(bursts, lambda turn, _: turn == job.turns)
    return [min(own) for own in times]


def _outputs(
    library: bytes, call: KernelCall, cores: tuple[int, ...], inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run a kernel once on `inputs`, which are named by their places."""
    loaded = load_library(library)
    arrays = {str(i): aligned_empty(arg.shape, arg.dtype) for i, arg in enumerate(call.args)}
    for name, array in arrays.items():
        if name in inputs:
            array[...] = inputs[name]
        else:
            array.reshape(-1).view(np.uint8).fill(0xFF)  # what is not written is no number
    specs = [(arg.shape, arg.dtype) for arg in call.args]
    tensors = TensorTable(dict(zip(arrays, specs, strict=True)))
    for name, array in arrays.items():
        tensors.place(name, address_of(array))
    steps = [Call(call.kernel, call.kernel, tuple(arrays), len(arrays) - len(inputs))]
    tasks = core_tasks([CpuProgram(call.kernel, cores, steps, loaded)])
    with closing(Executor(tasks, tensors, memory=arrays)) as executor:
        executor.run()
    return {name: array for name, array in arrays.items() if name not in inputs}
