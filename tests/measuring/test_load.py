"""The work of other processes is told from one's own."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from hios_tvm.measuring import load
from hios_tvm.measuring.load import LoadMeter, load_note

_SPIN = "import time; end = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass"


def test_own_work_and_that_of_children_is_not_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the subtraction, all of it is."""
    own_s = load._own_s()
    meter = LoadMeter()
    with subprocess.Popen([sys.executable, "-c", _SPIN]) as child:
        child.wait()
        subtracted = meter.others()
        monkeypatch.setattr(load, "_own_s", lambda: own_s)
        assert meter.others() > subtracted + 0.1


def test_the_work_of_others_is_counted() -> None:
    """A child that detaches itself is nobody's child."""
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {_SPIN!r}])"
    subprocess.run([sys.executable, "-c", code], check=True)
    meter = LoadMeter()
    time.sleep(0.5)
    assert meter.others() > 0.05


def test_only_a_load_that_matters_is_named() -> None:
    assert load_note(0.02, "the runs") == []
    (note,) = load_note(0.5, "the runs")
    assert "other processes used 50% of the cores during the runs" in note
