"""One shape of an artifact on its devices, with its worker threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from hios_tvm.runtime.arguments import Array
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.interface import Interface
from hios_tvm.runtime.load_artifact import load_onto_devices, tensors_beside
from hios_tvm.runtime.memory import Arena
from hios_tvm.runtime.pipeline import Pipeline, PipelineExecutor
from hios_tvm.runtime.read_artifact import Artifact
from hios_tvm.runtime.trace import RunTrace


class LoadedShape:
    """What runs inputs of one shape; its owner lets one run at a time use the `arenas`.

    With `more` arenas there is a `pipeline` for the runs, which begin while their thread holds
    `lock`. `load` has the other parameters.
    """

    def __init__(
        self,
        artifact: Artifact,
        arenas: Mapping[str, Arena],
        more: Sequence[Mapping[str, Arena]] = (),
        *,
        lock: threading.RLock,
        devices: Mapping[str, str] | Sequence[str] | None,
        exclusive: bool,
        spin_us: float,
        gpu_trace: bool,
        cuda_graph: bool | None,
    ) -> None:
        self.manifest = artifact.manifest
        self.loaded = loaded = load_onto_devices(
            artifact,
            devices,
            arenas,
            exclusive=exclusive,
            gpu_trace=gpu_trace,
            cuda_graph=cuda_graph,
        )
        tensors = loaded.request.tensors
        try:
            tables = (tensors, *(tensors_beside(loaded, each) for each in more))
            interfaces = [
                Interface(artifact.manifest, table, artifact.weights, loaded.staging)
                for table in tables
            ]
            self.interface = interfaces[0]
            self.pipeline = None
            memory = arenas, more, artifact.weights, loaded.prepared, interfaces
            if more:
                executor = PipelineExecutor(loaded.tasks, tables, memory=memory, spin_us=spin_us)
                self.executor: Executor = executor
                self.pipeline = Pipeline(executor, interfaces, lock)
            else:
                self.executor = Executor(loaded.tasks, tensors, memory=memory, spin_us=spin_us)
        except BaseException:
            loaded.close()
            raise
        self._span = (0, 0)

    def run(
        self,
        inputs: Mapping[str, Array],
        timeout: float | None,
        out: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Run the model once on what the interface accepted; `Session.run` has the errors."""
        held = self.interface.place_inputs(inputs)
        if out is None:
            outputs = self.interface.new_outputs()
        else:
            outputs = self.interface.place_outputs(out, inputs.values())
        start = time.monotonic_ns()
        self.executor.run(timeout, held=(held, outputs))
        results = self.interface.results(outputs, inputs)
        self._span = (start, time.monotonic_ns())
        return results

    def last_trace(self) -> RunTrace:
        """Return what happened when in the latest run of this shape."""
        slot, span = (0, self._span) if self.pipeline is None else self.pipeline.latest()
        times = [self.executor.times(number, slot) for number in range(len(self.loaded.tasks))]
        return RunTrace(tuple(self.loaded.spans(times, span[1])), *span)

    @property
    def runs_in_this_thread(self) -> bool:
        """Whether this is the thread of a run in the pipeline: a signal handler's, then."""
        return self.pipeline is not None and self.pipeline.runs_in_this_thread

    def close(self) -> None:
        """End the worker threads, and give all devices back. Closing twice is fine."""
        if self.pipeline is not None:
            self.pipeline.wait()
        self.executor.close()
        self.loaded.close(stuck=self.executor.is_stuck)
