"""GPUs of NVIDIA: what the table of kinds has."""

import re

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cuda.driver import load_driver
from hios_tvm.runtime.devices.cuda.measure import measure_on_gpus
from hios_tvm.runtime.devices.cuda.session_gpus import SessionGpus
from hios_tvm.runtime.devices.interface import DeviceKind
from hios_tvm.schema.device_names import GPU_STREAMS, gpu_place
from hios_tvm.schema.manifest import DeviceSpec

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


CUDA = DeviceKind(
    kind="cuda",
    first="cuda:0",
    own_memory=True,
    check_names=lambda names: [gpu_place(name) for name in names],
    streams=lambda name: GPU_STREAMS,
    require=_require_gpu,
    load=lambda request: SessionGpus(request, load_driver()).loaded(),
    measure=measure_on_gpus,
)
