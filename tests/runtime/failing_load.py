"""Load and run an artifact, for failing_calls.py: ARTIFACT [DEVICE...]."""

from __future__ import annotations

import logging

import numpy as np
from failing_calls import Calls

from hios_tvm import runtime


class Load:
    """Loads an artifact and runs it."""

    def __init__(self, artifact: str, *devices: str) -> None:
        logging.disable()  # tests in other processes use the same cores
        self._artifact, self._devices = artifact, devices or None
        with runtime.load(artifact, devices=self._devices) as session:
            self._inputs = [np.ones(spec.shape, spec.dtype) for spec in session.inputs]

    def attempt(self, calls: Calls) -> object:
        """Return the bytes of the outputs."""
        with calls.failing():
            session = runtime.load(self._artifact, devices=self._devices)
        with session:
            # glibc ends the process where it has no memory for a thread's local data, which the
            # first run of a thread takes.
            session.run(self._inputs)
            with calls.failing():
                outputs = session.run(self._inputs)
            return [array.tobytes() for array in outputs.values()]

    def left_behind(self) -> list[str]:
        """Return nothing: no file is written."""
        return []


make = Load
