"""An artifact becomes a session on devices that are free."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from hios_tvm.runtime import Session, load, read_manifest
from hios_tvm.runtime.devices.cpu.claims import choosing_cores, claimed_cores
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.serving.core_shares import on_gpus, share_of
from hios_tvm.serving.model_source import ModelSource

_LOG = logging.getLogger("hios_tvm.serving")


def load_source(
    source: ModelSource,
    devices: str | None = None,
    verify_key: Path | None = None,
    gpus: Iterator[int] | None = None,
) -> Session:
    """Load an artifact, by default on cores that no other session uses, if there are enough.

    Parameters are those of `load_models`.
    """
    if devices is not None:
        session = load(source.path, devices=devices, verify_key=verify_key)
    else:
        manifest = read_manifest(source.path, verify_key=verify_key)
        own = [device.name for device in manifest.devices]
        if gpus is not None:
            own = on_gpus(own, gpus)
        allowed = allowed_cores()
        with choosing_cores():  # else two processes that start together take the same ones
            share = share_of(own, allowed, claimed_cores(allowed))
            session = load(source.path, devices=share, verify_key=verify_key)
    used = ", ".join(session.devices)
    _LOG.info("%s version %s: %s on %s", source.name, source.version, source.location, used)
    return session
