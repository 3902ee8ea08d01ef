"""A process that judges networks one after another, so that a crash or a hang ends it alone."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from random_networks.judge import Verdict, judge
from random_networks.network import Network

LATE = "no end within"
"""How the reason begins where a network takes too long."""

CONTEXT = multiprocessing.get_context("spawn")


class Judge:
    """Judges networks in a process of its own, which is started again when it has died.

    Use it in a ``with`` statement. `limit_s` is the time that one network may take;
    compiled kernels are kept for the next network.

    The verdict ``unusable`` means that ONNX Runtime itself cannot run the network.
    """

    def __init__(self, limit_s: float = 120.0) -> None:
        self.limit_s = limit_s
        self._kernels = tempfile.TemporaryDirectory(prefix="hios-fuzz-")
        self._pipe: Connection | None = None
        self._process: multiprocessing.process.BaseProcess | None = None

    def __call__(self, network: Network) -> Verdict:
        pipe = self._started()
        try:
            pipe.send(network)
            if pipe.poll(self.limit_s):
                verdict: Verdict = pipe.recv()
                return verdict
        except (EOFError, ConnectionError):
            self._stop()
            return Verdict("crashed", "the process died")
        self._stop()
        return Verdict("crashed", f"{LATE} {self.limit_s:.0f} s")

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        self._kernels.cleanup()

    def _started(self) -> Connection:
        if self._pipe is None:
            self._pipe, other = CONTEXT.Pipe()
            self._process = CONTEXT.Process(
                target=_work, args=(other, Path(self._kernels.name)), daemon=True
            )
            self._process.start()
            other.close()
        return self._pipe

    def _stop(self) -> None:
        if self._pipe is not None and self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._pipe = self._process = None


def _work(pipe: Connection, kernels: Path) -> None:
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(quiet, stream.fileno())
    while True:
        try:
            network = pipe.recv()
        except EOFError:
            return
        try:
            verdict = judge(network, cache_dir=kernels)
        except Exception as error:  # the reference's own: ONNX Runtime's errors have no common base
            verdict = Verdict("unusable", f"{type(error).__name__}: {error}")
        pipe.send(verdict)
