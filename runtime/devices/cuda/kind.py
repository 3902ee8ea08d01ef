"""GPUs of NVIDIA: what the table of kinds has."""

import math
import re
from collections.abc import Mapping

from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.runtime.devices.cuda.driver import load_driver
from hios_tvm.runtime.devices.cuda.measure import measure_on_gpus
from hios_tvm.runtime.devices.cuda.session_gpus import SessionGpus
from hios_tvm.runtime.devices.interface import DeviceKind
from hios_tvm.schema.device_names import GPU_STREAMS, gpu_place
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.manifest import DeviceSpec, Manifest

MAX_THREADS = 1024  # of a block
MAX_GRID = (2**31 - 1, 2**16 - 1, 2**16 - 1)
MAX_SHARED_BYTES = 256 * 1024

_ARCH = re.compile(r"sm_([0-9]+)([0-9])([af]?)")


def _require_gpu(device: DeviceSpec) -> None:
    """Raise `DeviceError` where there is no such GPU, or it is of another architecture."""
    driver = load_driver()
    index, count = gpu_place(device.name).index, driver.gpu_count()
    if index >= count:
        raise DeviceError(f"there is no GPU {device.name}: this process may use {count}")
    here = driver.arch(index)
    if not _runs_on(device.target, here):
        raise DeviceError(f"GPU {device.name} of this machine is of the architecture {here}")


def _runs_on(target: str, here: str) -> bool:
    """Whether code for `target` runs on a GPU: one of the same generation that is not older.

    >>> _runs_on('{"arch":"sm_80"}', "sm_86"), _runs_on('{"arch":"sm_90a"}', "sm_100")
    (True, False)
    """
    code, gpu = _ARCH.search(target), _ARCH.search(here)
    if code is None or gpu is None:
        return True
    newer = gpu[2] == code[2] if code[3] == "a" else gpu[2] >= code[2]
    return gpu[1] == code[1] and newer


def _check_code(device: DeviceSpec, manifest: Manifest) -> None:
    """Raise `ArtifactError` where a GPU lacks code, or a call does not fit its kernel."""
    _check_launches(manifest.gpu_kernels)
    busy = any(program.device == device.name for program in manifest.programs)
    _require(
        device.device_code is not None or not busy,
        f"device {device.name!r} has work but no library",
    )
    for name, call in manifest.calls():
        if name != device.name:
            continue
        kernel = manifest.gpu_kernels.get(call.kernel)
        if kernel is None:
            raise ArtifactError(f"operator {call.operator!r} calls the unknown {call.kernel!r}")
        _require(
            tuple(manifest.buffer[arg].nbytes for arg in call.args)
            == kernel.nbytes + kernel.scratch,
            f"operator {call.operator!r} has arguments of other sizes than its kernel's",
        )


def _check_launches(kernels: Mapping[str, GpuKernel]) -> None:
    for name, kernel in kernels.items():
        where = f"kernel {name!r} of a GPU"
        _require(bool(kernel.launches), f"{where} launches nothing")
        arguments = len(kernel.nbytes) + len(kernel.scratch)
        for launch in kernel.launches:
            _require(
                len(launch.grid) == 3
                and all(1 <= size <= most for size, most in zip(launch.grid, MAX_GRID, strict=True))
                and len(launch.block) == 3
                and all(size >= 1 for size in launch.block)
                and math.prod(launch.block) <= MAX_THREADS
                and launch.shared_bytes <= MAX_SHARED_BYTES,
                f"{where} has a grid or block that no GPU runs",
            )
            _require(
                all(number < arguments for number in launch.args),
                f"{where} has an argument that it is not given",
            )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ArtifactError(message)


CUDA = DeviceKind(
    kind="cuda",
    first="cuda:0",
    own_memory=True,
    check_names=lambda names: [gpu_place(name) for name in names],
    streams=lambda name: GPU_STREAMS,
    check_code=_check_code,
    require=_require_gpu,
    load=lambda request: SessionGpus(request, load_driver()).loaded(),
    measure=measure_on_gpus,
)
