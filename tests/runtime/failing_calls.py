"""Load and run an artifact while the n-th call of a function fails, for every n; print the counts.

failing_calls.py LIBRARY ARTIFACT DEVICES FUNCTION
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
import threading

import numpy as np

from hios_tvm import runtime
from hios_tvm.errors import HiosError

_MOST = 200  # tries; a load makes fewer calls of each function


def main(library: str, artifact: str, devices: str, function: str) -> None:
    """Make a try for each n until no call fails any more."""
    logging.disable()  # tests in other processes use the same cores
    calls = ctypes.CDLL(library)
    name = function.encode()
    inputs = np.ones(1000, np.float32)

    def load_and_run() -> bytes:
        with runtime.load(artifact, devices=devices) as session:
            return b"".join(array.tobytes() for array in session.run(inputs).values())

    expected = load_and_run()
    before = _resources()
    refused = 0
    for n in range(1, _MOST):
        calls.fail_call(name, n)
        try:
            outputs = load_and_run()
        except HiosError as error:
            outputs = None
            refused += 1
            assert str(error), "an error without a message"
        is_over = not calls.has_failed()
        calls.fail_call(None, 0)
        gc.collect()
        assert outputs in (None, expected), f"{function} {n}: other outputs"
        assert load_and_run() == expected, f"{function} {n}: the next try fails"
        assert _resources() == before, f"{function} {n}: {before} has become {_resources()}"
        if is_over:
            print(f"{n - 1} calls, {refused} refused")
            return
    raise AssertionError(f"{function} is called without an end")


def _resources() -> tuple[int, int]:
    """Return how many threads and descriptors the process has."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    main(*sys.argv[1:])
