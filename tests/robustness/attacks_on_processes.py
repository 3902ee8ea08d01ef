"""Commands that are killed, that share files, that have little time or space; forks of sessions."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from attack_runner import Attack, Attempt, CrashError, ForeignBytesError, HangError
from attacks_on_artifacts import attack_network, write_artifact
from attacks_on_resources import ROOT, Surroundings, judge

import hios_tvm
from hios_tvm.errors import HiosError, SessionClosedError
from hios_tvm.frontends.onnx import load_onnx

_INPUTS = {"x": np.ones((6, 8), np.float32), "i": np.array([0, 5, -1])}
_LIMIT_S = 300.0
_LONG_AGO_S = 3600.0
_OF_ONNX_RUNTIME = ".ses"  # a file that it leaves where temporary files are


@dataclass(frozen=True)
class _Place:
    """Folders of a try: whatever a command leaves anywhere is found below `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("out", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.model.write_bytes(attack_network().SerializeToString())

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def made(self) -> Path:
        """The artifact that `compile_words` makes."""
        return self.folder / "out" / "made.hios"

    def compile_words(self, *more: str) -> list[str]:
        return ["compile", str(self.model), "-o", str(self.made), *more]

    def variables(self) -> dict[str, str]:
        cache_home = str(self.folder / "cache")
        return {"TMPDIR": str(self.folder / "tmp"), "XDG_CACHE_HOME": cache_home}

    def start(self, words: list[str]) -> subprocess.Popen[bytes]:
        """Start a command of this project, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "hios_tvm", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.variables()},
            start_new_session=True,
        )

    def succeed(self, words: list[str]) -> float:
        """Run a command that has to succeed; return its seconds."""
        start = time.monotonic()
        _require_success(self.start(words))
        return time.monotonic() - start

    def age(self) -> None:
        """Let all that is there look as if it were left an hour ago."""
        long_ago = time.time() - _LONG_AGO_S
        for path in self.folder.rglob("*"):
            os.utime(path, (long_ago, long_ago), follow_symlinks=False)

    def require_clean(self) -> None:
        """Check that no temporary file is left."""
        left = [*(self.folder / "tmp").iterdir(), *(self.folder / "out").iterdir()]
        left = [path for path in left if path != self.made and path.name != _OF_ONNX_RUNTIME]
        if left:
            raise RuntimeError(f"left behind: {[str(path) for path in left]}")


def _require_success(process: subprocess.Popen[bytes]) -> None:
    try:
        _, messages = process.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise HangError(str(error)) from error
    if process.returncode < 0:
        raise CrashError(f"exit code {process.returncode}")
    if process.returncode > 0:
        raise RuntimeError(f"exit code {process.returncode}: {messages.decode()[-2000:]}")


def _require_right(artifact: Path, expected: np.ndarray) -> None:
    with hios_tvm.load(artifact) as session:
        if not np.allclose(session.run(_INPUTS)["y"], expected, rtol=1e-5):
            raise ForeignBytesError("other outputs")


def _prepare(folder: Path) -> tuple[_Place, np.ndarray, float]:
    """Return where commands work, what the network computes, and how long a compile takes."""
    place = _Place(folder)
    seconds = place.succeed(place.compile_words())
    with hios_tvm.load(place.made) as session:
        expected = session.run(_INPUTS)["y"].copy()
    return place, expected, seconds


# --- Killed


def _kill(place: _Place, words: list[str], after_s: float, *, alone: bool) -> None:
    """Start a command, kill it after a time, and wait until all processes of its group are gone.

    With `alone`, its children have to notice by themselves.
    """
    process = place.start(words)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
    with suppress(ProcessLookupError):  # it has ended
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 60
    while _group_exists(process.pid):
        if time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL)
            raise HangError(f"children of {words[0]} outlive it")
        time.sleep(0.05)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _killed_compile(folder: Path) -> Attempt:
    place, expected, whole_s = _prepare(folder)

    def attempt(rng: random.Random) -> None:
        had_one = rng.randrange(2) == 0
        if not had_one:
            place.made.unlink(missing_ok=True)
        if rng.randrange(2):
            shutil.rmtree(folder / "cache", ignore_errors=True)
        words = place.compile_words(*rng.choice([[], ["--scheduler", "sequential"]]))
        _kill(place, words, rng.uniform(0.1, 1.1) * whole_s, alone=rng.randrange(2) == 0)
        if had_one or place.made.exists():
            _require_right(place.made, expected)
        place.age()
        place.succeed(words)
        _require_right(place.made, expected)
        place.require_clean()

    return attempt


def _killed_tune(folder: Path) -> Attempt:
    place, expected, _ = _prepare(folder)
    database = folder / "database"
    words = ["tune", str(place.model), "--database", str(database), "--share", "0.5"]
    words += ["--trials", "8"]
    whole_s = place.succeed(words)

    def attempt(rng: random.Random) -> None:
        if rng.randrange(2):
            shutil.rmtree(database, ignore_errors=True)
        _kill(place, words, rng.uniform(0.1, 1.1) * whole_s, alone=rng.randrange(2) == 0)
        place.age()
        place.succeed(words)
        place.succeed(place.compile_words("--database", str(database)))
        _require_right(place.made, expected)
        place.require_clean()

    return attempt


# --- At once


def _several_compilers(folder: Path) -> Attempt:
    place, expected, _ = _prepare(folder)

    def attempt(rng: random.Random) -> None:
        place.made.unlink(missing_ok=True)
        if rng.randrange(2):
            shutil.rmtree(folder / "cache", ignore_errors=True)
        processes = []
        for _ in range(rng.randrange(2, 4)):
            processes.append(place.start(place.compile_words("--scheduler", "sequential")))
            time.sleep(rng.choice([0.0, rng.uniform(0, 1)]))
        for process in processes:
            _require_success(process)
        _require_right(place.made, expected)
        place.require_clean()

    return attempt


# --- Little time and space


@contextmanager
def _cpu_quota(share: float) -> Iterator[Path]:
    """Yield a new control group whose processes get `share` of one core."""
    name = f"hios-attack-{os.getpid()}"
    for folder, file, text in (
        ("/sys/fs/cgroup", "cpu.max", f"{int(100_000 * share)} 100000"),
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", f"{int(100_000 * share)}"),
    ):
        group = Path(folder, name)
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / file).exists():
                (group / file).write_text(text)
                yield group
                return
        finally:
            group.rmdir()
    raise OSError("no control group can be made here")


@cache
def can_limit_time() -> bool:
    """Whether this process may make a control group."""
    try:
        with _cpu_quota(1.0):
            return True
    except OSError:
        return False


@cache
def can_mount() -> bool:
    """Whether this process may mount something that only its children see."""
    command = [*_in_own_mounts(), "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _in_own_mounts() -> list[str]:
    return ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]


def _little_time(folder: Path) -> Attempt:
    place, expected, _ = _prepare(folder)

    def attempt(rng: random.Random) -> None:
        place.made.unlink(missing_ok=True)
        with _cpu_quota(rng.uniform(0.2, 1.5)) as group:
            surroundings = Surroundings(place.variables(), group=group, limit_s=_LIMIT_S)
            words = place.compile_words("--scheduler", "sequential")
            judge(surroundings.run(words, folder), surroundings)
        _require_right(place.made, expected)

    return attempt


def _little_space(folder: Path) -> Attempt:
    """A full or read-only cache costs time only; without the others, commands may be refused."""
    place, expected, _ = _prepare(folder)
    copy = folder / "copy"

    def attempt(rng: random.Random) -> None:
        which = rng.choice(["cache", "tmp", "out"])
        target = folder / which
        place.made.unlink(missing_ok=True)
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        if rng.randrange(2):
            mount = f"mount -t tmpfs -o size={4 << rng.randrange(12)}k none {target}"
        else:
            mount = f"mount --bind {target} {target} && mount -o remount,bind,ro {target}"
        script = f'{mount} && "$@"; code=$?; cp -r {folder}/out/. {copy}; exit $code'
        prefix = (*_in_own_mounts(), "sh", "-c", script, "sh")
        surroundings = Surroundings(place.variables(), prefix=prefix, limit_s=_LIMIT_S)
        words = place.compile_words("--scheduler", "sequential")
        try:
            judge(surroundings.run(words, folder), surroundings)
        except HiosError as error:
            if which == "cache" or list(copy.iterdir()):
                raise RuntimeError(f"{mount}: {error}; {list(copy.iterdir())}") from error
            raise
        _require_right(copy / "made.hios", expected)

    return attempt


# --- Forks

_RIGHT, _REFUSED, _WRONG = 0, 3, 4  # exit codes of children


def _child(work: str, folder: Path, expected: np.ndarray) -> None:
    """Load or compile in a child, and end with what came of it."""
    artifact = folder / "model.hios"
    try:
        if work == "compile":
            model = load_onnx(folder / "model.onnx")
            artifact = folder / "of-child.hios"
            hios_tvm.compile(model, artifact, scheduler="sequential", verify=False)
        _require_right(artifact, expected)
    except ForeignBytesError:
        os._exit(_WRONG)
    os._exit(_RIGHT)


def _inherited(session: hios_tvm.Session) -> None:
    try:
        session.run(_INPUTS)
    except SessionClosedError:
        os._exit(_RIGHT)
    os._exit(_WRONG)


def _forks(folder: Path) -> Attempt:
    """Children of a process with sessions, some of them in a run."""
    (folder / "model.onnx").write_bytes(attack_network().SerializeToString())
    write_artifact(folder / "model.hios")
    session = hios_tvm.load(folder / "model.hios")
    expected = session.run(_INPUTS)["y"].copy()

    def attempt(rng: random.Random) -> None:
        method = rng.choice(["fork", "spawn"])
        context = multiprocessing.get_context(method)
        targets = [partial(_child, work, folder, expected) for work in ("load", "compile")]
        if method == "fork":
            targets.append(partial(_inherited, session))
        is_over = threading.Event()
        threads = [
            threading.Thread(target=_run_until, args=(session, is_over))
            for _ in range(rng.randrange(3))
        ]
        for thread in threads:
            thread.start()
        try:
            children = [
                context.Process(target=rng.choice(targets)) for _ in range(rng.randrange(1, 3))
            ]
            for child in children:
                child.start()
            for child in children:
                child.join(_LIMIT_S / 3)
                if child.is_alive():
                    child.kill()
                    raise HangError(f"a child of {method} does not end")
                if child.exitcode == _WRONG:
                    raise ForeignBytesError(f"a child of {method} has other outputs")
                if child.exitcode != _RIGHT:
                    raise CrashError(f"a child of {method} has exit code {child.exitcode}")
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        if not np.array_equal(session.run(_INPUTS)["y"], expected):
            raise ForeignBytesError("other outputs in the parent")

    return attempt


def _run_until(session: hios_tvm.Session, is_over: threading.Event) -> None:
    while not is_over.is_set():
        session.run(_INPUTS)


ATTACKS = (
    Attack("processes: compiles that are killed", _killed_compile, 100, limit_s=700),
    Attack("processes: tunes that are killed", _killed_tune, 30, limit_s=1000),
    Attack("processes: compilers of one output and one cache", _several_compilers, 50, 700),
    Attack("processes: forks and spawned children", _forks, 50, limit_s=300),
    *([Attack("processes: a CPU quota", _little_time, 30, 400)] if can_limit_time() else []),
    *(
        [Attack("processes: a full or read-only disk", _little_space, 100, 400)]
        if can_mount()
        else []
    ),
)
"""Those of quotas and disks only where this process may limit time and mount."""
