"""The artifact against its rivals, on the same inputs, run in turn.

Each rival lives in a process of its own, so that no thread pool disturbs another, and is pinned to
the cores of the artifact's devices. One process runs at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from hios_tvm.errors import ExecutionError, UsageError
from hios_tvm.measuring.latency import LatencySummary, latencies_of, measure_in_turn
from hios_tvm.measuring.load import LoadMeter
from hios_tvm.runtime.devices import HOST
from hios_tvm.verification.deviation import deviations

if TYPE_CHECKING:
    from tvm.ir import IRModule

Arrays = Mapping[str, np.ndarray]
Runner = Callable[[], Arrays]
Reporter = Callable[[str, int, int], None]

REFERENCE = "onnxruntime"
TORCH = "torch"
ARTIFACT = "artifact"
_SLOW_MS = 100.0  # from here on, caches that a rival has cleared do not show in a run
# Between rivals: an idle pool spins for tens of milliseconds before it sleeps, and would take a
# core from the next one (SqueezeNet in ONNX Runtime: 8.0 ms after 20 ms of pause, 2.6 after 300).
_PAUSE_SECONDS = 0.3


@dataclass(frozen=True)
class Subject:
    """What is compared: a model, its artifact, and what both are run on.

    `torch_program` is the model as `torch.export.save` wrote it.
    """

    model: Path
    artifact: Path
    inputs: Arrays
    shapes: Mapping[str, tuple[int, ...]]
    params: Path | None
    verify_key: Path | None
    torch_program: Path | None = None

    def module(self) -> IRModule:
        """Import the model."""
        from hios_tvm.frontends import load_model

        return load_model(self.model, shapes=self.shapes, params=self.params)


@dataclass(frozen=True)
class Contestant:
    """One way to run the model: its latencies, and its largest error relative to the reference.

    `speedup` is its median latency over the artifact's: above 1 where the artifact is faster.
    """

    name: str
    description: str
    latency: LatencySummary
    speedup: float
    max_error: float | None


@dataclass(frozen=True)
class Comparison:
    """All contestants, the artifact among them; `failures` says why others could not run.

    `others` is the share of the cores that other processes used meanwhile.
    """

    contestants: tuple[Contestant, ...]
    failures: Mapping[str, str]
    reference: str
    others: float

    def __getitem__(self, name: str) -> Contestant:
        return next(c for c in self.contestants if c.name == name)


def compare(
    model: Path,
    artifact: Path,
    inputs: Arrays,
    *,
    cores: Sequence[int],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    params: Path | None = None,
    iterations: int = 50,
    warmup: int = 10,
    time_limit: float = 20.0,
    rivals: Sequence[str] | None = None,
    artifacts: Mapping[str, Path] = MappingProxyType({}),
    verify_key: Path | None = None,
    torch_program: Path | None = None,
    progress: Reporter = lambda phase, done, total: None,
) -> Comparison:
    """Run the model through every rival in turn.

    Parameters
    ----------
    model, artifact : Path
        The model as a frontend reads it, and what was compiled from it.
    cores : sequence of int
        CPUs that every contestant may use: those of the artifact's devices.
    shapes, params
        As of `load_model`.
    iterations, warmup : int
        Measured runs, and runs before them.
    time_limit : float
        Seconds of runs after which a slow rival is not run further. One that takes longer for
        its first run is stopped, and is among the failures.
    rivals : sequence of str, optional
        Names in `RIVALS`; by default all that have what they need.
    artifacts : mapping of str to Path
        Other artifacts of the model that take part, by the names of these contestants.
    verify_key : Path, optional
        Public key whose owner must have signed the artifact.
    torch_program : Path, optional
        The model as `torch.export.save` wrote it, for the rival `torch`.
    """
    unknown = [name for name in rivals or () if name not in RIVALS]
    if unknown:
        raise UsageError(f"no rival {unknown[0]!r}: there are {', '.join(OTHERS)}")
    if rivals is None:
        rivals = [name for name in OTHERS if name != TORCH or torch_program is not None]
    elif TORCH in rivals and torch_program is None:
        raise UsageError(
            f"the rival {TORCH!r} needs the model as torch.export.save writes it: --torch"
        )
    subject = Subject(
        model, artifact, dict(inputs), dict(shapes or {}), params, verify_key, torch_program
    )
    names = dict.fromkeys([*rivals, ARTIFACT])
    entrants = {name: (name, subject) for name in names}
    entrants |= {name: (ARTIFACT, replace(subject, artifact=p)) for name, p in artifacts.items()}
    processes: dict[str, _Process] = {}
    failures: dict[str, str] = {}
    try:
        for i, (name, entrant) in enumerate(entrants.items()):
            progress("prepare", i, len(entrants))
            try:
                processes[name] = _Process(*entrant, cores)
            except ExecutionError as error:
                failures[name] = str(error)
        if ARTIFACT not in processes:
            raise ExecutionError(f"the artifact did not run: {failures[ARTIFACT]}")
        outputs = _first_runs(processes, time_limit, failures)
        meter = LoadMeter()
        latencies = _take_turns(processes, iterations, warmup, time_limit, progress)
        others = meter.others()
    finally:
        for process in processes.values():
            process.close()
    return _result(processes, outputs, latencies, failures, others)


def _first_runs(
    processes: dict[str, _Process], time_limit: float, failures: dict[str, str]
) -> dict[str, Arrays]:
    """Return the outputs of each process, and end those that take too long for one run."""
    outputs: dict[str, Arrays] = {}
    for name, process in list(processes.items()):
        try:
            outputs[name] = process.outputs(time_limit)
        except ExecutionError as error:
            if name == ARTIFACT:
                raise
            failures[name] = str(error)
            processes.pop(name).close()
    return outputs


def _take_turns(
    processes: Mapping[str, _Process],
    iterations: int,
    warmup: int,
    time_limit: float,
    progress: Reporter,
) -> dict[str, list[float]]:
    """Run every process in short bursts, one after another, until each has all its runs."""
    for process in processes.values():
        if process.first_ms < 1000 * time_limit / 20:
            process.run(max(warmup - 1, 0))
        time.sleep(_PAUSE_SECONDS)

    def is_enough(_turn: int, known: Sequence[float]) -> bool:
        return (bool(known) and sum(known) > 1000 * time_limit) or len(known) >= iterations

    def burst(process: _Process, known: Sequence[float]) -> list[float]:
        runs = min(max(1, iterations // 10), iterations - len(known))
        last = known[-1] if known else 0.0
        # The first run of a turn finds cold caches, and does not count.
        return process.run(1) if last > _SLOW_MS else process.run(runs + 1)[1:]

    latencies = measure_in_turn(
        [partial(burst, process) for process in processes.values()],
        is_enough,
        pause_s=_PAUSE_SECONDS,
        progress=lambda turn, _: progress("measure", min(turn, 9), 10),
    )
    progress("measure", 10, 10)
    return dict(zip(processes, latencies, strict=True))


def _result(
    processes: Mapping[str, _Process],
    outputs: Mapping[str, Arrays],
    latencies: Mapping[str, Sequence[float]],
    failures: Mapping[str, str],
    others: float,
) -> Comparison:
    reference = REFERENCE if REFERENCE in outputs else "tvm-default"
    ours = float(np.median(latencies[ARTIFACT]))
    contestants = []
    for name, process in processes.items():
        error = None
        if name != reference and reference in outputs:
            error = max(d.max_error for d in deviations(outputs[name], outputs[reference]))
        summary = LatencySummary.of(latencies[name])
        contestants.append(
            Contestant(name, process.description, summary, summary.median_ms / ours, error)
        )
    return Comparison(tuple(contestants), dict(failures), reference, others)


class _Process:
    """A child process that runs one rival when it is asked to."""

    def __init__(self, name: str, subject: Subject, cores: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, list(cores), name, subject), daemon=True
        )
        self._process.start()
        theirs.close()
        self.description = str(self._receive(name))
        self.first_ms = 0.0

    def run(self, count: int) -> list[float]:
        """Run `count` times; returns milliseconds."""
        self._connection.send(count)
        latencies: list[float] = self._receive("run")
        return latencies

    def outputs(self, time_limit: float) -> Arrays:
        """Run once for the outputs, and note the time as `first_ms`."""
        start = time.monotonic()
        self._connection.send("outputs")
        if not self._connection.poll(time_limit):
            self._process.kill()
            raise ExecutionError(f"one run takes longer than the time limit of {time_limit:g} s")
        arrays: Arrays = self._receive("outputs")
        self.first_ms = 1000 * (time.monotonic() - start)
        return arrays

    def close(self) -> None:
        self._connection.close()
        self._process.join(timeout=1)
        if self._process.is_alive():
            self._process.kill()

    def _receive(self, what: str) -> Any:
        try:
            kind, value = self._connection.recv()
        except EOFError:
            raise ExecutionError(f"{what}: the process died") from None
        if kind == "error":
            self.close()
            raise ExecutionError(str(value))
        return value


def _serve(connection: Connection, cores: list[int], name: str, subject: Subject) -> None:
    """Body of the child process."""
    os.sched_setaffinity(0, cores)
    os.environ["TVM_NUM_THREADS"] = str(len(cores))
    try:
        description, runner = RIVALS[name](subject)
        connection.send(("description", description))
        while True:
            request = connection.recv()
            if request == "outputs":
                connection.send(("outputs", runner()))
                continue
            connection.send(("latencies", list(islice(latencies_of(runner), request))))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except Exception as error:  # reported by the parent, with the rival's name
        connection.send(("error", f"{type(error).__name__}: {error}"))


def _tvm_default(subject: Subject) -> tuple[str, Runner]:
    import tvm

    from hios_tvm.backends.virtual_machine import virtual_machine_runner

    runner = virtual_machine_runner(subject.module(), tvm.target.Target("llvm"), subject.inputs)
    return f"TVM {tvm.__version__}, default pipeline, virtual machine", runner


def _same_kernels(subject: Subject) -> tuple[str, Runner]:
    import tvm

    from hios_tvm.backends.network import lower_by_recipe
    from hios_tvm.backends.virtual_machine import prepare_weights, virtual_machine_runner
    from hios_tvm.runtime.read_artifact import read_manifest

    manifest = read_manifest(subject.artifact, verify_key=subject.verify_key)
    network = lower_by_recipe(subject.module(), manifest.recipe)
    if manifest.graph is None or network.graph.operators != manifest.graph.operators:
        raise UsageError(f"{subject.artifact} was not compiled from {subject.model} as it is now")
    form = network.lowered[HOST]
    weights = {**network.weights, **prepare_weights(form, network.weights)}
    params = {param.name for param in form.mod["main"].params}  # without what others are made of
    tensors = {name: tvm.runtime.tensor(weights[name]) for name in sorted(params & weights.keys())}
    mod = tvm.relax.transform.BindParams("main", tensors)(form.mod)
    runner = virtual_machine_runner(mod, form.target, subject.inputs)
    return f"the artifact's kernels in TVM {tvm.__version__}'s virtual machine, one device", runner


def _artifact(subject: Subject) -> tuple[str, Runner]:
    from hios_tvm import runtime

    session = runtime.load(subject.artifact, verify_key=subject.verify_key)
    names = ", ".join(device.name for device in session.manifest.devices)
    return f"hios-tvm on {names}", lambda: session.run(subject.inputs)


def _onnxruntime(subject: Subject) -> tuple[str, Runner]:
    """Measure both execution modes shortly and take the faster one."""
    import onnxruntime

    threads = len(os.sched_getaffinity(0))
    best: tuple[float, str, Runner] | None = None
    for mode in ("sequential", "parallel"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if mode == "parallel":
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
            options.inter_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(subject.model), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]

        def run(session: Any = session, names: list[str] = names) -> Arrays:
            return dict(zip(names, session.run(names, dict(subject.inputs)), strict=True))

        run()
        median_ms = float(np.median(list(islice(latencies_of(run), 5))))
        if best is None or median_ms < best[0]:
            best = (median_ms, mode, run)
    assert best is not None
    version = onnxruntime.__version__
    return f"ONNX Runtime {version}, {best[1]} mode, {threads} threads", best[2]


def _openvino(subject: Subject) -> tuple[str, Runner]:
    """Run it as OpenVINO does for the lowest latency, in single precision as everyone else."""
    try:
        import openvino
    except ImportError:
        raise UsageError("not installed: pip install 'hios-tvm[rivals]'") from None
    core = openvino.Core()
    model = core.read_model(subject.model)
    model.reshape({name: list(array.shape) for name, array in subject.inputs.items()})
    threads = len(os.sched_getaffinity(0))
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = core.compile_model(model, "CPU", config).create_infer_request()
    names = [o.name for o in onnx.load(subject.model, load_external_data=False).graph.output]

    def run() -> Arrays:
        results = request.infer(dict(subject.inputs))
        return {name: results[i] for i, name in enumerate(names)}

    version = openvino.__version__.partition("-")[0]
    return f"OpenVINO {version}, latency hint, f32, {threads} threads", run


def _torch(subject: Subject) -> tuple[str, Runner]:
    """Compile with all weights constant, which lets PyTorch choose layouts for them."""
    try:
        import torch
    except ImportError:
        raise UsageError("not installed: pip install torch") from None
    assert subject.torch_program is not None
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    module = torch.export.load(subject.torch_program).module()
    function = torch.compile(module, options={"freezing": True})
    graph = onnx.load(subject.model, load_external_data=False).graph
    names_in = [value.name for value in graph.input if value.name in subject.inputs]
    inputs = [torch.from_numpy(subject.inputs[name]) for name in names_in]
    names = [value.name for value in graph.output]

    def run() -> Arrays:
        with torch.inference_mode():
            results = torch.utils._pytree.tree_leaves(function(*inputs))
        return {name: value.numpy() for name, value in zip(names, results, strict=True)}

    run()  # it compiles when it is first called
    return f"PyTorch {torch.__version__}, torch.compile with freezing, {threads} threads", run


RIVALS: dict[str, Callable[[Subject], tuple[str, Runner]]] = {
    "tvm-default": _tvm_default,
    "same-kernels": _same_kernels,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    TORCH: _torch,
    "artifact": _artifact,
}
"""Ways to run a model; each returns what it is and a function that runs it once."""

OTHERS = tuple(name for name in RIVALS if name != ARTIFACT)
"""What the artifact is compared with."""
