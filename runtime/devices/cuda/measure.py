"""Costs of an artifact's kernels on GPUs of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hios_tvm.errors import UsageError
from hios_tvm.runtime.devices.cuda.driver import load_driver
from hios_tvm.runtime.devices.cuda.gpu import open_gpus
from hios_tvm.runtime.devices.cuda.kernels import GpuBench, measure_copies, measure_operators
from hios_tvm.runtime.devices.kernel_calls import kernel_calls
from hios_tvm.runtime.devices.samples import fit_link
from hios_tvm.runtime.native import load_library
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import GPU_STREAMS, gpu_model_name, gpu_place
from hios_tvm.schema.platform import UNLIMITED, Device, Platform

if TYPE_CHECKING:
    from hios_tvm.runtime.read_artifact import Artifact

Progress = Callable[[int, int], None]


def measure_on_gpus(artifact: Artifact, names: Sequence[str], progress: Progress) -> CostTable:
    """Measure the kernels of an artifact for GPUs on the first one, and copies to the second."""
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
        link = UNLIMITED if len(gpus) == 1 else fit_link(measure_copies(benches[0], benches[1]))
    finally:
        for gpu in gpus:
            gpu.close()
    model = gpu_model_name(driver.arch(places[0].index), places[0].parts)
    return CostTable(
        {model: latency},
        utilization={model: utilization},
        precision={model: manifest.recipe.precision},
        platform=Platform(
            tuple(Device(name, model, GPU_STREAMS) for name in names), default_link=link
        ),
    )
