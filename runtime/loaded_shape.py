"""One shape of an artifact on its devices, with its worker threads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from hios_tvm.runtime.arguments import Array
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.interface import Interface
from hios_tvm.runtime.load_artifact import load_onto_devices
from hios_tvm.runtime.memory import Arena
from hios_tvm.runtime.read_artifact import Artifact
from hios_tvm.runtime.trace import RunTrace


class LoadedShape:
    """What runs inputs of one shape; its owner lets one run at a time use the `arenas`.

    `load` has the other parameters.
    """

    def __init__(
        self,
        artifact: Artifact,
        arenas: Mapping[str, Arena],
        *,
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
            self.interface = Interface(artifact.manifest, tensors, artifact.weights, loaded.staging)
            self.executor = Executor(
                loaded.tasks,
                tensors,
                memory=(loaded.request.arenas, artifact.weights, loaded.prepared, self.interface),
                spin_us=spin_us,
            )
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
        times = [self.executor.times(number) for number in range(len(self.loaded.tasks))]
        return RunTrace(tuple(self.loaded.spans(times, self._span[1])), *self._span)

    def close(self) -> None:
        """End the worker threads, and give all devices back. Closing twice is fine."""
        self.executor.close()
        self.loaded.close(stuck=self.executor.is_stuck)
