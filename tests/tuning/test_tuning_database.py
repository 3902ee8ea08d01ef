"""The database of trials: lasting, shared, and clear when it cannot be used."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hios_tvm.backends.cpu.tuning_database import (
    LEAST_GAIN,
    Subject,
    Trial,
    TunedKernel,
    TuningDatabase,
)
from hios_tvm.errors import CostError, UsageError

SUBJECT = Subject("abc", "some target", 2)
TUNED = TunedKernel("[]", 1.0, 2.0, "def", 3, "a machine")


def test_trials_are_kept_in_order_and_by_kernel_and_threads(tmp_path: Path) -> None:
    trials = [Trial(f"[{i}]", i / 7) for i in range(5)] + [Trial("[5]", None, "crashed")]
    database = TuningDatabase(tmp_path / "new" / "folder", create=True)
    for trial in trials:
        database.add_trial(SUBJECT, trial)
    again = TuningDatabase(tmp_path / "new" / "folder")
    assert again.trials(SUBJECT) == trials
    assert again.trials(replace(SUBJECT, threads=1)) == []
    assert again.trials(replace(SUBJECT, kernel="abd")) == []


def test_a_newer_best_candidate_replaces_the_older_one(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path, create=True)
    assert database.tuned(SUBJECT) is None
    database.put_tuned(SUBJECT, TUNED)
    database.put_tuned(SUBJECT, replace(TUNED, ms=0.5))
    assert database.tuned(SUBJECT) == replace(TUNED, ms=0.5)
    assert database.tuned_for() == [("some target", 2)]


def test_a_gain_within_the_noise_is_none() -> None:
    assert replace(TUNED, ms=(1 - 2 * LEAST_GAIN) * 2.0).wins
    assert not replace(TUNED, ms=(1 - LEAST_GAIN / 2) * 2.0).wins
    assert not replace(TUNED, ms=3.0).wins


def test_a_killed_writer_leaves_whole_trials(tmp_path: Path) -> None:
    TuningDatabase(tmp_path, create=True)
    program = (
        "import sys; from pathlib import Path\n"
        "from hios_tvm.backends.cpu.tuning_database import *\n"
        "database = TuningDatabase(Path(sys.argv[1]), create=True)\n"
        "i = 0\n"
        "while True:\n"
        "    database.add_trial(Subject('abc', 't', 2), Trial(f'[{i}]' * 1000, 1.0)); i += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    while len(TuningDatabase(tmp_path).trials(SUBJECT)) < 20:
        assert writer.poll() is None
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    trials = TuningDatabase(tmp_path, create=True).trials(SUBJECT)
    assert [trial.trace for trial in trials] == [f"[{i}]" * 1000 for i in range(len(trials))]


@pytest.mark.parametrize("part", ["header", "page", "end"])
def test_a_damaged_database_names_the_file_and_the_way_out(tmp_path: Path, part: str) -> None:
    database = TuningDatabase(tmp_path, create=True)
    for i in range(200):
        database.add_trial(SUBJECT, Trial(f"[{i}]" * 100, 1.0))
    content = bytearray(database.path.read_bytes())
    if part == "header":
        content[:100] = b"x" * 100
    elif part == "page":
        content[8192:12288] = b"\xff" * 4096
    else:
        del content[-5000:]
    database.path.write_bytes(content)
    with pytest.raises(CostError, match=r"tuning-2\.sqlite3 is damaged.*remove the file"):
        TuningDatabase(tmp_path)


def test_a_database_without_its_tables_is_one_clear_error(tmp_path: Path) -> None:
    path = TuningDatabase(tmp_path, create=True).path
    with sqlite3.connect(path) as connection:
        connection.execute("drop table trial")
    connection.close()
    with pytest.raises(UsageError, match="no such table"):
        TuningDatabase(tmp_path).trials(SUBJECT)


def test_reading_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no tuning database.*hios-tvm tune"):
        TuningDatabase(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_database_of_another_version_is_named_with_the_command_that_makes_a_new_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "tuning-1.sqlite3").write_bytes(b"")
    message = rf"of version 2, but tuning-1\.sqlite3; .*hios-tvm tune MODEL --database {tmp_path}$"
    with pytest.raises(UsageError, match=message):
        TuningDatabase(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make the folder"):
        TuningDatabase(tmp_path / "file" / "folder", create=True)
