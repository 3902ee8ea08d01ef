"""The library of the checks is compiled once, and what went wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from hios_tvm.errors import CompileError
from hios_tvm.runtime import checks_library


def test_a_library_is_found_in_the_cache_of_other_processes(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks_library.load_checks()
    (kept,) = (cache / "checks").iterdir()
    monkeypatch.setattr(checks_library, "_compile", lambda: pytest.fail("compiled again"))
    assert kept.read_bytes().endswith(checks_library.kept_checks())


def test_without_a_compiler_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-compiler")
    with pytest.raises(
        CompileError, match=r"once: .*'no-compiler' was not found.*hios-tvm-runtime"
    ):
        checks_library.kept_checks()
