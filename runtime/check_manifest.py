"""Checks of manifests before anything of an artifact runs.

Devices, buffers and programs must fit each other, and the order of instructions must be free of
hangs and races. The rules are in `runtime/checks/`, written in C++ for this runtime and for the one
without Python. Only what kinds of devices add that are not known there is checked here.
"""

import ctypes
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from hios_tvm.errors import ArtifactError, DeviceError, MemoryLimitError
from hios_tvm.runtime.checks_library import load_checks
from hios_tvm.runtime.devices import KINDS, kind_of
from hios_tvm.schema.manifest import Manifest

TensorTypes: TypeAlias = Mapping[str, tuple[tuple[int, ...], str]]

_MEMORY = 4  # HIOS_MEMORY


def check_manifest(
    manifest: Manifest,
    weights: TensorTypes,
    sources: TensorTypes = MappingProxyType({}),
) -> None:
    """Check everything that running an artifact of one shape relies on.

    Parameters
    ----------
    manifest : Manifest
    weights, sources
        Shape and dtype of each tensor in ``params.safetensors`` and ``sources.safetensors``.

    Raises
    ------
    ArtifactError
        On the first rule that is broken.
    MemoryLimitError
        If there is too little memory for the checks.
    """
    check_texts([manifest.to_json()], [manifest], weights, sources)


def check_texts(
    texts: Sequence[bytes],
    manifests: Sequence[Manifest],
    weights: TensorTypes,
    sources: TensorTypes,
) -> None:
    """Check all manifests of an artifact, and that they are of one model.

    Parameters
    ----------
    texts, manifests
        Of each shape, the largest one first: as the artifact has it, and as it was read.
    weights, sources
        As in `check_manifest`, whose errors are raised.
    """
    others = [kind for kind in KINDS.values() if kind.check_code is not None]
    facts = json.dumps(
        {
            "weights": _types(weights),
            "sources": _types(sources),
            "kinds": [
                {"name": kind.kind, "first": kind.first, "own_memory": kind.own_memory}
                for kind in others
            ],
        }
    ).encode()
    library = load_checks()
    for text, manifest in zip(texts, manifests, strict=True):
        _require_ok(library.hios_check_manifest(text, len(text), facts, len(facts)))
        _check_other_kinds(manifest)
    if manifests[0].shapes is not None:
        _check_shapes(texts)


def check_shapes(manifests: Sequence[Manifest]) -> None:
    """Check that the manifests of an artifact are of one model, each of a shape of its own.

    Raises
    ------
    ArtifactError
        On the first rule that is broken.
    """
    _check_shapes([manifest.to_json() for manifest in manifests])


def _check_shapes(texts: Sequence[bytes]) -> None:
    count = len(texts)
    sizes = (ctypes.c_size_t * count)(*map(len, texts))
    _require_ok(load_checks().hios_check_shapes((ctypes.c_char_p * count)(*texts), sizes, count))


def _check_other_kinds(manifest: Manifest) -> None:
    """Check names and code of the devices of kinds that the library knows no rules for."""
    for device in manifest.devices:
        kind = kind_of(device.name)
        if kind.check_code is not None:
            try:
                kind.check_names((device.name,))
            except DeviceError as error:
                raise ArtifactError(str(error)) from error
            kind.check_code(device, manifest)


def _types(tensors: TensorTypes) -> dict[str, dict[str, object]]:
    return {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in tensors.items()}


def _require_ok(status: int) -> None:
    """Raise what the library has just refused in this thread."""
    if status:
        message = load_checks().hios_check_error().decode(errors="replace")
        raise MemoryLimitError(message) if status == _MEMORY else ArtifactError(message)
