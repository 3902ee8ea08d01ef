"""Attacks in processes of their own, and what came of each try."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from hios_tvm.errors import HiosError

OUTCOMES = ("refused", "right", "foreign", "crash", "hang", "traceback")
"""What may come of a try.

``refused`` is one of this project's errors, ``right`` a result that is right, ``foreign`` one that
is not, ``crash`` the end of the process, ``hang`` no end within the limit, ``traceback`` any other
exception.
"""

START_LIMIT_S = 900.0
MEMORY_BYTES = 12 << 30
_CONTEXT = multiprocessing.get_context("spawn")

Attempt = Callable[[random.Random], None]
"""Makes one try; raises `HiosError` where it was refused, and `ForeignBytes` for a wrong result."""


class ForeignBytesError(AssertionError):
    """A result that is not right: it holds what the input does not lead to."""


class CrashError(Exception):
    """A process of the try's own ended by a signal."""


class HangError(Exception):
    """A process of the try's own did not end."""


@dataclass(frozen=True)
class Attack:
    """A kind of attack.

    Attributes
    ----------
    name : str
    prepare : callable
        Called once in each process, with an empty folder; returns what makes a try.
    count : int
        How many tries, unless another number is asked for.
    limit_s : float
        Time for one try.
    """

    name: str
    prepare: Callable[[Path], Attempt]
    count: int
    limit_s: float = 60.0


@dataclass
class Result:
    """What came of all tries of an attack; `failures` holds the reports of defects."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether each try was refused, or succeeded and was right."""
        return not any(self.counts[outcome] for outcome in OUTCOMES[2:])


def run_attack(attack: Attack, count: int, seed: int) -> Result:
    """Make `count` tries; those after a crash or a hang go on in a new process."""
    result = Result(attack.name)
    done = 0
    while done < count:
        with _Child(attack, seed) as child:
            for number in range(done, count):
                outcome, report = child.attempt(number)
                result.counts[outcome] += 1
                done = number + 1
                if outcome in OUTCOMES[2:]:
                    result.failures.append(f"{attack.name}, try {number}: {outcome}: {report}")
                if not child.is_alive:
                    break
    return result


class _Child:
    """A process that makes tries of one attack."""

    def __init__(self, attack: Attack, seed: int) -> None:
        self._limit_s = attack.limit_s
        self._folder = tempfile.TemporaryDirectory(prefix="hios-attack-")
        self._pipe, other = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_work, args=(other, attack, seed, Path(self._folder.name))
        )
        self._process.start()
        other.close()
        self.is_alive = True
        self._is_ready = False

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        if self.is_alive:
            self._process.join(10)
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    def attempt(self, number: int) -> tuple[str, str]:
        """Make try `number`; return its outcome and a report."""
        try:
            if not self._is_ready:
                self._is_ready = self._pipe.poll(START_LIMIT_S) and self._pipe.recv() == "ready"
            self._pipe.send(number)
            if self._is_ready and self._pipe.poll(self._limit_s):
                answer: tuple[str, str] = self._pipe.recv()
                return answer
        except (EOFError, ConnectionError):
            self._process.join(10)
            self.is_alive = False
            output = Path(self._folder.name, "output").read_text(errors="replace")[-2000:]
            return "crash", f"exit code {self._process.exitcode}\n{output}"
        self.is_alive = False
        return "hang", f"no end within {self._limit_s:.0f} s"


def _work(pipe: Connection, attack: Attack, seed: int, folder: Path) -> None:
    """Make the tries whose numbers arrive, until the other end closes."""
    _use_limits()
    with open(folder / "output", "wb") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    scratch = folder / "scratch"
    scratch.mkdir()
    attempt = attack.prepare(scratch)
    pipe.send("ready")
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            number = pipe.recv()
            rng = random.Random(f"{seed} {attack.name} {number}")
            pipe.send(_outcome(attempt, rng))


def _use_limits() -> None:
    warnings.simplefilter("ignore")
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or most > MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _outcome(attempt: Attempt, rng: random.Random) -> tuple[str, str]:
    try:
        attempt(rng)
    except HiosError as error:
        return "refused", str(error)
    except ForeignBytesError as error:
        return "foreign", str(error)
    except CrashError as error:
        return "crash", str(error)
    except HangError as error:
        return "hang", str(error)
    except Exception:
        return "traceback", traceback.format_exc()
    return "right", ""
