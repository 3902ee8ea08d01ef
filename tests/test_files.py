"""Files that are whole or not there, and what is left of killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hios_tvm.files import (
    _sweep_folders,
    atomic_write,
    private_folder,
    temporary_file,
    temporary_folder,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from hios_tvm.files import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED_IN_FOLDER = """
import os, signal
from hios_tvm.files import temporary_folder
with temporary_folder() as folder:
    (folder / "kernel.o").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.hios"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write(b"new")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.hios"]


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "model.hios"
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    other = tmp_path / ".model.hios.keep"
    other.touch()
    long_ago = time.time() - 3600
    with temporary_file(path) as used:
        for file in (left, other, Path(used.name)):
            os.utime(file, (long_ago, long_ago))
        with atomic_write(path) as file:
            file.write(b"new")
        assert {*tmp_path.iterdir()} == {path, other, Path(used.name)}


def test_folders_of_killed_processes_are_removed_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", KILLED_IN_FOLDER], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    of_others = tmp_path / "hios-projects"
    of_others.mkdir()
    _sweep_folders.cache_clear()
    with temporary_folder() as used:
        assert {*tmp_path.iterdir()} == {left, of_others, used}  # it may be in use
        long_ago = time.time() - 3600
        for mark in tmp_path.glob("*/*"):
            os.utime(mark, (long_ago, long_ago))
        _sweep_folders.cache_clear()
        with temporary_folder() as other:
            assert {*tmp_path.iterdir()} == {of_others, used, other}
    assert {*tmp_path.iterdir()} == {of_others}


def test_folders_that_others_may_write_to_are_refused(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a" / "private")
    assert private_folder(folder) == folder
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(PermissionError, match="other users may replace"):
        private_folder(folder)
