"""From an artifact's file to a session."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from hios_tvm.errors import ArtifactError
from hios_tvm.runtime.executor import DEFAULT_SPIN_US
from hios_tvm.runtime.memory_limit import memory_errors
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.runtime.session import Session
from hios_tvm.schema.device_names import split_devices


def load(
    path: str | os.PathLike[str],
    *,
    devices: Mapping[str, str] | Sequence[str] | str | None = None,
    verify_key: str | os.PathLike[str] | None = None,
    exclusive: bool = False,
    spin_us: float = DEFAULT_SPIN_US,
    gpu_trace: bool = False,
    cuda_graph: bool | None = None,
) -> Session:
    """Load an artifact, after all of it has been checked.

    Parameters
    ----------
    path
        A ``.hios`` file. Sessions have copies of its code and weights: whatever happens to the
        file, they go on.
    devices
        Other devices than those that the artifact was compiled for, of the same kinds and with
        as many cores: a mapping from the artifact's names, or all of them in its order, also as
        one string with commas. The artifact's replicas are not loaded then.
    verify_key : path, optional
        File of an Ed25519 public key (PEM): an artifact that its owner did not sign
        (``hios-tvm sign``) is refused before anything else of the file is used. By default the
        key that the environment variable ``HIOS_REQUIRE_SIGNATURE`` names, if it is set.
    exclusive : bool
        Refuse cores that another process with this runtime uses, and let no other one use them.
        Otherwise a core that is shared is logged as a warning.
    spin_us : float
        How long a worker polls for an event, or for the next run, before it sleeps. A shorter time
        saves power where runs are far apart, and delays the start of each.
    gpu_trace : bool
        Record kernels and copies of GPUs in traces, at a cost of some microseconds each.
    cuda_graph : bool, optional
        Launch all work of the GPUs as one CUDA graph. All operators must be on GPUs, and traces do
        not show them. By default it is done where all operators are on GPUs, the driver can capture
        them, and `gpu_trace` is not given.

    Raises
    ------
    ArtifactError
        If the file is damaged, was made for another version or CPU, or is not signed with the key.
    UsageError
        If `verify_key` is no such key, or the package cryptography is missing.
    DeviceError
        If this process may not use a device, or another process uses its cores exclusively.
    MemoryLimitError
        If there is too little memory.
    """
    with memory_errors(f"load {path}"):
        if isinstance(devices, str):
            devices = split_devices(devices)
        artifact = open_artifact(path, verify_key=verify_key)
        open_session = partial(
            Session,
            artifact,
            exclusive=exclusive,
            spin_us=spin_us,
            gpu_trace=gpu_trace,
            cuda_graph=cuda_graph,
        )
        try:
            with ExitStack() as stack:
                replicas = [
                    stack.enter_context(open_session(devices=names))
                    for names in (artifact.manifest.replicas if devices is None else ())
                ]
                session = open_session(devices=devices, replicas=replicas)
                stack.pop_all()
                return session
        except ArtifactError as error:
            command = artifact.manifest.rebuild_command
            raise ArtifactError(f"{path}: {error}; make it again with {command!r}") from error
