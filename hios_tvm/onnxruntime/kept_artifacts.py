"""Artifacts of models that were compiled before, in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from onnx import ModelProto

from hios_tvm.compiler import compile
from hios_tvm.compiler.source import NO_CONFIGURATION
from hios_tvm.errors import ArtifactError, HiosError
from hios_tvm.files import private_folder
from hios_tvm.frontends.onnx.files import external_tensors
from hios_tvm.runtime import Session, load
from hios_tvm.runtime.machine import device_fingerprint
from hios_tvm.schema.manifest import FORMAT_VERSION
from hios_tvm.version import __version__

_FOLDER = "artifacts"


def load_or_compile(
    model: ModelProto,
    path: Path | None,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    devices: tuple[str, ...],
    cache_dir: Path,
    options: Mapping[str, Any],
) -> Session:
    """Load the artifact of a model, and compile the model first where there is none.

    Parameters
    ----------
    model : ModelProto
        As its file holds it, without external data.
    path : Path, optional
        Its file.
    shapes, devices, options
        As `hios_tvm.compile` takes them.
    cache_dir : Path
        Folder of artifacts, costs and kernels.
    """
    key = _key(model, path, [sorted(shapes.items()), devices, sorted(options.items())])
    try:
        artifact = private_folder(cache_dir / _FOLDER) / f"{key}.hios"
    except OSError as error:
        raise HiosError(f"cannot keep artifacts in {cache_dir}: {error}") from error
    if artifact.exists():
        try:
            return load(artifact)
        except ArtifactError:  # of another executor, or damaged
            pass
    source = path or model
    words = {"shapes": shapes, "devices": devices, "cache_dir": cache_dir, **options}
    return compile(source, artifact, configuration=NO_CONFIGURATION, **words).load()


def _key(model: ModelProto, path: Path | None, choices: object) -> str:
    """Digest of all that an artifact depends on; of external data, of when its files changed."""
    words = [__version__, FORMAT_VERSION, tvm.__version__, device_fingerprint(), choices]
    digest = hashlib.sha256(json.dumps(words, default=str).encode())
    digest.update(path.read_bytes() if path else model.SerializeToString(deterministic=True))
    if path is not None:
        places = {
            entry.value
            for tensor in external_tensors(model.graph)
            for entry in tensor.external_data
            if entry.key == "location"
        }
        for place in sorted(places):
            file = path.parent / place
            if file.is_file():
                status = file.stat()
                digest.update(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]
