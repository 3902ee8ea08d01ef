"""The n-th call of a function of the C library fails, for every n: one clear error, no leak."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hand_made import HandMade

FUNCTIONS = (
    *("pread64", "write", "memfd_create", "mmap64"),
    *("pthread_create", "dlopen", "mkdir", "symlink", "malloc"),
)
_FOLDER = Path(__file__).parent
_ADDRESSES = """
import sys
import numpy as np
from failing_calls import Calls
from hios_tvm.runtime.memory import address_of
array = np.frombuffer(bytes(64), np.uint8)  # which nobody can write
address = address_of(array)
calls, tries, refused = Calls(sys.argv[1], "malloc"), 0, 0
while calls.left <= 0:
    tries += 1
    calls.left = tries
    try:
        with calls.failing():
            assert address_of(array) == address
    except (MemoryError, SystemError):
        refused += 1
print(tries, refused)
"""


@pytest.fixture(scope="module")
def failing_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tmp_path_factory.mktemp("calls") / "failing_calls.so"
    source = _FOLDER / "failing_calls.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", source, "-o", result, "-ldl"], check=True)
    return result


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_call_fails_once(function: str, failing_calls: Path, hand_made: HandMade) -> None:
    step = "10" if function == "malloc" else "1"  # of more than 200
    words = [str(failing_calls), "load", function, step]
    result = subprocess.run(
        [sys.executable, _FOLDER / "failing_calls.py", *words, hand_made.path, *hand_made.devices],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(failing_calls), "TVM_USE_RUNTIME_LIB": "1"},
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    calls, tries, refused, defects = (int(w) for w in result.stdout.split() if w.isdigit())
    assert 1 <= refused <= tries <= calls
    assert defects == 0


def test_an_address_without_memory_is_an_error(failing_calls: Path) -> None:
    """NumPy's __array_interface__ ends the process there."""
    result = subprocess.run(
        [sys.executable, "-c", _ADDRESSES, failing_calls],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LD_PRELOAD": str(failing_calls),
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": os.pathsep.join([*sys.path, str(_FOLDER)]),
        },
    )
    assert (result.returncode, result.stderr) == (0, "")
    tries, refused = map(int, result.stdout.split())
    assert 2 <= refused < tries
