"""The cache of measurements: shared, lasting, and clear when it cannot be used."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hios_tvm.backends.cache import CostCache
from hios_tvm.errors import CostError
from hios_tvm.schema.costs import Measurement


def test_what_is_put_is_found_by_another_process_of_the_same_folder(tmp_path: Path) -> None:
    measured = {f"kernel {i}": Measurement(i / 7, 0.1, 5, "measured") for i in range(1200)}
    CostCache(tmp_path).put(measured)
    assert CostCache(tmp_path).get([*measured, "unknown"]) == measured


def test_a_newer_measurement_replaces_the_older_one(tmp_path: Path) -> None:
    cache = CostCache(tmp_path)
    cache.put({"a": Measurement(1.0)})
    cache.put({"a": Measurement(2.0)})
    assert cache.get(["a"]) == {"a": Measurement(2.0)}


def test_threads_may_write_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for i in range(20):
            CostCache(tmp_path).put({f"{number} {i}": Measurement(1.0)})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [f"{number} {i}" for number in range(4) for i in range(20)]
    assert len(CostCache(tmp_path).get(keys)) == 80


def test_a_damaged_database_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    path = CostCache(tmp_path).path
    path.write_bytes(b"no database, but long enough to be read as one" * 100)
    with pytest.raises(CostError, match=r"costs-1\.sqlite3.*remove the file"):
        CostCache(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CostError, match="--cost-cache"):
        CostCache(tmp_path / "file" / "folder")
