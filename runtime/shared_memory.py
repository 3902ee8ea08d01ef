"""Sealed memory that processes of one user share.

Each user has a folder in shared memory, with a link for each content to the descriptor of a process
that has it. Nobody has to be trusted: a process that finds such a link has made the same content
itself, compares the two, and only then uses the other one, which is sealed, and drops its own.
Without the folder, or the right to open another process's descriptor, processes do not share.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import weakref
from pathlib import Path

from hios_tvm.runtime.sealed_memory import SEALS, SealedMemory

_FOLDER = Path(f"/dev/shm/hios-tvm-weights-{os.geteuid()}")
_CHUNK = 1 << 20  # bytes that are compared at once


class SharedMap:
    """A read-only map of sealed memory, which other processes can find while it is referenced."""

    def __init__(self, memory: SealedMemory, name: str) -> None:
        """Map what `memory` has, or the equal content of another process called `name`."""
        self.content = memory.map()
        with contextlib.suppress(OSError):  # each process may well have a copy of its own
            folder = _open_folder()
            other = _equal_content(folder / name, self.content)
            if other is not None:
                self.content = other
            else:
                self._publish(memory, folder / name)

    def _publish(self, memory: SealedMemory, link: Path) -> None:
        descriptor = fcntl.fcntl(memory.descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
        try:
            target = f"/proc/{os.getpid()}/fd/{descriptor}"
            weakref.finalize(self, _withdraw, link, target, descriptor, os.getpid())
        except BaseException:
            os.close(descriptor)
            raise
        for old in link.parent.iterdir():
            if not old.exists():  # of a process that was killed
                old.unlink(missing_ok=True)
        new = link.with_name(f"{link.name}-{os.getpid()}-{descriptor}")
        new.symlink_to(target)
        new.replace(link)


def _withdraw(link: Path, target: str, descriptor: int, process: int) -> None:
    """Close the descriptor, and remove its link, which is the parent's in a forked process."""
    try:
        if os.getpid() == process and os.readlink(link) == target:
            link.unlink()
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _open_folder() -> Path:
    """Return the folder that only this user can write; `OSError` where there is none."""
    with contextlib.suppress(FileExistsError):
        _FOLDER.mkdir(0o700)
    status = _FOLDER.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise OSError(f"{_FOLDER} is not this user's alone")
    return _FOLDER


def _equal_content(link: Path, content: mmap.mmap) -> mmap.mmap | None:
    """Return the sealed memory that `link` leads to, if it is the same as `content`."""
    try:
        descriptor = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:  # nobody has it, or its process has ended
        return None
    try:
        if os.fstat(descriptor).st_size != len(content):
            return None
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS != SEALS:
            return None
        other = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError:  # no memory of this kind
        return None
    finally:
        os.close(descriptor)
    starts = range(0, len(content), _CHUNK)
    if all(content[i : i + _CHUNK] == other[i : i + _CHUNK] for i in starts):
        return other
    return None
