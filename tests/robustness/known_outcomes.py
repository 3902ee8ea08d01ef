"""Attacks whose outcomes are known, for a test of what counts them."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from attack_runner import OUTCOMES, Attempt, ForeignBytesError

from hios_tvm.errors import ArtifactError


def each_outcome(folder: Path) -> Attempt:
    outcomes = iter(OUTCOMES)

    def attempt(rng: random.Random) -> None:
        match next(outcomes):
            case "refused":
                raise ArtifactError("no")
            case "foreign":
                raise ForeignBytesError("other bytes")
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(60)
            case "traceback":
                raise IndexError("out of range")

    return attempt


def hang(folder: Path) -> Attempt:
    return lambda rng: time.sleep(60)
