"""Costs of an artifact's kernels on GPUs of this machine, and GPUs as a platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hios_tvm.errors import UsageError
from hios_tvm.runtime.devices.cuda.driver import load_driver
from hios_tvm.runtime.devices.cuda.gpu import open_gpus
from hios_tvm.runtime.devices.cuda.kernels import GpuBench, measure_links, measure_operators
from hios_tvm.runtime.devices.kernel_calls import kernel_calls
from hios_tvm.runtime.native import load_library
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import GPU_STREAMS, gpu_model_name, gpu_place, whole_device
from hios_tvm.schema.links import PARTS_OF_GPU
from hios_tvm.schema.platform import UNLIMITED, Device, Link, Platform

if TYPE_CHECKING:
    from hios_tvm.runtime.read_artifact import Artifact

Progress = Callable[[int, int], None]


def measure_on_gpus(artifact: Artifact, names: Sequence[str], progress: Progress) -> CostTable:
    """Measure the kernels of an artifact for GPUs on the first one, and links to others."""
    manifest = artifact.manifest
    spec = next((d for d in manifest.devices if d.device_code and d.library), None)
    if spec is None:
        raise UsageError("the artifact has no code for GPUs: export it with --target sm_90 or such")
    places = [gpu_place(name) for name in names]
    if len({place.parts for place in places}) > 1:
        raise UsageError("whole GPUs and parts of them are measured one after the other")
    calls = {
        operator: call
        for operator, (_, call) in kernel_calls(manifest).items()
        if call.kernel in manifest.gpu_kernels
    }
    driver = load_driver()
    library = load_library(artifact.libraries[spec.library or ""])
    code = artifact.libraries[spec.device_code or ""]
    gpus = open_gpus(driver, places, [code] * len(places))
    try:
        benches = [GpuBench(gpu, manifest.gpu_kernels, library) for gpu in gpus]
        latency, utilization = measure_operators(benches[0], calls, progress)
        shortest = min(latency, key=lambda operator: latency[operator].ms)
        copies, reference = measure_links(benches, calls[shortest])
    finally:
        for gpu in gpus:
            gpu.close()
    model = gpu_model_name(driver.arch(places[0].index), places[0].parts)
    return CostTable(
        {model: latency},
        utilization={model: utilization},
        precision={model: manifest.recipe.precision},
        platform=gpu_platform(dict.fromkeys(names, model), copies or UNLIMITED, reference),
    )


def gpu_platform(
    models: Mapping[str, str], copies: Link, reference: Link | None = None
) -> Platform:
    """Return GPUs, or parts of them, as a platform.

    Parameters
    ----------
    models : device -> model
    copies
        What copies between GPUs take.
    reference
        What hand-overs between parts of one take, if that was measured.
    """
    devices = tuple(
        Device(name, model, GPU_STREAMS, memory=whole_device(name))
        for name, model in models.items()
    )
    return Platform(devices, default_link=copies).with_references(reference or PARTS_OF_GPU)
