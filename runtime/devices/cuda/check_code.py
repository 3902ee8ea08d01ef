"""Checks of what the kernels of GPUs launch: device code checks neither grids nor arguments."""

import math
from collections.abc import Mapping

from hios_tvm.errors import ArtifactError
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.manifest import DeviceSpec, Manifest

MAX_THREADS = 1024  # of a block
MAX_GRID = (2**31 - 1, 2**16 - 1, 2**16 - 1)
MAX_SHARED_BYTES = 256 * 1024


def check_code(device: DeviceSpec, manifest: Manifest) -> None:
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
