"""Processes share sealed memory of equal content, and trust nobody."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hios_tvm.runtime import shared_memory
from hios_tvm.runtime.sealed_memory import SealedMemory
from hios_tvm.runtime.shared_memory import SharedMap

OTHER = """
import sys
from pathlib import Path
from hios_tvm.runtime import shared_memory
from hios_tvm.runtime.sealed_memory import SealedMemory
shared_memory._FOLDER = Path(sys.argv[1])
with SealedMemory("test-shared") as memory:
    memory.write(bytes.fromhex(sys.argv[2]))
    memory.seal()
    shared = shared_memory.SharedMap(memory, "name")
print(*[line.split()[4] for line in open("/proc/self/maps") if "test-shared" in line], flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared_memory, "_FOLDER", tmp_path / "weights")
    return tmp_path / "weights"


def shared(content: bytes, *, seal: bool = True) -> SharedMap:
    with SealedMemory("test-shared") as memory:
        memory.write(content)
        if seal:
            memory.seal()
        return SharedMap(memory, "name")


def inodes() -> list[str]:
    """The memory of this file that is mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split()[4] for line in lines if "test-shared" in line]


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process with the content b"equal"."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, folder, b"equal".hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_processes_share_equal_content(other: subprocess.Popen[str], folder: Path) -> None:
    assert other.stdout is not None
    theirs = other.stdout.readline().split()
    own = shared(b"equal")
    assert own.content[:] == b"equal"
    assert inodes() == theirs
    other.kill()
    other.wait()
    assert own.content[:] == b"equal"
    again = shared(b"equal")  # a copy of its own, as nobody can be asked for the first one
    assert (folder / "name").exists()
    del own, again
    gc.collect()
    assert not list(folder.iterdir())


def test_another_content_of_the_name_is_not_used(folder: Path) -> None:
    first, second = shared(b"first"), shared(b"other")
    assert (first.content[:], second.content[:]) == (b"first", b"other")
    del first
    gc.collect()
    assert (folder / "name").exists()  # the second one's


def test_memory_that_can_still_be_written_is_not_used() -> None:
    open_to_all = shared(b"equal", seal=False)
    own = shared(b"equal")
    assert len(set(inodes())) == 2
    del open_to_all, own


def test_links_to_something_else_are_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(0o700)
    (tmp_path / "file").write_bytes(b"equal")
    os.mkfifo(tmp_path / "pipe")
    for target in ("file", "pipe", "missing"):
        (folder / "name").unlink(missing_ok=True)
        (folder / "name").symlink_to(tmp_path / target)
        own = shared(b"equal")
        assert own.content[:] == b"equal"
        assert len(inodes()) == 1
        del own
        gc.collect()


def test_a_folder_of_others_is_not_used(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    own = shared(b"equal")
    assert own.content[:] == b"equal"
    assert not list(folder.iterdir())
