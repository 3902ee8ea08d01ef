"""Whether an artifact can run on this machine."""

from collections.abc import Collection

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices import kind_of
from hios_tvm.runtime.devices.cpu.cores import available_features
from hios_tvm.schema.manifest import Manifest


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
                kind_of(device.name).require(device)
    except DeviceError as error:
        return str(error).partition(";")[0]
    return None
