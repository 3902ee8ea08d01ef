"""Files that are whole or not there."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hios_tvm.errors import UsageError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, and rename it to `path` when the block succeeds.

    An error or an interrupt in the block leaves what was at `path` before. The data is on the
    disk before the name is, so a power cut leaves no half-written file either.

    Raises
    ------
    UsageError
        If the folder does not exist or cannot be written.
    """
    check_writable(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where they do not exist.

    Raises
    ------
    UsageError
        If that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {path}: {error.strerror}") from error


def check_writable(path: Path) -> None:
    """Raise `UsageError` where no file can be written at `path`, before work is spent on it."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: no permission in {path.parent}")


def private_folder(path: Path) -> Path:
    """Make a folder that only this user may use, or check that `path` is one, and return it.

    For files whose content is executed: who may write there runs code as this user.

    Raises
    ------
    OSError
        If it cannot be made, or another user may write there, with the reason as its text.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = path.resolve()
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"the folder {path} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"other users may write in {path}: run chmod 700 {path}")
    for parent in path.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise PermissionError(f"other users may replace {path}: anyone may write in {parent}")
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
