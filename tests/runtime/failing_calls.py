"""Do something again and again while the n-th call of a function fails, for every n.

failing_calls.py LIBRARY WORK FUNCTION STEP ARGUMENT...

LIBRARY is failing_calls.c, which has to be preloaded; WORK is load, compile or serve, whose file
has the ARGUMENTs. With a STEP of more than 1 only each call of that distance fails. Each failure
has to be one error, the next try has to succeed, and the process has what it had before. Prints the
counts, and what went wrong.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hios_tvm.errors import HiosError
from hios_tvm.runtime.devices.cpu.claims import _CLAIMS

_WAIT_S = 20.0
_OF_ONE_THREAD = ("malloc", "mmap64")
"""Where a new thread has no memory, Python's Thread.start waits for ever."""


class Calls:
    """The preloaded library: the call after `left` others fails."""

    def __init__(self, library: str, function: str) -> None:
        self._dll = ctypes.CDLL(library)
        self._name = function.encode()  # the library keeps its address
        self._everywhere = int(function not in _OF_ONE_THREAD)
        self.left = 0

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Let a call fail in the block; afterwards `left` is 0 or less where one has."""
        self._dll.fail_call(self._name, self.left, self._everywhere)
        try:
            yield
        finally:
            self.left = self._dll.fail_call(None, 0, 0)


class Work(Protocol):
    """What is tried."""

    def attempt(self, calls: Calls) -> object:
        """Make a try in which calls fail; return its result.

        Raises
        ------
        HiosError
            If it is refused. Any other exception is a defect, but for Python's own MemoryError.
        """

    def left_behind(self) -> list[str]:
        """Return the names of files that should not be there."""


def main(library: str, work: str, function: str, step: str, *arguments: str) -> None:
    """Make a try for each n until no call fails any more; exit with 1 where one shows a defect."""
    calls = Calls(library, function)
    tried: Work = importlib.import_module(f"failing_{work}").make(*arguments)
    tried.attempt(calls)  # imports and keeps what is kept
    calls.left = 0
    expected = tried.attempt(calls)
    before = _resources(tried)
    n, tries, refused, defects = 1, 0, 0, 0
    while True:
        calls.left = n
        problems = []
        try:
            if tried.attempt(calls) != expected:
                problems.append("other results")
        except HiosError as error:
            refused += 1
            if not str(error) or "\n" in str(error):
                problems.append(f"no error of one line: {error}")
        except MemoryError:  # of Python, which has none for another error
            refused += 1
        except BaseException:
            problems.append(traceback.format_exc())
        if calls.left > 0:
            break
        tries += 1
        calls.left = 0
        if tried.attempt(calls) != expected:
            problems.append("the next try has other results")
        after = _await_resources(tried, before)
        if after != before:
            problems.append(f"{before} has become {after}")
            before = after
        for problem in problems:
            print(f"{function} {n}: {problem}", flush=True)
        defects += bool(problems)
        n += int(step)
    print(f"{function}: {n - 1} calls, {tries} tries, {refused} refused, {defects} defects")
    sys.exit(defects > 0)


def _await_resources(tried: Work, before: tuple[object, ...]) -> tuple[object, ...]:
    """Wait until the process has what it had: a thread that could not be used ends by itself."""
    end = time.monotonic() + _WAIT_S
    while (now := _resources(tried)) != before and time.monotonic() < end:
        time.sleep(0.01)
    return now


def _resources(tried: Work) -> tuple[object, ...]:
    """Return threads, descriptors, claims on cores, mapped libraries, children, files left."""
    gc.collect()
    return (
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
        sum(_CLAIMS.used.values()),
        Path("/proc/self/maps").read_text().count("memfd:hios-"),
        Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
        tried.left_behind(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
