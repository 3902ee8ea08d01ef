"""Files that are whole or not there, and what is left of killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hios_tvm.files import atomic_write, private_folder, temporary_file

KILLED = """
import os, signal, sys
from pathlib import Path
from hios_tvm.files import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
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


def test_folders_that_others_may_write_to_are_refused(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a" / "private")
    assert private_folder(folder) == folder
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(PermissionError, match="other users may replace"):
        private_folder(folder)
