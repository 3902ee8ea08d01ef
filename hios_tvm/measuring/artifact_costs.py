"""Costs of an artifact's kernels on this machine: for a compiler that runs elsewhere.

    python -m hios_tvm.measuring.artifact_costs kernels.hios -o costs.json --devices cpu@0,cpu@1

needs what running an artifact needs, and nothing else. ``hios-tvm profile`` is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

from hios_tvm.errors import ArtifactError, HiosError, UsageError
from hios_tvm.measuring.bench import KernelArg, KernelCall, Timing
from hios_tvm.measuring.copies import fit_link, measure_transfers
from hios_tvm.measuring.gpu_kernels import GpuBench, measure_copies
from hios_tvm.measuring.kernels import measure_independence, measure_kernels
from hios_tvm.runtime.devices.cpu import allowed_cores, require_cores
from hios_tvm.runtime.devices.cuda import Gpu, load_driver, split_gpu
from hios_tvm.runtime.native import load_library
from hios_tvm.runtime.read_artifact import Artifact, open_artifact
from hios_tvm.schema.device_names import (
    GPU_STREAMS,
    cpu_device_name,
    cpu_model_name,
    device_kind,
    gpu_model_name,
    gpu_place,
    parse_cores,
    split_devices,
)
from hios_tvm.schema.platform import Link
from hios_tvm.schema.program import Call

__all__ = ["GRAPH", "WEIGHTS", "cost_data", "kernel_calls", "profile_artifact", "write_costs"]

GRAPH, WEIGHTS = "operator_graph", "weight_inputs"
"""Keys of an exported artifact's `compile_info`: the graph, and which inputs stand for weights."""

COSTS_VERSION = PLATFORM_VERSION = 1  # of the files that hios_tvm.schema.costs reads

_NO_LINK = Link(latency_ms=0.0, bandwidth_gb_s=float("inf"))  # of one device

Progress = Callable[[int, int], None]


