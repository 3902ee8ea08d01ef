"""Checks of what `Session.run_many` relies on: replicas, and inputs in flight."""

from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.schema.device_names import cores_of
from hios_tvm.schema.manifest import Manifest

MAX_IN_FLIGHT = 64


def check_sessions(manifest: Manifest) -> None:
    """Check that no core has two sessions, and that inputs in flight are for CPUs, of one shape.

    Sizes of replicas' devices are compared when these are used.

    Raises
    ------
    ArtifactError
        On the first rule that is broken.
    """
    try:
        used = {core for device in manifest.devices for core in cores_of(device.name)}
        for name in (name for names in manifest.replicas for name in names):
            cores = cores_of(name)
            _require(bool(cores), f"replicas are for CPUs only, not for {name!r}")
            _require(used.isdisjoint(cores), f"a core of replica {name!r} has another session")
            used.update(cores)
    except DeviceError as error:
        raise ArtifactError(str(error)) from error
    slots = manifest.in_flight
    _require(
        1 <= slots <= MAX_IN_FLIGHT, f"it has {slots} inputs in flight, not 1 to {MAX_IN_FLIGHT}"
    )
    if slots == 1:
        return
    _require(manifest.shapes is None, "it has several inputs in flight, and several shapes")
    for device in manifest.devices:
        _require(
            bool(cores_of(device.name)),
            f"several inputs in flight are for CPUs only, not for {device.name!r}",
        )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ArtifactError(message)
