"""Commands without a home, a cache, space on the disk, descriptors, cores or memory."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from attack_runner import Attack, Attempt, CrashError, ForeignBytesError, HangError
from attacks_on_artifacts import attack_network, write_artifact

import hios_tvm
from hios_tvm.errors import ExecutionError

ROOT = Path(hios_tvm.__file__).parents[1]


@dataclass(frozen=True)
class Surroundings:
    """What a command finds.

    Attributes
    ----------
    variables : mapping
        Environment variables; None removes one.
    limits : mapping
        Limits of `resource` by their number.
    cores : int, optional
        How many cores it may use.
    output : str, optional
        Where its standard output goes.
    is_folder_gone : bool
        Whether its working folder is removed before it starts.
    prefix : sequence of str
        Words before the command, of a program that starts it.
    group : Path, optional
        Control group that it joins.
    limit_s : float
        Seconds after which it hangs.
    """

    variables: Mapping[str, str | None] = field(default_factory=dict)
    limits: Mapping[int, int] = field(default_factory=dict)
    cores: int | None = None
    output: str = os.devnull
    is_folder_gone: bool = False
    prefix: Sequence[str] = ()
    group: Path | None = None
    limit_s: float = 150.0

    def run(self, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of this project here."""
        variables: dict[str, str] = {**os.environ, "PYTHONPATH": str(ROOT)}
        variables |= {name: value for name, value in self.variables.items() if value is not None}
        for name, value in self.variables.items():
            if value is None:
                variables.pop(name, None)
        start = folder / "start"
        start.mkdir(exist_ok=True)
        try:
            with open(self.output, "w") as output:
                return subprocess.run(
                    [*self.prefix, sys.executable, "-m", "hios_tvm", *command],
                    stdout=output,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    env=variables,
                    cwd=start,
                    timeout=self.limit_s,
                    preexec_fn=self._enter,
                )
        except subprocess.TimeoutExpired as error:
            raise HangError(f"{self}: {error}") from error

    def _enter(self) -> None:
        if self.group is not None:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))
        if self.is_folder_gone:
            os.rmdir(os.getcwd())
        if self.cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self.cores])
        for limit, value in self.limits.items():
            resource.setrlimit(limit, (value, value))


def _surroundings(rng: random.Random, folder: Path) -> Surroundings:
    a_file = folder / "a-file"
    a_file.touch()
    choices: list[Callable[[], Surroundings]] = [
        lambda: Surroundings({"HOME": None, "XDG_CACHE_HOME": None}),
        lambda: Surroundings({"HOME": "/nonexistent", "XDG_CACHE_HOME": None}),
        lambda: Surroundings({"XDG_CACHE_HOME": "/proc/self"}),
        lambda: Surroundings({"XDG_CACHE_HOME": str(a_file)}),
        lambda: Surroundings({"TMPDIR": "/nonexistent"}),
        lambda: Surroundings({"PATH": "/nonexistent"}),
        lambda: Surroundings({"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TERM": "dumb"}),
        lambda: Surroundings({"HIOS_REQUIRE_SIGNATURE": "/nonexistent"}),
        lambda: Surroundings(limits={resource.RLIMIT_FSIZE: 1 << rng.randrange(0, 20)}),
        lambda: Surroundings(limits={resource.RLIMIT_NOFILE: rng.randrange(8, 64)}),
        lambda: Surroundings(limits={resource.RLIMIT_AS: rng.randrange(2 << 30, 8 << 30)}),
        lambda: Surroundings(limits={resource.RLIMIT_STACK: 1 << rng.randrange(20, 24)}),
        lambda: Surroundings(limits={resource.RLIMIT_MEMLOCK: 0}),
        lambda: Surroundings(cores=1),
        lambda: Surroundings(output="/dev/full"),
        lambda: Surroundings(is_folder_gone=True),
    ]
    return rng.choice(choices)()


def _commands(folder: Path) -> Attempt:
    artifact, model, inputs = folder / "model.hios", folder / "model.onnx", folder / "in.npz"
    write_artifact(artifact)
    model.write_bytes(attack_network().SerializeToString())
    arrays = {"x": np.ones((6, 8), np.float32), "i": np.array([0, 5, -1])}
    np.savez(inputs, **arrays)
    with hios_tvm.load(artifact) as session:
        expected = session.run(arrays)["y"].copy()

    def attempt(rng: random.Random) -> None:
        surroundings = _surroundings(rng, folder)
        made, outputs = folder / "made.hios", folder / "out" / "y.npy"
        for path in (made, outputs):
            path.unlink(missing_ok=True)
        compile_words = ["compile", str(model), "-o", str(made), "--scheduler", "sequential"]
        run_words = ["run", str(artifact), "--input", str(inputs)]
        run_words += ["--output-dir", str(outputs.parent)]
        is_compile = rng.randrange(3) == 0
        words = compile_words if is_compile else run_words
        judge(surroundings.run(words, folder), surroundings)
        if is_compile:
            hios_tvm.load(made).close()
        elif not np.allclose(np.load(outputs), expected, rtol=1e-5):
            raise ForeignBytesError(f"{surroundings}: other outputs")

    return attempt


def judge(result: subprocess.CompletedProcess[str], surroundings: Surroundings) -> None:
    """Return where the command succeeded; raise what else it did."""
    report = f"{surroundings}: exit code {result.returncode}: {result.stderr[-2000:]}"
    if result.returncode < 0:
        raise CrashError(report)
    if "Traceback" in result.stderr or "No such option" in result.stderr:
        raise RuntimeError(report)
    if result.returncode > 0:
        if "rror" not in result.stderr:
            raise RuntimeError(report)
        raise ExecutionError(report)


ATTACKS = (Attack("resources: commands in poor surroundings", _commands, 100, limit_s=200),)
