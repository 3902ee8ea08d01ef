"""Costs of an artifact's kernels on this machine, for a compiler that runs elsewhere.

    python -m hios_tvm.measuring.artifact_costs kernels.hios -o costs.json --devices cpu@0,cpu@1

needs what running an artifact needs, and nothing else. ``hios-tvm profile run`` is the same, and
`hios_tvm.measuring.kernel_export` makes artifacts for it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Literal

from hios_tvm.errors import ArtifactError, HiosError, UsageError
from hios_tvm.files import atomic_write
from hios_tvm.measuring.bench import KernelArg, KernelCall
from hios_tvm.measuring.copies import fit_link, measure_transfers
from hios_tvm.measuring.gpu_kernels import GpuBench, measure_copies
from hios_tvm.measuring.kernels import measure_independence, measure_kernels
from hios_tvm.runtime.devices.cpu import default_devices, require_cores
from hios_tvm.runtime.devices.cuda import CudaDriver, Gpu, load_driver, split_gpu
from hios_tvm.runtime.native import load_library
from hios_tvm.runtime.read_artifact import Artifact, open_artifact
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.device_names import (
    GPU_STREAMS,
    GpuPlace,
    cpu_model_name,
    device_kind,
    disjoint_cores,
    gpu_model_name,
    gpu_place,
    split_devices,
)
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.platform import UNLIMITED, Device, Link, Platform
from hios_tvm.schema.program import Call

Progress = Callable[[int, int], None]


def measure_artifact(
    path: str | os.PathLike[str],
    devices: Sequence[str] = (),
    *,
    verify_key: str | os.PathLike[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[CostTable, OperatorGraph | None]:
    """Measure the kernels of an artifact, and the devices.

    Parameters
    ----------
    path : path
        From ``hios-tvm profile export``, or any other artifact.
    devices : sequence of str
        Devices of this machine, such as ``cpu@0`` and ``cpu@1``, or ``cuda:0`` and ``cuda:1``; by
        default all cores as one.
    verify_key : path, optional
        As in `load`.
    progress : function, optional
        Called with the kernels done and the kernels in all.

    Returns
    -------
    CostTable
        The time of each operator on each device model, what a transfer between two devices takes,
        and how independent they are. Stream groups are not measured together: which ones matter
        only a scheduler knows, and it uses the analytic model.
    OperatorGraph or None
        The graph of the operators, where the artifact has it.

    Raises
    ------
    ArtifactError
        If the file is damaged, or was made for another TVM or CPU.
    DeviceError
        If this process may not use a device.
    UsageError
        If a core belongs to two devices, or CPUs and GPUs are named.
    """
    names = list(devices) or list(default_devices())
    kinds = {device_kind(name) for name in names}
    if len(kinds) > 1:
        raise UsageError("CPUs and GPUs are measured one after the other: name one kind of device")
    if kinds == {"cpu"}:
        disjoint_cores(names)
    artifact = open_artifact(path, verify_key=verify_key)
    measure = _gpu_costs if kinds == {"cuda"} else _cpu_costs
    return measure(artifact, names, progress), artifact.manifest.graph


def write_costs(costs: CostTable, graph: OperatorGraph | None, path: Path) -> None:
    """Write a cost file: it is there whole, or not at all."""
    with atomic_write(path) as file:
        file.write(costs.to_json(graph).encode())


def kernel_calls(artifact: Artifact) -> dict[str, tuple[str, KernelCall]]:
    """Return for each operator the entry of its library, and its kernel's call.

    Raises
    ------
    ArtifactError
        If it has none.
    """
    manifest = artifact.manifest
    weights = {buffer.name for buffer in manifest.buffers if buffer.space == "param"}
    if manifest.graph is not None:
        weights.update(manifest.graph.constants)  # inputs of an artifact of kernels alone

    def arg(name: str, is_output: bool) -> KernelArg:
        buffer = manifest.buffer[name]
        role: Literal["input", "weight", "output"] = "weight" if name in weights else "input"
        return KernelArg(buffer.shape, buffer.dtype, "output" if is_output else role)

    calls = {}
    for device, step in _calls(manifest):
        first = len(step.args) - step.outputs
        args = tuple(arg(name, i >= first) for i, name in enumerate(step.args))
        entry = manifest.device[device].library or ""
        calls[step.operator] = (entry, KernelCall(step.kernel, args))
    if not calls:
        raise ArtifactError("the artifact has no operators: there is nothing to measure")
    return calls


def _calls(manifest: Manifest) -> Iterator[tuple[str, Call]]:
    """Yield the calls of all programs, with their devices."""
    for program in manifest.programs:
        for step in program.instructions:
            if isinstance(step, Call):
                yield program.device, step


def _cpu_costs(artifact: Artifact, names: Sequence[str], progress: Progress) -> CostTable:
    cores = {name: require_cores(name) for name in names}
    calls = kernel_calls(artifact)
    models = {cpu_model_name(name): cores[name] for name in reversed(names)}
    total = len(calls) * len(models)
    times: dict[str, dict[str, Measurement]] = {}
    for i, (model, own) in enumerate(models.items()):
        report = partial(_report, progress, i * len(calls), total)
        times[model] = _latencies(artifact, calls, own, report)
    longest = max(calls, key=lambda name: next(iter(times.values()))[name].ms)
    link, independence = _between(artifact, calls[longest], list(cores.values()))
    platform = Platform(
        tuple(Device(name, cpu_model_name(name), len(cores[name])) for name in names),
        default_link=link,
        independence=independence,
    )
    return CostTable(times, platform=platform)


def _latencies(
    artifact: Artifact,
    calls: Mapping[str, tuple[str, KernelCall]],
    cores: tuple[int, ...],
    progress: Progress,
) -> dict[str, Measurement]:
    """Return the time of each operator alone on `cores`, library after library."""
    times: dict[str, Measurement] = {}
    for entry in dict.fromkeys(entry for entry, _ in calls.values()):
        own = {name: call for name, (other, call) in calls.items() if other == entry}
        measured = measure_kernels(
            artifact.libraries[entry],
            list(own.values()),
            cores,
            progress=partial(_report, progress, len(times), len(calls)),
        )
        times.update(zip(own, measured, strict=True))
    return times


def _report(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _between(
    artifact: Artifact, longest: tuple[str, KernelCall], cores: Sequence[tuple[int, ...]]
) -> tuple[Link, float]:
    """Measure the link between two devices, and independence by the longest kernel."""
    if len(cores) == 1:
        return UNLIMITED, 1.0
    entry, call = longest
    library = artifact.libraries[entry]
    link = fit_link(measure_transfers(library, cores[0], cores[1]))
    return link, measure_independence(library, call, cores)


def _gpu_costs(artifact: Artifact, names: Sequence[str], progress: Progress) -> CostTable:
    """Measure the kernels of an artifact for GPUs on the first one, and copies to the second."""
    manifest = artifact.manifest
    spec = next((d for d in manifest.devices if d.device_code and d.library), None)
    if spec is None:
        raise UsageError("the artifact has no code for GPUs: export it with --target sm_90 or such")
    places = [gpu_place(name) for name in names]
    if len({place.parts for place in places}) > 1:
        raise UsageError("whole GPUs and parts of them are measured one after the other")
    kernel_of = {
        step.operator: step.kernel
        for _, step in _calls(manifest)
        if step.kernel in manifest.gpu_kernels
    }
    driver = load_driver()
    library = load_library(artifact.libraries[spec.library or ""])
    with _opened(driver, places, artifact.libraries[spec.device_code or ""]) as gpus:
        benches = [GpuBench(gpu, manifest.gpu_kernels, library) for gpu in gpus]
        kernels: dict[str, Measurement] = {}
        for name in dict.fromkeys(kernel_of.values()):
            kernels[name] = benches[0].kernel(name)
            progress(len(kernels), len(set(kernel_of.values())))
        link = UNLIMITED if len(gpus) == 1 else fit_link(measure_copies(benches[0], benches[1]))
        model = gpu_model_name(driver.arch(gpus[0].index), places[0].parts)
        shares = {operator: benches[0].utilization(name) for operator, name in kernel_of.items()}
    return CostTable(
        {model: {operator: kernels[name] for operator, name in kernel_of.items()}},
        utilization={model: shares},
        precision={model: manifest.recipe.precision},
        platform=Platform(
            tuple(Device(name, model, GPU_STREAMS) for name in names), default_link=link
        ),
    )


@contextmanager
def _opened(driver: CudaDriver, places: Sequence[GpuPlace], code: bytes) -> Iterator[list[Gpu]]:
    """Yield the GPUs, or parts of them, with `code` loaded, each reaching the others' memory."""
    shares = {}
    if places[0].parts > 1:
        shares = {p.index: split_gpu(driver, p.index, p.parts) for p in places}
    gpus = [Gpu(driver, p.index, code, shares[p.index][p.part] if shares else None) for p in places]
    try:
        for first, second in permutations(gpus, 2):
            if first.index != second.index:
                first.reach(second)
        yield gpus
    finally:
        for gpu in gpus:
            gpu.close()


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
        costs, graph = measure_artifact(options.artifact, devices, verify_key=options.verify_key)
        write_costs(costs, graph, options.output)
    except HiosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
