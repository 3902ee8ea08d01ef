"""A loaded artifact that can be run."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hios_tvm.errors import ArtifactError, DeviceError, InputError
from hios_tvm.runtime.devices.claims import claim_cores
from hios_tvm.runtime.devices.cpu import require_cores, share_cores
from hios_tvm.runtime.devices.cuda import load_driver
from hios_tvm.runtime.executor import DEFAULT_SPIN_US, Executor, Task, Work
from hios_tvm.runtime.gpu import GpuTask, GraphTask
from hios_tvm.runtime.gpu_session import SessionGpus
from hios_tvm.runtime.memory import Arena, TensorTable, address_of, aligned_empty
from hios_tvm.runtime.native import load_library
from hios_tvm.runtime.read_artifact import Artifact, open_artifact
from hios_tvm.runtime.trace import RunTrace, make_spans
from hios_tvm.schema.device_names import device_kind
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import ALIGNMENT, DeviceSpec, Manifest, TensorSpec

__all__ = ["Session", "load"]

Array = np.ndarray[Any, Any]


def load(
    path: str | os.PathLike[str],
    *,
    devices: Mapping[str, str] | Sequence[str] | None = None,
    verify_key: str | os.PathLike[str] | None = None,
    exclusive: bool = False,
    spin_us: float = DEFAULT_SPIN_US,
    gpu_trace: bool = False,
    cuda_graph: bool = False,
) -> Session:
    """Load an artifact, after it has been verified whole.

    Parameters
    ----------
    path
        A ``.hios`` file. It must not be changed in place while sessions use it: its weights stay
        mapped. Replacing it, as ``hios-tvm compile`` does, is fine.
    devices
        Other devices than those that the artifact was compiled for, of the same kinds and with
        as many cores: a mapping from the artifact's names, or all of them in its order.
    verify_key : path, optional
        File of an Ed25519 public key (PEM): an artifact that its owner did not sign
        (``hios-tvm sign``) is refused before anything else of the file is used.
    exclusive : bool
        Have the devices' cores for this process alone, among those that use this runtime. Without
        it a core that another process uses too is logged as a warning.
    spin_us : float
        How long a worker polls for another one, or for the next run, before it sleeps. Less saves
        power where runs are far apart, and makes each begin later.
    gpu_trace : bool
        Let traces have the kernels and copies of GPUs; it costs some microseconds for each.
    cuda_graph : bool
        Let the driver start all work of the GPUs at once, as one graph. No CPU may have work, and
        traces know nothing of the GPUs.

    Raises
    ------
    ArtifactError
        If the file is damaged, was made for another version or CPU, or is not the key's.
    UsageError
        If `verify_key` is no such key, or the package cryptography is missing.
    DeviceError
        If this process may not use a device, or another one has it for itself.
    """
    artifact = open_artifact(path, verify_key=verify_key)
    try:
        return Session(
            artifact,
            devices=devices,
            exclusive=exclusive,
            spin_us=spin_us,
            gpu_trace=gpu_trace,
            cuda_graph=cuda_graph,
        )
    except ArtifactError as error:
        command = artifact.manifest.rebuild_command
        raise ArtifactError(f"{path}: {error}; make it again with {command!r}") from error


class Session:
    """An artifact with its memory and one worker thread per stream; use `load`.

    Runs may be started from several threads, and take turns. A session that is no longer
    referenced closes itself.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        devices: Mapping[str, str] | Sequence[str] | None = None,
        exclusive: bool = False,
        spin_us: float = DEFAULT_SPIN_US,
        gpu_trace: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        self.manifest = artifact.manifest
        self._lock = threading.Lock()
        self._device_names = _map_devices(self.manifest, devices)
        self._weights = artifact.weights
        self._tensors = TensorTable(
            {buffer.name: (buffer.shape, buffer.dtype) for buffer in self.manifest.buffers}
        )
        self._arenas = {
            device.name: _make_arena(device)
            for device in self.manifest.devices
            if device.kind == "cpu"
        }
        self._place_buffers()
        self._staging: dict[str, Array] = {}
        self._gpus: SessionGpus | None = None
        tasks = _tasks(artifact, self._device_names)
        self._claim = claim_cores((c for task in tasks for c in task.cores), exclusive=exclusive)
        weakref.finalize(self, self._claim.release)
        gpu_tasks: list[GpuTask] = []
        if any(device.kind == "cuda" for device in self.manifest.devices):
            self._gpus = SessionGpus(
                artifact, self._device_names, self._tensors, self._arenas, load_driver()
            )
            gpu_tasks = self._gpus.tasks(trace=gpu_trace and not cuda_graph)
        self._traced = {task.device: len(tasks) + i for i, task in enumerate(gpu_tasks)}
        work: list[Work] = [*tasks, *gpu_tasks]
        if cuda_graph:
            if tasks or not gpu_tasks:
                raise DeviceError("a CUDA graph needs all operators on GPUs: leave cuda_graph out")
            work, self._traced = [GraphTask(gpu_tasks)], {}
        self._executor = Executor(
            work,
            self._tensors,
            memory=(self._arenas, self._weights),
            spin_us=spin_us,
        )
        self._span = (0, 0)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` needs."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self.manifest.outputs

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that are used, in the order of the manifest's."""
        return tuple(self._device_names.values())

    @property
    def traced_devices(self) -> tuple[str, ...]:
        """The artifact's devices whose work traces show: GPUs only where `gpu_trace` was given."""
        gpus = self._traced if self._gpus is not None and self._gpus.is_tracing else {}
        return tuple(
            device.name
            for device in self.manifest.devices
            if device.kind == "cpu" or device.name in gpus
        )

    def run(self, inputs: Mapping[str, Array], *, timeout: float | None = None) -> dict[str, Array]:
        """Run the model once.

        Parameters
        ----------
        inputs
            An array for each input, of exactly its shape and dtype. Arrays that are contiguous
            and aligned to 64 bytes (`aligned_empty`) are used in place: do not change them
            before the run has ended.
        timeout : float, optional
            Seconds after which the run is given up.

        Returns
        -------
        dict
            A new array for each output, which belongs to the caller.

        Raises
        ------
        InputError
            If inputs are missing, unknown, or of a wrong shape or dtype; it lists all of them.
        ExecutionError
            If a kernel fails; the session works again afterwards.
        RunTimeoutError
            If `timeout` is over. If a kernel hangs, the session is closed.
        SessionClosedError
            If the session is closed, or belongs to the parent of this process.
        """
        self._executor.require_open()  # before the lock, which a fork may have copied locked
        _check_inputs(self.inputs, inputs)
        with self._lock:
            return self._run(inputs, timeout)

    def run_traced(
        self, inputs: Mapping[str, Array], *, timeout: float | None = None
    ) -> tuple[dict[str, Array], RunTrace]:
        """Run the model once, and return the outputs and what happened when."""
        self._executor.require_open()
        _check_inputs(self.inputs, inputs)
        with self._lock:
            outputs = self._run(inputs, timeout)
            return outputs, self._last_trace()

    def last_trace(self) -> RunTrace:
        """Return what happened when in the latest run."""
        with self._lock:
            return self._last_trace()

    def busy_ms(self) -> dict[str, float]:
        """Return the milliseconds that each device spent in kernels and copies, latest run."""
        return self.last_trace().milliseconds("call", "copy")

    def copy_ms(self) -> dict[str, float]:
        """Return the milliseconds that each device spent in copies, latest run."""
        return self.last_trace().milliseconds("copy")

    def close(self) -> None:
        """End the worker threads, after the run that is going on. Closing twice is fine."""
        if self._executor.is_forked:
            return  # the threads are the parent's, and the lock may have been copied locked
        with self._lock:
            self._executor.close()
            if self._gpus is not None and self._executor.is_stuck:
                self._gpus.abandon()
            elif self._gpus is not None:
                self._gpus.close()
            self._claim.release()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, inputs: Mapping[str, Array], timeout: float | None) -> dict[str, Array]:
        held = [self._place_input(spec, inputs[spec.name]) for spec in self.inputs]
        outputs = {}
        for spec in self.outputs:
            if spec.buffer not in outputs and self._space(spec) == "output":
                outputs[spec.buffer] = aligned_empty(spec.shape, spec.dtype)
                if self._pinned(spec) is None:
                    self._tensors.place(spec.buffer, address_of(outputs[spec.buffer]))
        start = time.monotonic_ns()
        self._executor.run(timeout, held=(held, outputs))
        for spec in self.outputs:
            pinned = self._pinned(spec)
            if pinned is not None and spec.buffer in outputs:
                outputs[spec.buffer][...] = pinned
        self._span = (start, time.monotonic_ns())
        results: dict[str, Array] = {}
        for spec in self.outputs:
            array = outputs.pop(spec.buffer, None)
            results[spec.name] = self._copy_of(spec, results, inputs) if array is None else array
        return results

    def _place_input(self, spec: TensorSpec, array: Array) -> Array:
        """Let kernels read `array`, or a copy that is aligned; return what must be kept."""
        pinned = self._pinned(spec)
        if pinned is not None:
            pinned[...] = array
            return pinned
        if not array.flags.c_contiguous or address_of(array) % ALIGNMENT:
            if spec.name not in self._staging:
                self._staging[spec.name] = aligned_empty(spec.shape, spec.dtype)
            self._staging[spec.name][...] = array
            array = self._staging[spec.name]
        self._tensors.place(spec.buffer, address_of(array))
        return array

    def _copy_of(
        self, spec: TensorSpec, results: Mapping[str, Array], inputs: Mapping[str, Array]
    ) -> Array:
        """Return an output that no kernel has written for it alone."""
        for other in self.outputs:
            if other.buffer == spec.buffer and other.name in results:
                return results[other.name].copy()
        for source in self.inputs:
            if source.buffer == spec.buffer:
                return inputs[source.name].copy()
        assert self._weights is not None
        array = self._weights.array(spec.buffer).view(numpy_dtype(spec.dtype))
        return array.reshape(spec.shape).copy()

    def _pinned(self, spec: TensorSpec) -> Array | None:
        """Return the memory through which GPUs read or write an input or output, if any does."""
        return None if self._gpus is None else self._gpus.staging.get(spec.buffer)

    def _space(self, spec: TensorSpec) -> str:
        return self.manifest.buffer[spec.buffer].space

    def _place_buffers(self) -> None:
        for buffer in self.manifest.buffers:
            if buffer.device is not None and buffer.device not in self._arenas:
                continue  # on a GPU
            if buffer.space == "arena":
                assert buffer.device is not None and buffer.offset is not None
                address = self._arenas[buffer.device].address + buffer.offset
                self._tensors.place(buffer.name, address)
            elif buffer.space == "param":
                assert self._weights is not None
                self._tensors.place(buffer.name, self._weights.address(buffer.name))

    def _last_trace(self) -> RunTrace:
        spans = []
        on_cpus = [p for p in self.manifest.programs if p.device in self._arenas]
        for i, program in enumerate(on_cpus):
            spans += make_spans(program, self._executor.times(i))
        if self._gpus is not None:
            # A worker's third time is when it had waited for the clock of its GPU
            clock_ns = {name: int(self._executor.times(i)[2]) for name, i in self._traced.items()}
            spans += self._gpus.spans(clock_ns, self._span[1])
        return RunTrace(tuple(spans), *self._span)


def _make_arena(device: DeviceSpec) -> Arena:
    try:
        return Arena(device.arena_bytes)
    except (OSError, OverflowError, ValueError) as error:
        raise DeviceError(
            f"device {device.name!r} needs {device.arena_bytes} bytes for buffers: {error}"
        ) from error


def _check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    problems = []
    for spec in specs:
        array = inputs.get(spec.name)
        if array is None:
            problems.append(f"{spec.name!r} is missing: {spec.dtype} {list(spec.shape)}")
        elif not isinstance(array, np.ndarray):
            problems.append(f"{spec.name!r} is no NumPy array but {type(array).__name__}")
        elif array.shape != spec.shape or array.dtype != numpy_dtype(spec.dtype):
            problems.append(
                f"{spec.name!r} is {array.dtype} {list(array.shape)}, "
                f"not {spec.dtype} {list(spec.shape)}"
            )
    known = {spec.name for spec in specs}
    problems += [f"{name!r} is unknown" for name in inputs if name not in known]
    if problems:
        raise InputError(f"inputs: {'; '.join(problems)}")


def _map_devices(
    manifest: Manifest, devices: Mapping[str, str] | Sequence[str] | None
) -> dict[str, str]:
    """Return the device to use for each of the artifact's."""
    names = [device.name for device in manifest.devices]
    known = ", ".join(names)
    if devices is None:
        mapping = {name: name for name in names}
    elif isinstance(devices, Mapping):
        unknown = [name for name in devices if name not in names]
        if unknown:
            raise DeviceError(f"the artifact has no device {unknown[0]!r}: it has {known}")
        mapping = {name: devices.get(name, name) for name in names}
    else:
        if len(devices) != len(names):
            raise DeviceError(f"the artifact has the devices {known}; {len(devices)} were named")
        mapping = dict(zip(names, devices, strict=True))
    for name, other in mapping.items():
        if device_kind(name) != device_kind(other):
            raise DeviceError(
                f"{name} cannot be mapped to {other}, which is another kind of device"
            )
    return mapping


def _tasks(artifact: Artifact, device_names: Mapping[str, str]) -> list[Task]:
    manifest = artifact.manifest
    entries = {device.library for device in manifest.devices if device.library is not None}
    libraries = {name: load_library(artifact.libraries[name]) for name in entries}
    streams = {program.device: 0 for program in manifest.programs}
    for program in manifest.programs:
        streams[program.device] = max(streams[program.device], program.stream)
    tasks = []
    for program in manifest.programs:
        if manifest.device[program.device].kind != "cpu":
            continue
        name = device_names[program.device]
        cores = require_cores(name)
        if program.stream > 0:
            cores = share_cores(cores, streams[program.device])[program.stream - 1]
        entry = manifest.device[program.device].library
        if entry is None:
            raise ArtifactError(f"device {program.device!r} has work but no library")
        label = name if program.stream == 0 else f"{name} stream {program.stream}"
        tasks.append(Task(label, cores, program.instructions, libraries[entry]))
    return tasks