def profile_artifact(
    path: str | os.PathLike[str],
    devices: Sequence[str] = (),
    *,
    verify_key: str | os.PathLike[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Measure the kernels of an artifact, and the devices.

    Parameters
    ----------
    path
        From ``hios-tvm profile export``, or any other artifact.
    devices
        Devices of this machine, such as ``cpu@0`` and ``cpu@1``, or ``cuda:0`` and ``cuda:1``; by
        default all cores as one.
    verify_key : path, optional
        As in `load`.
    progress : function, optional
        Called with the kernels done and the kernels in all.

    Returns
    -------
    dict
        The data of a cost file: the time of each operator on each device model, what a transfer
        between two devices takes, and how independent they are. Stream groups are not measured
        together: which ones matter only a scheduler knows, and it uses the analytic model.

    Raises
    ------
    ArtifactError
        If the file is damaged, or was made for another TVM or CPU.
    DeviceError
        If this process may not use a device.
    UsageError
        If a core belongs to two devices.
    """
    names = list(devices) or [cpu_device_name(allowed_cores())]
    kinds = {device_kind(name) for name in names}
    if len(kinds) > 1:
        raise UsageError("CPUs and GPUs are measured one after the other: name one kind of device")
    if kinds == {"cuda"}:
        return _profile_gpus(open_artifact(path, verify_key=verify_key), names, progress)
    cores = {name: require_cores(name) for name in names}
    if len(set().union(*cores.values())) < sum(map(len, cores.values())) or len(cores) < len(names):
        raise UsageError(f"a core belongs to two of the devices {', '.join(names)}")
    artifact = open_artifact(path, verify_key=verify_key)
    calls = kernel_calls(artifact)
    models = {cpu_model_name(name): cores[name] for name in reversed(names)}
    total = len(calls) * len(models)
    times: dict[str, dict[str, Timing]] = {}
    for i, (model, own) in enumerate(models.items()):
        times[model] = {}
        for entry in dict.fromkeys(entry for entry, _ in calls.values()):
            part = {name: call for name, (other, call) in calls.items() if other == entry}
            before = i * len(calls) + len(times[model])
            measured = measure_kernels(
                artifact.libraries[entry],
                list(part.values()),
                own,
                progress=partial(_report, progress, before, total),
            )
            times[model].update(zip(part, measured, strict=True))
    link, independence = _between(artifact, calls, times, [cores[name] for name in names])
    graph = artifact.manifest.compile_info.get(GRAPH)
    return cost_data(names, times, link, independence, graph)


def _profile_gpus(artifact: Artifact, names: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Measure the kernels of an artifact for GPUs on the first one, and copies to the second."""
    manifest = artifact.manifest
    specs = [d for d in manifest.devices if d.device_code is not None and d.library is not None]
    if not specs:
        raise UsageError("the artifact has no code for GPUs: export it with --target sm_90 or such")
    driver = load_driver()
    code = artifact.libraries[specs[0].device_code or ""]
    library = load_library(artifact.libraries[specs[0].library or ""])
    places = [gpu_place(name) for name in names]
    if len({place.parts for place in places}) > 1:
        raise UsageError("whole GPUs and parts of them are measured one after the other")
    shares: dict[int, list[Any]] = {}
    if places[0].parts > 1:
        shares = {p.index: split_gpu(driver, p.index, p.parts) for p in places}
    gpus = [Gpu(driver, p.index, code, shares[p.index][p.part] if shares else None) for p in places]
    try:
        benches = [GpuBench(gpu, manifest.gpu_kernels, library) for gpu in gpus]
        calls = {
            step.operator: step.kernel
            for program in manifest.programs
            for step in program.instructions
            if isinstance(step, Call) and step.kernel in manifest.gpu_kernels
        }
        kernels: dict[str, Timing] = {}
        for name in dict.fromkeys(calls.values()):
            kernels[name] = benches[0].kernel(name)
            progress(len(kernels), len(set(calls.values())))
        link = _NO_LINK
        if len(gpus) > 1:
            for first, second in permutations(gpus, 2):
                if first.index != second.index:
                    first.reach(second)
            link = fit_link(measure_copies(benches[0], benches[1]))
        model = gpu_model_name(driver.arch(gpus[0].index), places[0].parts)
        data = cost_data(
            names,
            {model: {operator: kernels[name] for operator, name in calls.items()}},
            link,
            1.0,
            manifest.compile_info.get(GRAPH),
        )
        utilization = {operator: benches[0].utilization(name) for operator, name in calls.items()}
        return {**data, "utilization": utilization}
    finally:
        for gpu in gpus:
            gpu.close()


def kernel_calls(artifact: Artifact) -> dict[str, tuple[str, KernelCall]]:
    """Return for each operator the entry of its library, and its kernel's call.

    Raises
    ------
    ArtifactError
        If it has none.
    """
    manifest = artifact.manifest
    named = manifest.compile_info.get(WEIGHTS, [])
    weights = {buffer.name for buffer in manifest.buffers if buffer.space == "param"}
    weights.update(name for name in named if isinstance(name, str))

    def arg(name: str, is_output: bool) -> KernelArg:
        buffer = manifest.buffer[name]
        role: Literal["input", "weight", "output"] = "weight" if name in weights else "input"
        return KernelArg(buffer.shape, buffer.dtype, "output" if is_output else role)

    calls = {}
    for program in manifest.programs:
        entry = manifest.device[program.device].library or ""
        for step in program.instructions:
            if isinstance(step, Call):
                first = len(step.args) - step.outputs
                args = tuple(arg(name, i >= first) for i, name in enumerate(step.args))
                calls[step.operator] = (entry, KernelCall(step.kernel, args))
    if not calls:
        raise ArtifactError("the artifact has no operators: there is nothing to measure")
    return calls


def cost_data(
    devices: Sequence[str],
    times: Mapping[str, Mapping[str, Timing]],
    link: Link,
    independence: float,
    graph: object = None,
) -> dict[str, Any]:
    """Return a cost file's data.

    Parameters
    ----------
    devices
        Names of CPU devices, or of GPUs of one model.
    times
        By device model and operator.
    link
        Between any two devices.
    independence : float
        As `measure_independence` returns it.
    graph : object, optional
        JSON of the operator graph.
    """
    latency = {
        model: {
            name: {
                "ms": timing.ms,
                "spread_ms": timing.spread_ms,
                "samples": timing.samples,
                "source": "measured",
            }
            for name, timing in own.items()
        }
        for model, own in times.items()
    }
    platform = {
        "version": PLATFORM_VERSION,
        "devices": [
            {"name": name, "model": model, "streams": streams, "memory_bytes": None}
            for name, (model, streams) in zip(
                devices, (_model_and_streams(name, times) for name in devices), strict=True
            )
        ],
        "links": [],
        "default_link": asdict(link),
        "independence": independence,
    }
    data: dict[str, Any] = {
        "version": COSTS_VERSION,
        "latency": latency,
        "joint": {},
        "transfer": [],
        "utilization": {},
        "platform": platform,
    }
    return data if graph is None else {**data, "graph": graph}


def _model_and_streams(name: str, times: Mapping[str, object]) -> tuple[str, int]:
    if device_kind(name) == "cuda":
        return next(iter(times)), GPU_STREAMS
    return cpu_model_name(name), len(parse_cores(name))


def _report(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _between(
    artifact: Artifact,
    calls: Mapping[str, tuple[str, KernelCall]],
    times: Mapping[str, Mapping[str, Timing]],
    cores: Sequence[tuple[int, ...]],
) -> tuple[Link, float]:
    """Measure the link between two devices, and independence by the longest kernel."""
    if len(cores) == 1:
        return _NO_LINK, 1.0
    own = next(iter(times.values()))
    entry, call = calls[max(own, key=lambda name: own[name].ms)]
    library = artifact.libraries[entry]
    link = fit_link(measure_transfers(library, cores[0], cores[1]))
    return link, measure_independence(library, call, cores)


def write_costs(data: Mapping[str, Any], path: Path) -> None:
    """Write a cost file: it is there whole, or not at all."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                json.dump(data, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hios_tvm.measuring.artifact_costs")
    parser.add_argument("artifact", help="from hios-tvm profile export, or any other artifact")
    parser.add_argument("-o", "--output", type=Path, default=Path("costs.json"))
    parser.add_argument("--devices", default="", help="for example cpu@0,cpu@1 or cuda:0")
    parser.add_argument("--verify-key", help="Ed25519 public key that must have signed it")
    options = parser.parse_args(arguments)
    devices = split_devices(options.devices)
    try:
        data = profile_artifact(options.artifact, devices, verify_key=options.verify_key)
        write_costs(data, options.output)
    except HiosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
