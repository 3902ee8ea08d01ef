"""Artifacts at URLs, fetched once by each machine of a fleet."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from hios_tvm.errors import ArtifactError, HiosError
from hios_tvm.files import atomic_write, private_folder
from hios_tvm.runtime.read_artifact import read_undamaged

_STAMP = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "generation")
"""What file systems say of a file that changes with its contents."""


def cache_folder() -> Path:
    """Return where a machine keeps the artifacts that it has fetched."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hios-tvm" / "artifacts"


def fetch(location: str) -> Path:
    """Return a file with what is at `location`; URLs are fetched once.

    Parameters
    ----------
    location
        A path, or a URL of any kind that fsspec knows: ``https:`` and, with their packages,
        ``s3:``, ``gs:``, ``abfs:``, ``hdfs:`` and others.

    Raises
    ------
    ArtifactError
        If it cannot be read. What was read is checked by whoever loads it.
    """
    if "://" not in location:
        return Path(location)
    import fsspec  # only URLs need it

    folder = cache_folder()
    try:
        system, remote = fsspec.url_to_fs(location)
        target = folder / _name_of(location, system.info(remote))
        private_folder(folder)  # what is there is loaded, with its code
        if not target.exists():
            with system.open(remote, "rb") as source, atomic_write(target) as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except HiosError:
        raise
    except Exception as error:  # each kind of file system has errors of its own
        problem = str(error).split("\n", 1)[0] or type(error).__name__
        raise ArtifactError(f"{location}: cannot be read: {problem}") from error
    return target


def _name_of(location: str, info: dict[str, Any]) -> str:
    """Return a name for a copy of a file, another one when the file has changed."""
    stamp = [location, *(str(info.get(key)) for key in _STAMP)]
    return f"{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()}.hios"


def identity_of(path: Path) -> str:
    """Return the SHA-256 of an artifact's manifest, which has that of everything else.

    Raises
    ------
    ArtifactError
        If the artifact is damaged.
    """
    return hashlib.sha256(read_undamaged(path)[0]).hexdigest()


def fetch_same(location: str, identity: str) -> Path:
    """Return a file with the artifact of this identity, which was at `location` before.

    Raises
    ------
    ArtifactError
        If another one is there now.
    """
    path = fetch(location)
    if identity_of(path) != identity:
        raise ArtifactError(
            f"{location}: has changed since it was deployed; give each version a file of its own, "
            "and deploy it"
        )
    return path
