"""Anonymous memory that nobody can change any more, not even this process.

What is read from a file and verified stays as it was, whatever happens to the file: it may be
overwritten, shortened or removed.
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class SealedMemory:
    """Bytes that are written once, then sealed.

    Use it as a context manager: at the end of the block the descriptor is closed, and what was
    mapped stays.
    """

    def __init__(self, name: str) -> None:
        # A file owns its descriptor from the start: Python may have no memory for what follows.
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self._file = io.FileIO(name, "rb+", opener=lambda name, _: os.memfd_create(name, flags))

    def __enter__(self) -> SealedMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def write(self, content: bytes) -> None:
        """Append `content`; `OSError` where memory ends, or after `seal`."""
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]

    def writable(self, nbytes: int) -> mmap.mmap:
        """Return that many new zero bytes, to be closed before `seal`; `OSError` as in `write`."""
        os.posix_fallocate(self.descriptor, 0, nbytes)
        return mmap.mmap(self.descriptor, nbytes)

    def seal(self) -> None:
        """Allow no more changes."""
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, SEALS)

    def map(self) -> mmap.mmap:
        """Return all of it, read-only."""
        return mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)
