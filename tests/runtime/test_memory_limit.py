"""Sizes that are compared with the memory that this process may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from hios_tvm.errors import MemoryLimitError
from hios_tvm.runtime import memory_limit as module
from hios_tvm.runtime.memory_limit import check_memory, free_memory, memory_limit


def test_what_fits_is_allowed_and_what_does_not_is_refused() -> None:
    check_memory(free_memory() // 2, "a model")
    with pytest.raises(MemoryLimitError, match=r"a model needs .* GiB of memory, and .* are free"):
        check_memory(2 * free_memory(), "a model")


def test_a_limit_counts_what_the_process_has_already() -> None:
    with memory_limit(1 << 40):
        check_memory(1 << 39, "a model")
        with memory_limit(1 << 20), pytest.raises(MemoryLimitError, match=r"of the limit of 0.0"):
            check_memory(1 << 20, "a model")


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    assert module._free_in_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\n")
    assert module._free_in_container(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert module._free_in_container(tmp_path) is None
