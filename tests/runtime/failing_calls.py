"""Load and run an artifact while the n-th call of a function fails, for every n; print the counts.

failing_calls.py LIBRARY ARTIFACT DEVICES FUNCTION [STEP]

With a step, only each call of that distance fails.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from hios_tvm import runtime
from hios_tvm.errors import HiosError
from hios_tvm.runtime.devices.cpu.claims import _CLAIMS

_MOST = 500  # tries; a load makes fewer calls of each function


def main(library: str, artifact: str, devices: str, function: str, step: str = "1") -> None:
    """Make a try for each n until no call fails any more."""
    logging.disable()  # tests in other processes use the same cores
    calls = ctypes.CDLL(library)
    name = function.encode()
    inputs = np.ones(1000, np.float32)

    def load_and_run() -> bytes:
        with runtime.load(artifact, devices=devices) as session:
            # glibc ends the process where it has no memory for a thread's local data, which the
            # first run of a thread takes.
            left = calls.fail_call(None, 0)
            session.run(inputs)
            calls.fail_call(name, left)
            outputs = session.run(inputs)
            calls.fail_call(None, calls.fail_call(None, 0))
            return b"".join(array.tobytes() for array in outputs.values())

    expected = load_and_run()
    before = _resources()
    refused = 0
    for n in range(1, _MOST, int(step)):
        calls.fail_call(name, n)
        outputs = None
        try:
            outputs = load_and_run()
        except HiosError as error:
            refused += 1
            assert str(error), "an error without a message"
        is_over = calls.fail_call(None, 0) > 0
        assert outputs in (None, expected), f"{function} {n}: other outputs"
        assert load_and_run() == expected, f"{function} {n}: the next try fails"
        _await_resources(before, f"{function} {n}")
        if is_over:
            print(f"{n - 1} calls, {refused} refused")
            return
    raise AssertionError(f"{function} is called without an end")


def _await_resources(before: tuple[int, ...], what: str) -> None:
    """Wait until the process has what it had: a thread that could not be used ends by itself."""
    end = time.monotonic() + 20
    while (now := _resources()) != before:
        assert time.monotonic() < end, f"{what}: {before} has become {now}"
        time.sleep(0.01)


def _resources() -> tuple[int, ...]:
    """Return how many threads, descriptors, claims on cores and mapped libraries there are."""
    gc.collect()
    mapped = Path("/proc/self/maps").read_text().count("memfd:hios-")
    descriptors = len(os.listdir("/proc/self/fd"))
    return threading.active_count(), descriptors, sum(_CLAIMS.used.values()), mapped


if __name__ == "__main__":
    main(*sys.argv[1:])
