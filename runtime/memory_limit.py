"""How much memory this process may take, compared before anything large is allocated.

Models and artifacts say in a few bytes how large their tensors are. A system that runs out of
memory ends processes, this one or others, so that sizes are compared with what is free before they
are believed.
"""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import ArgumentError
from pathlib import Path

from hios_tvm.errors import HiosError, MemoryLimitError

_SMALL = 1 << 16  # bytes for which nobody looks at the memory that is free
_NO_MEMORY = (  # in other errors: of the system, locks, hashlib, ctypes, paths, C++, Python
    os.strerror(errno.ENOMEM),
    "can't allocate",
    "[digital envelope routines]",
    "MemoryError",
    "not PosixPath",
    "std::bad_alloc",
    "without exception set",
    "NULL object passed",
)
_WHERE_MEMORY_ENDS = (
    *(MemoryError, OSError, RuntimeError, TypeError, ValueError, ArgumentError),
    SystemError,  # where Python has lost its own MemoryError
)

_limit: ContextVar[int | None] = ContextVar("memory_limit", default=None)


@contextmanager
def memory_limit(nbytes: int | None) -> Iterator[None]:
    """Let this process take up to `nbytes` inside of the block; with None, all that is free."""
    token = _limit.set(nbytes)
    try:
        yield
    finally:
        _limit.reset(token)


def check_memory(nbytes: int, what: str) -> None:
    """Compare the bytes of `what` with the memory that this process may still take.

    Raises
    ------
    MemoryLimitError
        If they are too many.
    """
    if nbytes < _SMALL:
        return
    limit = _limit.get()
    if limit is not None:
        free, reason = limit - taken_memory(), f"of the limit of {_gib(limit)}"
    else:
        free, reason = free_memory(), "free on this machine"
    if nbytes > free:
        raise MemoryLimitError(
            f"{what} needs {_gib(nbytes)} of memory, and {_gib(max(0, free))} are {reason}"
        )


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Raise one `MemoryLimitError` for all that Python says in the block where memory ends."""
    try:
        yield
    except HiosError:
        raise
    except _WHERE_MEMORY_ENDS as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
            raise MemoryLimitError(f"there is too little memory to {what}") from error
        raise


def free_memory() -> int:
    """Return the bytes that this process can take now: of the machine, or of its container."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    free = int(kib) * 1024
    in_container = _free_in_container(Path("/sys/fs/cgroup"))
    return free if in_container is None else min(free, in_container)


def _free_in_container(folder: Path) -> int | None:
    """Read the limit of a control group of version 2; None where there is none.

    Pages of files that are kept from earlier reads are given back when memory is needed.
    """
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        statistics = dict(line.split() for line in lines)
        return limit - used + int(statistics["inactive_file"])
    except (OSError, ValueError, KeyError):  # a ValueError for "max", no limit
        return None


def taken_memory() -> int:
    """Return the bytes of memory that this process has taken."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes < 2**60 else "more than 2^60 bytes"
