from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cpu import claims
from hios_tvm.runtime.devices.cpu.claims import claim_cores

CORE = 100_000  # no real one, so that other tests are left alone
OTHER = """
import sys
from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cpu.claims import claim_cores
try:
    claim = claim_cores([int(sys.argv[1])], exclusive=sys.argv[2] == "exclusive")
    print("claimed", flush=True)
except DeviceError as error:
    print(error, flush=True)
sys.stdin.readline()
"""


@contextmanager
def other_process(kind: str) -> Iterator[tuple[str, int]]:
    """Yield what another process says to its claim, and its number; it holds until the end."""
    arguments = [sys.executable, "-c", OTHER, str(CORE), kind]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.kill()  # as a crash would


def test_a_core_in_use_is_named_with_its_user(caplog: pytest.LogCaptureFixture) -> None:
    with other_process("shared") as (answer, pid):
        assert answer == "claimed"
        with caplog.at_level(logging.WARNING, "hios_tvm"):
            claim_cores([CORE]).release()
            first, second = claim_cores([CORE]), claim_cores([CORE])
        assert len(caplog.messages) == 1  # once for this process
        assert f"core {CORE} is also used by process {pid}" in caplog.messages[0]
        first.release()
        second.release()
        with pytest.raises(DeviceError, match=f"used by process {pid}, and the new session wants"):
            claim_cores([CORE, CORE + 1], exclusive=True)
    claim_cores([CORE, CORE + 1], exclusive=True).release()  # the other one is gone


def test_a_core_can_be_had_alone() -> None:
    with other_process("exclusive") as (answer, pid):
        assert answer == "claimed"
        for exclusive in (False, True):
            with pytest.raises(DeviceError, match=f"core {CORE} is used by process {pid}"):
                claim_cores([CORE], exclusive=exclusive)


def test_sessions_of_one_process_share(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hios_tvm"):
        alone, shared = claim_cores([CORE], exclusive=True), claim_cores([CORE])
    assert caplog.messages == []
    with other_process("shared") as (answer, _):
        assert f"core {CORE} is used by process {os.getpid()}, and that process" in answer
    alone.release()
    alone.release()  # twice is fine
    with other_process("shared") as (answer, _):
        assert answer == "claimed"
    with other_process("exclusive") as (answer, _):
        assert f"used by process {os.getpid()}" in answer
    shared.release()
    with other_process("exclusive") as (answer, _):
        assert answer == "claimed"


def test_a_forked_child_has_claims_of_its_own() -> None:
    claim = claim_cores([CORE])
    child = os.fork()
    if child == 0:
        claim.release()  # the parent's
        try:
            claim_cores([CORE], exclusive=True)
        except DeviceError:
            claim_cores([CORE + 1], exclusive=True)
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with other_process("exclusive") as (answer, _):
        assert f"used by process {os.getpid()}" in answer
    claim.release()


def test_claims_are_given_back_where_memory_ends_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "_CLAIMS", claims._Claims())
    used, lock = claims._CLAIMS.used, claims._lock
    fails: set[int] = set()

    def lock_or_fail(descriptor: int, core: int) -> None:
        if core in fails:
            fails.remove(core)
            raise MemoryError
        lock(descriptor, core)

    monkeypatch.setattr(claims, "_lock", lock_or_fail)
    fails.add(CORE + 1)
    with pytest.raises(MemoryError):
        claim_cores([CORE, CORE + 1])
    assert not any(used.values())
    claim = claim_cores([CORE, CORE + 1])
    fails.add(CORE)
    with pytest.raises(MemoryError):
        claim.release()
    claim.release()
    assert [*used.values()] == [0, 0]


def test_without_shared_memory_only_exclusive_claims_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_PATH", "/nowhere/cores")
    monkeypatch.setattr(claims, "_CLAIMS", claims._Claims())
    claim_cores([CORE]).release()
    with pytest.raises(DeviceError, match=r"/nowhere/cores is not this user's alone"):
        claim_cores([CORE], exclusive=True)


def test_a_file_that_another_user_could_open_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cores"
    path.touch()
    path.chmod(0o666)
    monkeypatch.setattr(claims, "_PATH", str(path))
    monkeypatch.setattr(claims, "_CLAIMS", claims._Claims())
    claim_cores([CORE]).release()
    with pytest.raises(DeviceError, match=r"is not this user's alone"):
        claim_cores([CORE], exclusive=True)
