"""Files that are whole or not there."""

import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory, gettempdir
from typing import BinaryIO, cast

from hios_tvm.errors import HiosError, UsageError

_ABANDONED_S = 60.0
"""Age at which a temporary file that no process holds is one that a killed process left."""

_MARK = "in-use-by-hios-tvm"
"""A file in each temporary folder, which its process has locked."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, and rename it to `path` when the block succeeds.

    An error or an interrupt in the block leaves what was at `path` before. The data is on the
    disk before the name is, so a power cut leaves no half-written file either.

    Raises
    ------
    UsageError
        If the folder does not exist, cannot be written, or the disk is full.
    """
    with temporary_file(path) as file, write_errors(path):
        yield file
        file.flush()
        os.fsync(file.fileno())
        os.chmod(file.name, 0o666 & ~_umask())
        os.replace(file.name, path)


@contextmanager
def temporary_file(beside: Path) -> Iterator[BinaryIO]:
    """Open a new file in the folder of `beside`, and remove it at the end of the block.

    Those that killed processes left there are removed too: each is locked while it is in use.

    Raises
    ------
    UsageError
        If the folder does not exist, cannot be written, or the disk is full.
    """
    check_writable(beside)
    _sweep(beside)
    with ExitStack() as stack:
        with write_errors(beside):
            file = stack.enter_context(
                NamedTemporaryFile(dir=beside.parent, prefix=f".{beside.name}.", delete=False)
            )
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield cast(BinaryIO, file)
        finally:
            with suppress(OSError):  # it has another name now, or the next process removes it
                os.unlink(file.name)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for temporary files, and remove it at the end of the block.

    What cannot be removed, and what killed processes left, the next process removes.
    """
    _sweep_folders(gettempdir())
    folder = TemporaryDirectory(prefix="hios-", ignore_cleanup_errors=True)
    with folder as name, open(Path(name, _MARK), "wb") as mark:
        with suppress(OSError):  # of file systems without locks
            fcntl.flock(mark, fcntl.LOCK_SH)
        yield Path(name)


@cache  # once in a process
def _sweep_folders(parent: str) -> None:
    """Remove temporary folders whose process was killed."""
    with suppress(OSError):
        for mark in Path(parent).glob(f"hios-*/{_MARK}"):
            folder = mark.parent
            with suppress(OSError):
                if not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
                    _remove_abandoned(str(mark))
                    if not mark.exists():
                        shutil.rmtree(folder)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the system says while `path` is written into one `UsageError` that names it."""
    try:
        yield
    except HiosError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _sweep(beside: Path) -> None:
    """Remove temporary files of `beside` whose process was killed."""
    pattern = re.compile(rf"\.{re.escape(beside.name)}\.[a-z0-9_]{{8}}")
    with suppress(OSError), os.scandir(beside.parent) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_abandoned(entry.path)


def _remove_abandoned(path: str) -> None:
    """Remove a file that is not new, and that no process has locked."""
    with suppress(OSError), open(path, "rb") as file:
        if time.time() - os.fstat(file.fileno()).st_mtime > _ABANDONED_S:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)


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
