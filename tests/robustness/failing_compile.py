"""Compile a tiny network, for failing_calls.py: FOLDER CACHE, an empty folder, and warm or cold."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from failing_calls import Calls
from onnx_models import make_model, node, noise

import hios_tvm
from hios_tvm import files
from hios_tvm.backends.cpu import library
from hios_tvm.cli import main
from hios_tvm.errors import HiosError

_OF_ONNX_RUNTIME = ".ses"  # a file that it leaves where temporary files are


class Compile:
    """Runs `hios-tvm compile` in this process, and what it makes."""

    def __init__(self, folder: str, cache: str) -> None:
        self._folder = Path(folder)
        self._is_cold = cache == "cold"
        for name in ("out", "tmp", "cache"):
            (self._folder / name).mkdir()
        os.environ["TMPDIR"] = str(self._folder / "tmp")
        os.environ["XDG_CACHE_HOME"] = str(self._folder / "cache")
        nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "y")]
        model = make_model(nodes, {"x": (4, 8)}, ["y"], {"w": noise(8, 8)})
        path = self._folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        self._made = self._folder / "out" / "model.hios"
        core = f"cpu@{min(os.sched_getaffinity(0))}"
        self._words = ["compile", str(path), "-o", str(self._made), "--devices", core]
        self._words += ["--scheduler", "sequential", "--no-progress"]

    def attempt(self, calls: Calls) -> object:
        """Return the bytes of the outputs."""
        self._made.unlink(missing_ok=True)
        if self._is_cold:
            shutil.rmtree(self._folder / "cache" / "hios-tvm", ignore_errors=True)
            library._compile_runtime.cache_clear()
        said = io.StringIO()
        try:
            with _said_to(said), calls.failing():
                main(self._words, standalone_mode=False, prog_name="hios-tvm")
        except SystemExit as end:
            if end.code:
                if self._made.exists():  # what failed came later
                    self._run()
                raise HiosError(_error_of(said.getvalue())) from end
        return self._run()

    def _run(self) -> object:
        with hios_tvm.load(self._made) as session:
            outputs = session.run(np.ones((4, 8), np.float32))
            return [array.tobytes() for array in outputs.values()]

    def left_behind(self) -> list[str]:
        """Return temporary files that no later process would remove either."""
        long_ago = time.time() - 3600
        for path in self._folder.rglob("*"):
            os.utime(path, (long_ago, long_ago), follow_symlinks=False)
        files._sweep_folders.cache_clear()
        files._sweep_folders(str(self._folder / "tmp"))
        files._sweep(self._made)
        left = [*(self._folder / "tmp").iterdir(), *(self._folder / "out").iterdir()]
        return sorted(p.name for p in left if p != self._made and p.name != _OF_ONNX_RUNTIME)


@contextlib.contextmanager
def _said_to(text: io.StringIO) -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(text):
        yield


def _error_of(said: str) -> str:
    """Return the message of a command, which may have warned before."""
    *_, last = said.strip().splitlines() or [""]
    if not last.startswith("error: ") or "Traceback" in said:
        raise AssertionError(said)
    return last.removeprefix("error: ")


make = Compile
