"""What a fleet serves and what its replicas need: the `args` of an application of Ray Serve."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hios_tvm.errors import UsageError
from hios_tvm.runtime.signature import required_key
from hios_tvm.schema.device_names import cores_of, gpu_place
from hios_tvm.serving.model_source import ModelSource, check_versions
from hios_tvm.serving.options import ServerOptions

FRONT = "front"
"""The deployment at the front door; the others are called as their models."""

_LIMITS = ("queue", "max_batch", "max_wait", "max_request")


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """Artifacts, whose signature they need, and the limits of each model.

    Attributes
    ----------
    models
        The versions of each model, by its name; the last one is the default.
    verify_key
        File of a public key, where all nodes can read it.
    limits
        Of which the ports and logs have no meaning here.
    """

    models: Mapping[str, tuple[ModelSource, ...]]
    verify_key: Path | None
    limits: ServerOptions

    @classmethod
    def parse(cls, args: Mapping[str, Any]) -> FleetOptions:
        """Read `args` of an application.

        Raises
        ------
        UsageError
            If one is unknown or has a value that cannot be used.
        """
        known = ("artifacts", "verify_key", "require_signature", *_LIMITS)
        for name in args:
            if name not in known:
                raise UsageError(f"args: {name!r} is unknown; known are {', '.join(known)}")
        artifacts = args.get("artifacts")
        if not isinstance(artifacts, list) or not artifacts:
            raise UsageError("args: artifacts has to be a list, for example [/models/resnet.hios]")
        sources = [ModelSource.parse(str(text)) for text in artifacts]
        check_versions(sources)
        models: dict[str, tuple[ModelSource, ...]] = {}
        for source in sources:
            if not re.fullmatch(r"[\w.-]+", source.name) or source.name == FRONT:
                raise UsageError(
                    f"args: no model can be called {source.name!r}; write NAME={source.location}"
                )
            models[source.name] = (*models.get(source.name, ()), source)
        key = args.get("verify_key")
        if args.get("require_signature") and required_key(key) is None:
            raise UsageError(
                "args: require_signature needs verify_key, or HIOS_REQUIRE_SIGNATURE in env_vars"
            )
        return cls(
            models=models,
            verify_key=None if key is None else Path(key),
            limits=ServerOptions(**_limits(args)),
        )


def _limits(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that are given, of the right types."""
    types = {field.name: type(field.default) for field in fields(ServerOptions)}
    limits = {name: args[name] for name in _LIMITS if name in args}
    for name, value in limits.items():
        allowed = (int, float) if types[name] is float else types[name]
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise UsageError(f"args: {name} has to be {types[name].__name__}, not {value!r}")
    return limits


def resources_of(artifacts: Iterable[Iterable[str]]) -> dict[str, int]:
    """Return what a replica asks the cluster for, from the devices of its artifacts.

    An artifact that uses GPUs alone has one thread of the host.

    >>> resources_of([["cpu@0-1", "cpu@0", "cpu@1"], ["cpu@4", "cuda:1.0/2", "cuda:1.1/2"]])
    {'num_cpus': 3, 'num_gpus': 1}
    """
    cores = gpus = 0
    for devices in artifacts:
        names = list(devices)
        cores += max(1, len({core for name in names for core in cores_of(name)}))
        gpus += len({gpu_place(name).index for name in names if not cores_of(name)})
    return {"num_cpus": cores, "num_gpus": gpus}
