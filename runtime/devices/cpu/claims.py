"""Claims on cores: which process uses which, so that two do not pin to the same unknowingly.

Each core is a byte of one file in shared memory, and each process that uses the core holds a POSIX
record lock on it: shared, or exclusive where the session asked for that. The kernel drops the
locks of a process that ends, whatever its end. Each user has a file of their own, so that nobody
can lock another user's sessions out; claims of other users, and of containers that do not share
``/dev/shm``, are not seen.
"""

import fcntl
import logging
import os
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hios_tvm.errors import DeviceError

_PATH = f"/dev/shm/hios-tvm-cores-{os.geteuid()}"
_CHOICE = f"{_PATH}-choice"
_FLOCK = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length, process
_LOG = logging.getLogger("hios_tvm")


@dataclass
class _Claims:
    """How often this process uses each core; locks belong to a process, not to a session.

    `told` has cores and the other processes on them that were warned of.
    """

    used: Counter[int] = field(default_factory=Counter)
    exclusive: Counter[int] = field(default_factory=Counter)
    told: set[tuple[int, int]] = field(default_factory=set)
    descriptor: int | None = None
    # Forgotten sessions are released wherever the garbage collector runs, so also in here.
    lock: Any = field(default_factory=threading.RLock)

    def reset(self) -> None:
        """Forget the claims of the parent of a forked process; the open file serves both."""
        self.used.clear()
        self.exclusive.clear()
        self.told.clear()
        self.lock = threading.RLock()  # the parent's may have been copied locked


_CLAIMS = _Claims()
os.register_at_fork(after_in_child=_CLAIMS.reset)


class CoreClaim:
    """Cores that a session uses until `release`."""

    def __init__(self, cores: Iterable[int], *, exclusive: bool) -> None:
        self._cores = tuple(cores)
        self._held = 0  # how many of them, from the first on
        self._exclusive = exclusive
        self._process = os.getpid()

    def take(self, descriptor: int) -> None:
        """Take all cores; `DeviceError` if other processes forbid it."""
        for core in self._cores:
            _warn(descriptor, core, self._exclusive)
            try:
                _count(descriptor, core, 1, self._exclusive)
            except OSError as error:
                alone = self._exclusive or _CLAIMS.exclusive[core] > 0
                holder = _name(_holder(descriptor, core, exclusive=alone))
                who = "the new session" if self._exclusive else "that process"
                raise DeviceError(
                    f"core {core} is used by {holder}, and {who} wants it for itself; map the "
                    "artifact's devices to others with devices="
                ) from error
            self._held += 1

    def release(self) -> None:
        """Give the cores back. Releasing twice is fine, and so is a forked child.

        Where memory ends on the way, another call gives back the rest.
        """
        if self._process == os.getpid():
            with _CLAIMS.lock:
                while self._held > 0:
                    assert _CLAIMS.descriptor is not None
                    _count(_CLAIMS.descriptor, self._cores[self._held - 1], -1, self._exclusive)
                    self._held -= 1


def claim_cores(cores: Iterable[int], *, exclusive: bool = False) -> CoreClaim:
    """Claim `cores` for this process, visibly for others.

    A core that another process has claimed too is logged as a warning: both will be slower.

    Raises
    ------
    DeviceError
        If another process uses one of the cores and one of the two claims it exclusively, or if
        `exclusive` is asked for where cores cannot be claimed (no ``/dev/shm``).
    """
    claim = CoreClaim(dict.fromkeys(cores), exclusive=exclusive)
    with _CLAIMS.lock:
        descriptor = _open_file()
        if descriptor is None:
            if exclusive:
                raise DeviceError(f"cores cannot be claimed: {_PATH} is not this user's alone")
            return CoreClaim((), exclusive=False)
        try:
            claim.take(descriptor)
        except BaseException:
            claim.release()
            raise
    return claim


def claimed_cores(cores: Iterable[int]) -> frozenset[int]:
    """Return those of `cores` that sessions use, of this process and of others that are visible."""
    with _CLAIMS.lock:
        descriptor = _open_file()
        return frozenset(
            core
            for core in cores
            if _CLAIMS.used[core]
            or (descriptor is not None and _holder(descriptor, core, exclusive=True) is not None)
        )


@contextmanager
def choosing_cores() -> Iterator[None]:
    """Let one process of this user at a time look for free cores and claim them."""
    try:
        descriptor = os.open(_CHOICE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT, 0o600)
    except OSError:  # there are no claims either
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _warn(descriptor: int, core: int, exclusive: bool) -> None:
    """Say once for each other process that it shares a core with this one."""
    if not exclusive and not _CLAIMS.used[core]:
        holder = _holder(descriptor, core, exclusive=True)
        if holder is not None and (core, holder) not in _CLAIMS.told:
            _CLAIMS.told.add((core, holder))
            _LOG.warning(
                "core %d is also used by %s: both will be slower; give each process cores of its "
                "own with devices=",
                core,
                _name(holder),
            )


def _count(descriptor: int, core: int, change: int, exclusive: bool) -> None:
    """Change how often `core` is used, and its lock, or neither; `OSError` if others forbid it."""
    for counter in (_CLAIMS.used, _CLAIMS.exclusive):
        counter.setdefault(core, 0)
    _CLAIMS.used[core] += change  # which takes no memory any more
    _CLAIMS.exclusive[core] += change * exclusive
    try:
        _lock(descriptor, core)
    except BaseException:
        _CLAIMS.used[core] -= change
        _CLAIMS.exclusive[core] -= change * exclusive
        raise


def _lock(descriptor: int, core: int) -> None:
    """Hold the lock that the claims of this process on `core` need; `OSError` if others forbid."""
    if _CLAIMS.exclusive[core]:
        kind = fcntl.LOCK_EX | fcntl.LOCK_NB
    elif _CLAIMS.used[core]:
        kind = fcntl.LOCK_SH | fcntl.LOCK_NB
    else:
        kind = fcntl.LOCK_UN
    fcntl.lockf(descriptor, kind, 1, core)


def _holder(descriptor: int, core: int, *, exclusive: bool) -> int | None:
    """Return a process whose lock forbids one of this kind; 0 if it is not visible from here."""
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(kind, os.SEEK_SET, core, 1, 0))
    found, *_, process = _FLOCK.unpack(answer)
    return None if found == fcntl.F_UNLCK else process


def _name(process: int | None) -> str:
    return f"process {process}" if process else "another process"


def _open_file() -> int | None:
    """Open the file that only this user can open; closing it would drop all locks."""
    if _CLAIMS.descriptor is None:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CREAT
        try:
            descriptor = os.open(_PATH, flags, 0o600)
        except OSError:
            return None
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:  # somebody else was first
            os.close(descriptor)
            return None
        _CLAIMS.descriptor = descriptor
    return _CLAIMS.descriptor
