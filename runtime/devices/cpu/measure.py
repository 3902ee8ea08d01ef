"""Costs of an artifact's kernels on CPU devices of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Literal

from hios_tvm.errors import ArtifactError
from hios_tvm.runtime.devices.cpu.bench import KernelArg, KernelCall
from hios_tvm.runtime.devices.cpu.copies import measure_transfers
from hios_tvm.runtime.devices.cpu.cores import require_cores
from hios_tvm.runtime.devices.cpu.kernels import measure_independence, measure_kernels
from hios_tvm.runtime.devices.samples import fit_link
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.device_names import cpu_model_name
from hios_tvm.schema.platform import UNLIMITED, Device, Link, Platform

if TYPE_CHECKING:
    from hios_tvm.runtime.read_artifact import Artifact

Progress = Callable[[int, int], None]


def measure_on_cpus(artifact: Artifact, names: Sequence[str], progress: Progress) -> CostTable:
    """Measure the kernels of an artifact on CPU devices, and these as a platform."""
    cores = {name: require_cores(name) for name in names}
    calls = _kernel_calls(artifact)
    models = {cpu_model_name(name): cores[name] for name in reversed(names)}
    times: dict[str, dict[str, Measurement]] = {model: {} for model in models}
    of_library: dict[str, dict[str, KernelCall]] = {}
    for name, (entry, call) in calls.items():
        of_library.setdefault(entry, {})[name] = call
    for (model, own), (entry, some) in product(models.items(), of_library.items()):
        report = partial(_report, progress, sum(map(len, times.values())), len(calls) * len(models))
        library, kernels = artifact.libraries[entry], list(some.values())
        measured = measure_kernels(library, kernels, own, progress=report)
        times[model].update(zip(some, measured, strict=True))
    longest = max(calls, key=lambda name: next(iter(times.values()))[name].ms)
    entry, call = calls[longest]
    link, independence = measure_together(artifact.libraries[entry], call, list(cores.values()))
    platform = Platform(
        tuple(Device(name, cpu_model_name(name), len(cores[name])) for name in names),
        default_link=link,
        independence=independence,
    )
    return CostTable(times, platform=platform)


def _kernel_calls(artifact: Artifact) -> dict[str, tuple[str, KernelCall]]:
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
    for device, step in manifest.calls():
        first = len(step.args) - step.outputs
        args = tuple(arg(name, i >= first) for i, name in enumerate(step.args))
        entry = manifest.device[device].library or ""
        calls[step.operator] = (entry, KernelCall(step.kernel, args))
    if not calls:
        raise ArtifactError("the artifact has no operators: there is nothing to measure")
    return calls


def _report(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def measure_together(
    library: bytes, call: KernelCall, cores: Sequence[tuple[int, ...]]
) -> tuple[Link, float]:
    """Return the link between the first two devices, and how independent all are in `call`."""
    if len(cores) == 1:
        return UNLIMITED, 1.0
    link = fit_link(measure_transfers(library, cores[0], cores[1]))
    return link, measure_independence(library, call, cores)
