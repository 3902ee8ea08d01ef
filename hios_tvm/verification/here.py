"""Whether an artifact can run on this machine."""

from __future__ import annotations

import re
from collections.abc import Collection

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cpu import available_features, require_cores
from hios_tvm.runtime.devices.cuda import load_driver
from hios_tvm.schema.device_names import gpu_place
from hios_tvm.schema.manifest import DeviceSpec, Manifest

_ARCH = re.compile(r"sm_([0-9]+)([0-9])([af]?)")


def why_not_here(manifest: Manifest, features: Collection[str]) -> str | None:
    """Return why this process cannot run the artifact; None where it should.

    `features` are those of the CPU that its libraries were compiled for.
    """
    available = available_features()
    missing = [] if available is None else sorted(set(features) - available)
    if missing:
        return f"its code needs the CPU features {', '.join(missing)}, which this machine lacks"
    busy = {program.device for program in manifest.programs}
    try:
        for device in manifest.devices:
            if device.name in busy:
                _require(device)
    except DeviceError as error:
        return str(error).partition(";")[0]
    return None


def _require(device: DeviceSpec) -> None:
    """Raise `DeviceError` where the device is not here, or is another kind of GPU."""
    if device.kind == "cpu":
        require_cores(device.name)
        return
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
