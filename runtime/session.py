"""A loaded artifact that can be run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from ctypes import ArgumentError
from functools import partial

from hios_tvm.errors import ExecutionError, MemoryLimitError
from hios_tvm.runtime.arguments import Array, Tensors, accept, accept_outputs, write_into
from hios_tvm.runtime.background import Background
from hios_tvm.runtime.choose_shape import FewerRows, ShapeChooser
from hios_tvm.runtime.executor import DEFAULT_SPIN_US
from hios_tvm.runtime.load_artifact import make_arenas
from hios_tvm.runtime.loaded_shape import LoadedShape
from hios_tvm.runtime.read_artifact import Artifact
from hios_tvm.runtime.replicas import run_in_order
from hios_tvm.runtime.trace import RunTrace
from hios_tvm.runtime.turn import Turn
from hios_tvm.schema.manifest import Batch, Manifest, TensorSpec


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
        cuda_graph: bool | None = None,
        replicas: Sequence[Session] = (),
    ) -> None:
        self.manifest = artifact.manifest
        self._lock = threading.RLock()  # not a Lock, on which a signal handler would wait for ever
        self._is_running = False
        artifacts = (artifact, *artifact.others)
        manifests = [each.manifest for each in artifacts]
        arenas, *more = make_arenas(manifests)
        self._shapes: list[LoadedShape] = []
        try:
            for each in artifacts:
                self._shapes.append(
                    LoadedShape(
                        each,
                        arenas,
                        more,
                        lock=self._lock,
                        devices=devices,
                        exclusive=exclusive,
                        spin_us=spin_us,
                        gpu_trace=gpu_trace,
                        cuda_graph=cuda_graph,
                    )
                )
        except BaseException:
            for shape in self._shapes:
                shape.close()
            raise
        self._last = self._shapes[0]
        self._chooser = None if self.manifest.shapes is None else ShapeChooser(manifests)
        self._background = Background()
        self._replicas = tuple(replicas)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` needs; of an artifact of several shapes, those of the largest."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns; of an artifact of several shapes, those of the largest."""
        return self.manifest.outputs

    @property
    def shapes(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """The shapes of inputs that there are programs for, by name, the largest last."""
        return tuple(shape.manifest.shape for shape in reversed(self._shapes))

    @property
    def batch(self) -> Batch | None:
        """Which sizes of a batch can be run, also those between the `shapes`, if any."""
        return None if self.manifest.shapes is None else self.manifest.shapes.batch

    def manifest_of(self, inputs: Tensors) -> Manifest:
        """Return the manifest of the shape that would run `inputs`; `InputError` if none would."""
        return self._shape_of(inputs)[0].manifest

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that are used, in the order of the manifest's; by the latest run's shape."""
        return tuple(self._last.loaded.request.names.values())

    @property
    def traced_devices(self) -> tuple[str, ...]:
        """The artifact's devices whose work traces show: GPUs only where `gpu_trace` was given."""
        return self._last.loaded.traced

    def run(
        self, inputs: Tensors, *, out: Tensors | None = None, timeout: float | None = None
    ) -> dict[str, Array]:
        """Run the model once.

        Parameters
        ----------
        inputs
            A tensor for each input, of exactly its dtype and of one of the `shapes`, or of a size
            of the `batch`: a mapping by name, a list or tuple in the order of `inputs`, or the
            only one. A tensor is a NumPy array, or one of another library that shares its memory
            by DLPack, such as PyTorch's. Those that are
            contiguous and aligned to 64 bytes (`aligned_empty`) are used in place: do not change
            them before the run has ended.
        out : optional
            Arrays that get the outputs: by name (others are new then), a list or tuple of all, or
            the only one. Kernels write directly into those that are contiguous, aligned to 64
            bytes and apart from all inputs and other outputs.
        timeout : float, optional
            Seconds after which the run is given up; waiting for other runs counts.

        Returns
        -------
        dict
            The arrays of `out`, and a new one for each other output, which belongs to the caller.

        Raises
        ------
        InputError
            If tensors are missing, unknown, or of a wrong shape or dtype; it lists all of them. Or
            if they lead to an index outside of its dimension, a length beyond it, or a division of
            integers without a result; it names the operators. The session works again afterwards.
        ExecutionError
            If a kernel fails; the session works again afterwards. Or if a signal handler calls
            `run` while its own thread is in a run.
        RunTimeoutError
            If `timeout` is over. If a kernel hangs, the session is closed.
        MemoryLimitError
            If there is too little memory for the outputs.
        SessionClosedError
            If the session is closed, or belongs to the parent of this process.
        """
        self._require_open()  # before the lock, which a fork may have copied locked
        try:
            return self._run_once(inputs, out, timeout)
        except (MemoryError, ArgumentError, SystemError) as error:  # as ctypes and Python say it
            if isinstance(error, MemoryLimitError):
                raise
            raise MemoryLimitError("there is too little memory for a run") from error

    def _run_once(
        self, inputs: Tensors, out: Tensors | None, timeout: float | None
    ) -> dict[str, Array]:
        shape, fewer = self._shape_of(inputs)
        if fewer is not None:
            return self._run_fewer(shape, fewer, inputs, out, timeout)
        arrays = shape.interface.accept_inputs(inputs)
        if shape.pipeline is not None:
            self._require_no_run()
            given = {} if out is None else shape.interface.accept_outputs(out)
            results = shape.pipeline.run(arrays, timeout, given)
            write_into(given, results)
            return results
        if out is None:
            with self._turn(timeout) as turn:
                return self._run(shape, arrays, turn)
        given = shape.interface.accept_outputs(out)
        with self._turn(timeout) as turn:
            results = self._run(shape, arrays, turn, given)
            write_into(given, results)
        return results

    def submit(
        self, inputs: Tensors, *, out: Tensors | None = None, timeout: float | None = None
    ) -> Future[dict[str, Array]]:
        """Run the model once in a thread of the session, and return at once.

        Runs are made in the order of their submission. Do not change the inputs, nor use the
        arrays of `out`, before the future is done; one that has not begun can be cancelled, and
        `close` cancels all of these.

        Parameters
        ----------
        inputs, out
            As for `run`.
        timeout : float, optional
            Seconds from now after which the run is given up.

        Returns
        -------
        Future
            What `run` returns or raises.

        Raises
        ------
        SessionClosedError
            If the session is closed, or belongs to the parent of this process.
        """
        self._require_open()
        run = partial(self.run, inputs, out=out)
        return self._background.submit(run, timeout)

    def run_many(self, inputs: Iterable[Tensors]) -> Iterator[dict[str, Array]]:
        """Run the model once for each of `inputs`, and yield the outputs in the same order.

        Replicas of an artifact run different inputs at the same time, and so do the devices of a
        pipeline; the results are those of `run`. Inputs are taken a few ahead: do not change them
        before their outputs have come. The errors are those of `run`; the first one ends the
        iteration.
        """
        self._require_open()
        sessions = (self, *self._replicas) * self.manifest.in_flight
        return run_in_order([each.run for each in sessions], inputs)

    async def run_async(
        self, inputs: Tensors, *, out: Tensors | None = None, timeout: float | None = None
    ) -> dict[str, Array]:
        """Run the model once while the event loop goes on.

        Parameters, results and errors are those of `submit` and of its future. A run that has
        begun goes on when the waiting task is cancelled: it still uses the inputs and `out`.
        """
        return await asyncio.wrap_future(self.submit(inputs, out=out, timeout=timeout))

    def run_traced(
        self, inputs: Tensors, *, timeout: float | None = None
    ) -> tuple[dict[str, Array], RunTrace]:
        """Run the model once, and return the outputs and what happened when."""
        self._require_open()
        with self._turn(timeout) as turn:
            outputs = self.run(inputs, timeout=_left_s(turn))
            return outputs, self._last.last_trace()

    def last_trace(self) -> RunTrace:
        """Return what happened when in the latest run."""
        with self._lock:
            return self._last.last_trace()

    def busy_ms(self) -> dict[str, float]:
        """Return the milliseconds that each device spent in kernels and copies, latest run."""
        return self.last_trace().milliseconds("call", "copy")

    def copy_ms(self) -> dict[str, float]:
        """Return the milliseconds that each device spent in copies, latest run."""
        return self.last_trace().milliseconds("copy")

    def close(self) -> None:
        """End the worker threads, after the run that is going on. Closing twice is fine."""
        if self._shapes[0].executor.is_forked:
            return  # the threads are the parent's, and the lock may have been copied locked
        self._background.close()
        with self._lock:
            self._require_no_run()
            for shape in self._shapes:
                shape.close()
        for replica in self._replicas:
            replica.close()

    def __repr__(self) -> str:
        return f"<Session of {self.manifest.summary} on {', '.join(self.devices)}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _turn(self, timeout: float | None) -> Turn | threading.RLock:
        """Return what waits for other threads' runs: the lock alone where time is not limited."""
        return self._lock if timeout is None else Turn(self._lock, timeout)

    def _require_open(self) -> None:
        self._shapes[0].executor.require_open()

    def _shape_of(self, inputs: Tensors) -> tuple[LoadedShape, FewerRows | None]:
        """Return what runs `inputs`, and how, where these have fewer rows than it has."""
        if self._chooser is None:
            return self._shapes[0], None
        choice = self._chooser.choose(inputs)
        shape = self._shapes[choice.number]
        if choice.rows is None:
            return shape, None
        assert self.batch is not None
        return shape, FewerRows(self.batch, shape.manifest, choice.rows)

    def _run_fewer(
        self,
        shape: LoadedShape,
        fewer: FewerRows,
        inputs: Tensors,
        out: Tensors | None,
        timeout: float | None,
    ) -> dict[str, Array]:
        arrays = accept(inputs, fewer.inputs, "input")
        given = {} if out is None else accept_outputs(out, fewer.outputs)
        filled = fewer.fill(arrays)
        with self._turn(timeout) as turn:
            results = fewer.cut(self._run(shape, filled, turn))
            write_into(given, results)
        return results

    def _run(
        self,
        shape: LoadedShape,
        inputs: Mapping[str, Array],
        turn: Turn | bool,
        out: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        self._require_no_run()
        if shape is not self._last:
            self._last.executor.require_free()  # of the memory that all shapes share
        self._is_running = True
        try:
            self._last = shape
            return shape.run(inputs, _left_s(turn), out)
        finally:
            self._is_running = False

    def _require_no_run(self) -> None:
        """Refuse signal handlers in the thread of a run, which holds the lock already."""
        if self._is_running or any(shape.runs_in_this_thread for shape in self._shapes):
            raise ExecutionError(
                "a signal handler cannot run or close a session inside of a run of its own thread"
            )


def _left_s(turn: Turn | bool) -> float | None:
    return turn.left_s if isinstance(turn, Turn) else None
