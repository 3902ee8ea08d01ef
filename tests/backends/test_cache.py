"""The cache of measurements: shared, lasting, and clear when it cannot be used."""

from __future__ import annotations

import resource
import stat
import threading
from pathlib import Path

import pytest

from hios_tvm.backends.cache import CostCache
from hios_tvm.compiled_code import _is_usable, kept_code
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


def test_a_folder_that_cannot_be_made_or_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = CostCache(tmp_path / "file" / "folder")
    cache.put({"a": Measurement(1.0)})
    assert cache.get(["a"]) == {}
    assert kept_code(tmp_path / "file" / "folder", "k.o", lambda: b"code") == b"code"
    assert "costs are not kept" in caplog.text
    assert "compiled code is neither read nor kept" in caplog.text
    assert "--cost-cache" in caplog.text


def kept(folder: Path, made: list[str], name: str = "k.o") -> bytes:
    def make() -> bytes:
        made.append(name)
        return f"code of {name}".encode()

    return kept_code(folder, name, make)


def test_code_is_made_once_and_again_where_its_file_is_damaged(tmp_path: Path) -> None:
    made: list[str] = []
    folder = tmp_path / "kernels"
    assert kept(folder, made) == kept(folder, made) == b"code of k.o"
    assert made == ["k.o"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    whole = (folder / "k.o").read_bytes()
    other = kept(folder, made, "other.o")
    for damaged in (b"", whole[:-1], whole[:20], other, (folder / "other.o").read_bytes()):
        made.clear()
        (folder / "k.o").write_bytes(damaged)
        assert kept(folder, made) == b"code of k.o"
        assert made == ["k.o"]


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_code_that_others_may_have_written_is_not_used(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[str] = []
    folder = tmp_path / f"kernels{mode}"
    kept(folder, made)
    folder.chmod(mode)
    _is_usable.cache_clear()
    assert kept(folder, made) == b"code of k.o"
    assert made == ["k.o", "k.o"]
    assert "other users may write in" in caplog.text


def test_a_file_that_cannot_be_written_whole_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a full disk; here the system allows no file of more than 20 bytes."""
    made: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        assert kept(tmp_path / "kernels", made) == b"code of k.o"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "compiled code is not kept: " in caplog.text
    assert list((tmp_path / "kernels").iterdir()) == []
