"""Artifacts on Ray Serve: what `serve run` and `serve deploy` build an application with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException

from hios_tvm.errors import HiosError
from hios_tvm.runtime import read_manifest
from hios_tvm.serving.artifact_store import fetch, identity_of
from hios_tvm.serving.fleet_front import Front
from hios_tvm.serving.fleet_options import FRONT, FleetOptions, resources_of
from hios_tvm.serving.fleet_replica import Replica
from hios_tvm.serving.model_source import ModelSource

_WAITING = 1000
"""Requests that wait at most for a replica of one model, at each front door."""


def application(args: dict[str, Any]) -> serve.Application:
    """Return the application with these artifacts; ``import_path`` of a YAML file names this.

    All artifacts are read and checked first: one that is damaged, or lacks the signature, leaves
    what is served as it is.

    Parameters
    ----------
    args
        As `FleetOptions.parse` reads them.

    Raises
    ------
    RayServeException
        If one is wrong, or an artifact cannot be used.
    """
    try:
        options = FleetOptions.parse(args)
        models = {
            name: _deployment(name, sources, options) for name, sources in options.models.items()
        }
    except HiosError as error:  # Ray shows others with their stack
        raise RayServeException(str(error)) from None
    front = serve.deployment(
        serve.ingress()(Front),
        name=FRONT,
        max_ongoing_requests=_WAITING,
        ray_actor_options={"num_cpus": 0},
    )
    return front.bind(models, options.limits.max_request_bytes)


def _deployment(
    name: str, sources: Sequence[ModelSource], options: FleetOptions
) -> serve.Application:
    """Return the deployment of one model, which asks for the devices of all its versions."""
    paths = {source.version: fetch(source.location) for source in sources}
    manifests = [read_manifest(path, verify_key=options.verify_key) for path in paths.values()]
    identities = {version: identity_of(path) for version, path in paths.items()}
    devices = [[device.name for device in manifest.devices] for manifest in manifests]
    deployment = serve.deployment(
        Replica,
        name=name,
        num_replicas="auto",
        max_ongoing_requests=options.limits.queue,  # so that a replica never refuses any
        max_queued_requests=_WAITING,
        ray_actor_options=resources_of(devices),
    )
    return deployment.bind(sources, identities, options)
